"""What was written about erased people outside the catalog: staged files, reports, logs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.files import write_atomically

# Where the program writes texts about people, below DATA_DIR. In releases/ only what lies beside a release: the
# files of a published release are never changed, `releases revoke` removes it.
_TEXT_DIRECTORIES = ("review", "reports", "logs")
_TEXTS = frozenset({".md", ".csv", ".json", ".jsonl", ".txt", ".log", ".html"})
_BESIDE_RELEASES = ("*", "*.report/**/*")
_STAGING = "staging"
_ERASED = "(erased)"
# A shorter one is in every line.
_SHORTEST = 3


@dataclass(frozen=True)
class TraceReport:
    """What was removed outside the catalog: staged runs, and lines of reports and logs."""

    staged_runs: int = 0
    lines: int = 0


def erase_traces(data_dir: Path, texts: Sequence[str], *, staged: bool) -> TraceReport:
    """Blanks each line of our reports and logs that holds one of `texts`, in any case; with `staged` removes
    what is staged for a release. A line may speak of others as well: reports are made anew with the next run.
    """
    runs = _discard(data_dir / _STAGING) if staged else 0
    wanted = [re.escape(text) for text in texts if len(text) >= _SHORTEST]
    if not wanted:
        return TraceReport(runs)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(wanted)})(?!\w)", re.IGNORECASE)
    return TraceReport(runs, sum(_blank(path, pattern) for path in _reports(data_dir)))


def _reports(data_dir: Path) -> Iterator[Path]:
    for name in _TEXT_DIRECTORIES:
        yield from (path for path in sorted((data_dir / name).rglob("*")) if _is_text(path))
    for pattern in _BESIDE_RELEASES:
        yield from (path for path in sorted((data_dir / "releases").glob(pattern)) if _is_text(path))


def _is_text(path: Path) -> bool:
    return path.suffix in _TEXTS and path.is_file() and not path.is_symlink()


def _blank(path: Path, pattern: re.Pattern[str]) -> int:
    lines = path.read_text(errors="replace").splitlines()
    hits = [number for number, line in enumerate(lines) if pattern.search(line)]
    for number in hits:
        lines[number] = _ERASED
    if hits and path.suffix == ".json":
        # Without the line it would not be JSON; it is made anew with the next run.
        path.unlink()
    elif hits:
        write_atomically(path, "\n".join(lines) + "\n", mode=path.stat().st_mode & 0o777)
    return len(hits)


def _discard(staging: Path) -> int:
    runs = sorted(staging.iterdir()) if staging.is_dir() else []
    for run in runs:
        shutil.rmtree(run)
    return len(runs)
