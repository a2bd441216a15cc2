"""A release opened for checking: its files, read on demand."""

from __future__ import annotations

import sqlite3
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import (
    ArchiveError,
    DatabaseFileError,
    ReleaseError,
    StashSenseError,
)
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.foundation.sqlite_file import (
    check_objects,
    open_read_only,
    run_checks,
    time_allowed,
)
from stash_sense_pipeline.foundation.zip_file import OpenedZip, room_for
from stash_sense_pipeline.release.build.archive import INDEX_SLACK, MAX_BYTES_A_VECTOR, MAX_ROWS
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.contract import (
    FACES_JSON,
    INDEX_FILES,
    PERFORMERS_DB,
    PERFORMERS_JSON,
    REQUIRED_MODELS,
    TABLES,
    TATTOO_INDEX,
    TATTOO_JSON,
)


def unpack(archive: OpenedZip, directory: Path) -> None:
    """Unpacks every file of a checked archive into an empty directory. ArchiveError when it is damaged."""
    for name in archive.sizes:
        archive.extract(name, directory / name)


@contextmanager
def room_to_unpack(archive: OpenedZip, path: Path) -> Iterator[Path]:
    """A temporary directory on a disk with room for the archive at `path`. ArchiveError when no disk has room."""
    needed = sum(archive.sizes.values())
    root = room_for(needed, [Path(tempfile.gettempdir()), path.resolve().parent])
    if root is None:
        raise ArchiveError(
            f"no room for {needed} bytes in {tempfile.gettempdir()}; free disk space, or verify the unpacked directory"
        )
    with tempfile.TemporaryDirectory(dir=root, prefix=".stash-sense-verify-") as directory:
        yield Path(directory)


@contextmanager
def open_database(release: Path, *, deadline: float | None = None) -> Iterator[sqlite3.Connection]:
    """Opens the performers.db of a release directory for reading, after a check of its objects.

    Raises DatabaseFileError when it holds anything but the tables of the contract and their indexes, when it is
    damaged, or when a query runs past `deadline`; OSError when the file cannot be read.
    """
    with open_read_only(release / PERFORMERS_DB, deadline=deadline) as connection:
        check_objects(connection, TABLES)
        yield connection


class OpenedRelease:
    """The files of a release directory, each read once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._refused: dict[str, str] = {}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json. ReleaseError as read_manifest."""
        return read_manifest(self.directory)

    @cached_property
    def faces(self) -> list[Any]:
        """The entries of faces.json. ValueError when it is not a list."""
        value = self.json(FACES_JSON)
        if not isinstance(value, list):
            raise ValueError(f"{FACES_JSON} is not a list")
        return value

    @cached_property
    def performers(self) -> dict[str, dict[str, Any]]:
        """The entries of performers.json. ValueError when it is not an object."""
        value = self.json(PERFORMERS_JSON)
        if not isinstance(value, dict):
            raise ValueError(f"{PERFORMERS_JSON} is not an object")
        return value

    @property
    def models(self) -> tuple[str, ...]:
        """The required embedders, and the optional ones with an index in the release."""
        return tuple(
            model
            for model, file in INDEX_FILES.items()
            if model in REQUIRED_MODELS or (self.directory / file).exists()
        )

    def json(self, name: str) -> Any:
        """The content of a JSON file. ValueError when it cannot be read; a second call does not try again."""
        if name not in self._refused:
            try:
                return read_json(self.directory / name, LARGE)
            except OSError as error:
                self._refused[name] = f"cannot read {name}: {error.strerror}"
            except ValueError as error:
                self._refused[name] = f"cannot read {name}: {error}"
        raise ValueError(self._refused[name])

    def check_index_sizes(self) -> None:
        """Raises ValueError when an index has more bytes than the entries of its JSON file can need."""
        listed = dict.fromkeys(INDEX_FILES.values(), FACES_JSON) | {TATTOO_INDEX: TATTOO_JSON}
        for name, entries in listed.items():
            path = self.directory / name
            size = path.stat().st_size if path.is_file() else 0
            if size <= INDEX_SLACK:
                continue
            count = self._count(entries)
            if size > INDEX_SLACK + count * MAX_BYTES_A_VECTOR:
                raise ValueError(f"{name} has {size} bytes, too many for the {count} entries of {entries}")

    def _count(self, name: str) -> int:
        try:
            entries = self.faces if name == FACES_JSON else self.json(name)
        except ValueError:
            return 0
        return len(entries) if isinstance(entries, list) else 0

    @cached_property
    def _deadline(self) -> float:
        """The monotonic time at which all checks of the database must have ended."""
        return time.monotonic() + time_allowed((self.directory / PERFORMERS_DB).stat().st_size)

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """performers.db, opened by open_database. ValueError when there is no such file."""
        path = self.directory / PERFORMERS_DB
        if not path.exists():
            raise ValueError(f"there is no {PERFORMERS_DB}")
        with open_database(self.directory, deadline=self._deadline) as connection:
            yield connection

    def check_database(self) -> None:
        """Raises DatabaseFileError when SQLite finds damage in performers.db, or when a table has too many rows."""
        with self.database() as connection:
            run_checks(connection, TABLES, MAX_ROWS)


# The errors that damaged bytes can cause. Any other exception is a bug and is not caught.
DAMAGE = (
    ReleaseError,
    ArchiveError,
    DatabaseFileError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    AttributeError,
    EOFError,
    sqlite3.Error,
    struct.error,
)


MAX_DETAIL = 500


# A check counts no more examples than this.
MAX_EXAMPLES = 1000


def one_line(error: BaseException) -> str:
    """The error's text in one line, with the name of its type where the text alone says too little."""
    # The text of a KeyError, for one, is only the key.
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, (ValueError, StashSenseError)) and text
        else f"{type(error).__name__}: {text}"
    )


def refuse_examples(examples: Sequence[object], what: str) -> None:
    """Raises ValueError with the first example and the number of the others, when there are examples."""
    if examples:
        more = f" and {len(examples) - 1} more" if len(examples) > 1 else ""
        raise ValueError(f"{what}: {examples[0]}{more}")


class Checks:
    """Results of checks, in the order in which they ran."""

    def __init__(self) -> None:
        self.results: list[CheckResult] = []

    def add(self, name: str, passed: bool, detail: str, severity: Severity = Severity.ERROR) -> None:
        """Adds a result."""
        # A release may contain a text of any length.
        detail = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}…"
        self.results.append(CheckResult(name, passed, detail, severity))

    def run(
        self, name: str, check: Callable[..., str], *arguments: Any, severity: Severity = Severity.ERROR
    ) -> bool:
        """Runs a check, which returns its finding or raises an error. True when it passed."""
        try:
            detail = check(*arguments)
        except DAMAGE as error:
            self.add(name, False, one_line(error), severity)
            return False
        self.add(name, True, detail, severity)
        return True
