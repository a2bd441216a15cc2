"""Removes erased people from staged files, reports and logs."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.foundation.files import make_directory, private_opener, write_atomically
from stash_sense_pipeline.foundation.tables.html_writer import texts_of_lines
from stash_sense_pipeline.privacy.redaction.mentions import ERASED, mentions

# Folders below DATA_DIR with texts about people. In releases/ only files beside a release are redacted: the files of a
# published release never change, and `releases revoke` removes the whole release.
_TEXT_DIRECTORIES = ("review", "reports", "logs")
_TEXTS = frozenset({".md", ".csv", ".json", ".jsonl", ".txt", ".log", ".html", ".out", ".err"})
_BESIDE_RELEASES = ("*", "*.report/**/*")
# Output of steps, below DAGSTER_HOME where that is in DATA_DIR. It should not name a person; searched in case it does.
_PRINTED = "dagster/storage/*/compute_logs/*"
_STAGINGS = ("staging", "sense2/.staged")
# Files that a killed writer left: see files.replacing.
_UNFINISHED = ".*.tmp"
# Longer than any writer of a file beside the releases takes.
_UNFINISHED_SECONDS = 3_600
_LOCK = ".texts.lock"


@dataclass(frozen=True)
class TraceReport:
    """How many staged runs, and lines of reports and logs, were removed."""

    staged_runs: int = 0
    lines: int = 0


@contextmanager
def texts_locked(data_dir: Path) -> Iterator[None]:
    """Holds the lock of texts about people below DATA_DIR, for writing them and for erasing people from them.

    A writer takes it before it reads the catalog. An erasure holds it from before it searches the texts until its
    commit: otherwise a writer that read the catalog before the commit would write the names after it. An erasure takes
    it inside its transaction, so that a writer must not write to the catalog while it holds it.
    """
    make_directory(data_dir)
    with open(data_dir / _LOCK, "a", opener=private_opener) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def erase_traces(data_dir: Path, texts: Sequence[str], *, staged: bool) -> TraceReport:
    """Blanks each line of reports and logs that contains one of `texts`, in any case and escaping.

    With `staged`, the staged files of a release are removed too. A blanked line may mention other people as well: the
    next run writes the reports anew. Unfinished files of killed writers are removed. The caller holds texts_locked until
    its commit.
    """
    runs = sum(_discard(data_dir / name) for name in _STAGINGS) if staged else 0
    if not texts:
        return TraceReport(runs)
    _remove_unfinished(data_dir)
    speaks_of = mentions(texts)
    return TraceReport(runs, sum(_blank(path, speaks_of) for path in _reports(data_dir)))


def _remove_unfinished(data_dir: Path) -> None:
    for name in _TEXT_DIRECTORIES:
        for path in (data_dir / name).rglob(_UNFINISHED):
            path.unlink(missing_ok=True)
    now = time.time()
    for path in (data_dir / "releases").glob(_UNFINISHED):
        with suppress(FileNotFoundError):
            if now - path.lstat().st_mtime > _UNFINISHED_SECONDS:
                path.unlink()


def _reports(data_dir: Path) -> Iterator[Path]:
    for name in _TEXT_DIRECTORIES:
        yield from (path for path in sorted((data_dir / name).rglob("*")) if _is_text(path))
    yield from (path for path in sorted(data_dir.glob(_PRINTED)) if _is_text(path))
    for pattern in _BESIDE_RELEASES:
        yield from (path for path in sorted((data_dir / "releases").glob(pattern)) if _is_text(path))


def _is_text(path: Path) -> bool:
    return path.suffix in _TEXTS and path.is_file() and not path.is_symlink()


def _blank(path: Path, speaks_of: Callable[[str], bool]) -> int:
    lines = path.read_text(errors="replace").splitlines()
    # A person may have the name of an element of HTML. A page without that element is no page.
    texts = texts_of_lines(lines) if path.suffix == ".html" else lines
    hits = [number for number, text in enumerate(texts) if speaks_of(text)]
    for number in hits:
        lines[number] = ERASED
    if hits and path.suffix == ".json":
        # A blanked line would make the JSON invalid: the file is deleted, and the next run writes it again.
        path.unlink()
    elif hits:
        write_atomically(path, "\n".join(lines) + "\n", mode=path.stat().st_mode & 0o777)
    return len(hits)


def _discard(staging: Path) -> int:
    runs = sorted(staging.iterdir()) if staging.is_dir() else []
    for run in runs:
        gone = run.with_name(f".{run.name}.erased")
        shutil.rmtree(gone, ignore_errors=True)
        # Renamed first, in one step: a publish that writes there fails, and cannot write removed files again.
        with suppress(FileNotFoundError):
            run.rename(gone)
            shutil.rmtree(gone)
    return len(runs)
