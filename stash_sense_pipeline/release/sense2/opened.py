"""The files of a sense2 release, opened for checking: each read on demand and once, within limits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.json_file import LARGE, SMALL, read_json
from stash_sense_pipeline.foundation.sqlite_file import (
    check_objects,
    open_read_only,
    run_checks,
    time_allowed,
)
from stash_sense_pipeline.foundation.zip_file import ZipLimits
from stash_sense_pipeline.release.build.archive import MAX_RELEASE_BYTES, MAX_ROWS
from stash_sense_pipeline.release.sense2.contract import (
    DELTA_DB,
    DELTA_MANIFEST,
    DELTA_TABLES,
    INDEX,
    MANIFEST,
    PERFORMERS_DB,
    TABLES,
)
from stash_sense_pipeline.release.sense2.index_file import IndexFile, read_index

# The contract has eight files; a check names any others.
ZIP_LIMITS = ZipLimits(entries=64, size=MAX_RELEASE_BYTES, ratio=20)


class OpenedFiles:
    """A directory with the files of one zip. Each read of a file that cannot be read raises ValueError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._read: dict[str, Any] = {}
        self._refused: dict[str, str] = {}

    def json(self, name: str) -> Any:
        """The content of a JSON file."""
        if name in self._refused:
            raise ValueError(self._refused[name])
        if name not in self._read:
            limits = SMALL if name in (MANIFEST, DELTA_MANIFEST) else LARGE
            try:
                self._read[name] = read_json(self.directory / name, limits)
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                self._refused[name] = f"cannot read {name}: {why}"
                raise ValueError(self._refused[name]) from error
        return self._read[name]

    def json_object(self, name: str) -> dict[str, Any]:
        """The content of a JSON file that must be an object."""
        value = self.json(name)
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object")
        return value

    def json_list(self, name: str) -> list[Any]:
        """The content of a JSON file that must be a list."""
        value = self.json(name)
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")
        return value

    @cached_property
    def index(self) -> IndexFile:
        """face_embeddings.usearch. ValueError or OSError as read_index."""
        return read_index(self.directory / INDEX)

    @cached_property
    def _deadline(self) -> float:
        """The monotonic time at which all checks of the database must have ended."""
        return time.monotonic() + time_allowed(self._database.stat().st_size)

    @property
    def _database(self) -> Path:
        delta = self.directory / DELTA_DB
        return delta if delta.exists() else self.directory / PERFORMERS_DB

    @property
    def tables(self) -> Collection[str]:
        """The tables that the database may have."""
        return DELTA_TABLES if self._database.name == DELTA_DB else TABLES

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """performers.db or delta.db, read-only, after a check of its objects.

        Raises DatabaseFileError when it holds anything but tables of the contract, is damaged or takes too long; OSError
        or ValueError when it cannot be read.
        """
        if not self._database.exists():
            raise ValueError(f"there is no {self._database.name}")
        with open_read_only(self._database, deadline=self._deadline) as connection:
            check_objects(connection, self.tables)
            yield connection

    def check_database(self) -> None:
        """Raises DatabaseFileError when SQLite finds damage, or when a table has too many rows."""
        with self.database() as connection:
            run_checks(connection, self.tables, MAX_ROWS)
