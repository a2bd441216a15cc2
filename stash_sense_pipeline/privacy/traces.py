"""What was written about erased people outside the catalog: staged files, reports, logs."""

from __future__ import annotations

import html
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.files import write_atomically

# Where the program writes texts about people, below DATA_DIR. In releases/ only what lies beside a release: the
# files of a published release are never changed, `releases revoke` removes it.
_TEXT_DIRECTORIES = ("review", "reports", "logs")
_TEXTS = frozenset({".md", ".csv", ".json", ".jsonl", ".txt", ".log", ".html"})
_BESIDE_RELEASES = ("*", "*.report/**/*")
_STAGING = "staging"
# Stands where somebody who has left was named.
ERASED = "(erased)"
# A shorter one is in every line, where a name in another script may be one character.
_SHORTEST = 3
_WORD = re.compile(r"\w+")


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
    if not texts:
        return TraceReport(runs)
    speaks_of = _search_for(texts)
    return TraceReport(runs, sum(_blank(path, speaks_of) for path in _reports(data_dir)))


def _search_for(texts: Sequence[str]) -> Callable[[str], bool]:
    """Whether a line holds one of `texts` as whole words.

    Each is looked for only in lines that have the rarest of its words: one pattern of the texts of ten thousand
    people would take minutes a megabyte.
    """
    wanted = {_as_compared(text) for text in texts}
    words_of = {
        text: _WORD.findall(text)
        for text in wanted
        if text and (len(text) >= _SHORTEST or not text.isascii())
    }
    counts = Counter(word for words in words_of.values() for word in words)
    by_word: defaultdict[str, list[str]] = defaultdict(list)
    for text, words in words_of.items():
        # One without a word is looked for in every line.
        by_word[min(words, key=counts.__getitem__, default="")].append(text)

    def speaks_of(line: str) -> bool:
        compared = _as_compared(line)
        return any(
            re.search(rf"(?<!\w){re.escape(text)}(?!\w)", compared)
            for word in {"", *_WORD.findall(compared)}
            for text in by_word.get(word, ())
        )

    return speaks_of


def _as_compared(text: str) -> str:
    """Without case, and without what our reports do to a text: entities resolved, bars and quotes written otherwise."""
    plain = html.unescape(text).replace("\\|", "/").replace("|", "/").replace('""', '"')
    return " ".join(plain.split()).casefold()


def _reports(data_dir: Path) -> Iterator[Path]:
    for name in _TEXT_DIRECTORIES:
        yield from (path for path in sorted((data_dir / name).rglob("*")) if _is_text(path))
    for pattern in _BESIDE_RELEASES:
        yield from (path for path in sorted((data_dir / "releases").glob(pattern)) if _is_text(path))


def _is_text(path: Path) -> bool:
    return path.suffix in _TEXTS and path.is_file() and not path.is_symlink()


def _blank(path: Path, speaks_of: Callable[[str], bool]) -> int:
    lines = path.read_text(errors="replace").splitlines()
    hits = [number for number, line in enumerate(lines) if speaks_of(line)]
    for number in hits:
        lines[number] = ERASED
    if hits and path.suffix == ".json":
        # Without the line it would not be JSON; it is made anew with the next run.
        path.unlink()
    elif hits:
        write_atomically(path, "\n".join(lines) + "\n", mode=path.stat().st_mode & 0o777)
    return len(hits)


def _discard(staging: Path) -> int:
    runs = sorted(staging.iterdir()) if staging.is_dir() else []
    for run in runs:
        gone = run.with_name(f".{run.name}.erased")
        shutil.rmtree(gone, ignore_errors=True)
        # At once, so that a publish which is at work there ends, and cannot write what is removed.
        with suppress(FileNotFoundError):
            run.rename(gone)
            shutil.rmtree(gone)
    return len(runs)
