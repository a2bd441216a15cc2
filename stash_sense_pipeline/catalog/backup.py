"""Backup and restore: the catalog and the operator's files in one zip.

The catalog in the zip is always a SQLite file, so that a backup of either database can be restored into the other.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.backup_archive import CATALOG, CONTENTS, FORMAT, unpack_backup
from stash_sense_pipeline.catalog.engine import create_database, open_catalog
from stash_sense_pipeline.catalog.schema import metadata
from stash_sense_pipeline.catalog.transactions import first_line, reading, shown_url, writing
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.foundation.files import replacing, sha256_file, sqlite_url
from stash_sense_pipeline.foundation.private_work import private_work

_ROWS = 2000


@dataclass(frozen=True)
class BackupReport:
    """A backup that was written or restored: its path, file names, rows of the catalog, and bytes of the zip.

    `kept`: names of existing files that differ from the backup's and were not replaced.
    """

    path: Path
    made_at: datetime
    files: tuple[str, ...]
    rows: int
    size: int
    kept: tuple[str, ...] = ()


def write_backup(
    engine: sa.Engine, files: Mapping[str, Path], path: Path, now: datetime, *, data_dir: Path | None = None
) -> BackupReport:
    """Writes a snapshot of the catalog and the existing ones of `files` (name in the backup → path) to a new zip.

    The copy of the catalog that is packed is in the private directory of `data_dir`, or beside `path` without one. The
    next command removes what a killed backup leaves. Other runs can write meanwhile; the snapshot holds their whole
    transactions only. Raises CatalogError when `path` exists or cannot be written.
    """
    if path.exists():
        raise CatalogError(f"{path} exists already; give the backup another name")
    try:
        # The zip is private, like its parts: it holds the suppression key.
        with replacing(path) as zipped, private_work(data_dir or path.parent) as work:
            work.note_outside(zipped)
            copy = work.directory / CATALOG
            _copy_to_sqlite(engine, copy)
            parts = {CATALOG: copy, **{name: file for name, file in files.items() if file.is_file()}}
            contents = {
                "format": FORMAT,
                "made_at": now.isoformat(),
                "sha256": {name: sha256_file(file) for name, file in parts.items()},
            }
            with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr(CONTENTS, json.dumps(contents, indent=1))
                for name, file in parts.items():
                    archive.write(file, name)
            rows = _count(copy)
    except OSError as error:
        raise CatalogError(f"cannot write the backup {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise CatalogError(f"cannot write the backup {path}: {first_line(error)}") from error
    return BackupReport(path, now, tuple(parts), rows, path.stat().st_size)


@dataclass(frozen=True)
class RestoreTarget:
    """Where a backup is restored to: an empty catalog, and `files` (name in the backup → path).

    An existing file that is named in `stay` is not replaced.
    """

    catalog_url: str
    files: Mapping[str, Path]
    stay: Collection[str] = ()


def restore_backup(
    path: Path,
    to: RestoreTarget,
    *,
    data_dir: Path | None = None,
    before_copy: Callable[[sa.Engine, Path], None] = lambda catalog, unpacked: None,
) -> BackupReport:
    """Restores the catalog and the files of a backup. The files are readable by their owner only.

    Everything is verified before anything is written. The backup is unpacked in the private directory of `data_dir`, or
    beside the backup without one. `before_copy` may change the unpacked catalog and the files beside it. Raises
    CatalogError for a damaged backup, when the catalog is not empty, and when another version of a file exists.
    """
    files = to.files
    with private_work(data_dir or path.parent) as work:
        unpacked = work.directory
        contents = unpack_backup(path, unpacked, files.keys())
        names = [name for name in contents.sha256 if name != CATALOG]
        there = [name for name in names if name in files and files[name].exists()]
        others = [name for name in there if sha256_file(files[name]) != contents.sha256[name]]
        for name in others:
            if name not in to.stay:
                raise CatalogError(
                    f"{files[name]} exists already and differs from the backup's; move it away first"
                )
        with _foreign_rows(path):
            # This also migrates the schema of an older backup.
            source = open_catalog(sqlite_url(unpacked / CATALOG))
        try:
            before_copy(source, unpacked)
            create_database(to.catalog_url)
            target = open_catalog(to.catalog_url)
            try:
                with _foreign_rows(path):
                    _copy_rows(source, target)
            finally:
                target.dispose()
        finally:
            source.dispose()
        for name in names:
            if name in files and name not in others:
                with replacing(files[name]) as temporary:
                    shutil.copyfile(unpacked / name, temporary)
        rows = _count(unpacked / CATALOG)
    restored = tuple(name for name in contents.sha256 if name not in others)
    return BackupReport(path, contents.made_at, restored, rows, path.stat().st_size, tuple(others))


@contextmanager
def _foreign_rows(path: Path) -> Iterator[None]:
    """Turns errors that invalid rows raise in the database, its driver or the column types into a CatalogError."""
    try:
        yield
    except (
        sa.exc.SQLAlchemyError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise CatalogError(
            f"the backup {path} holds rows that the catalog does not allow ({type(error).__name__}); use another one"
        ) from error


def _copy_to_sqlite(engine: sa.Engine, path: Path) -> None:
    if engine.dialect.name == "sqlite":
        # VACUUM INTO cannot run in a transaction. It reads one snapshot and does not block writers.
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("VACUUM INTO ?", (str(path),))
        finally:
            connection.close()
        return
    target = open_catalog(sqlite_url(path))
    try:
        _copy_rows(engine, target)
    finally:
        target.dispose()


def _copy_rows(source: sa.Engine, target: sa.Engine) -> None:
    """Copies all rows of one snapshot and the id counters into an empty catalog, in one transaction."""
    with reading(source) as origin, writing(target) as destination:
        for table in metadata.sorted_tables:
            if destination.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
                shown = shown_url(target.url)
                raise CatalogError(f"the catalog {shown} has content already; restore into an empty place")
        for table in metadata.sorted_tables:
            rows = origin.execution_options(yield_per=_ROWS).execute(sa.select(table))
            for batch in rows.mappings().partitions(_ROWS):
                destination.execute(sa.insert(table), [dict(row) for row in batch])
            counter = table.autoincrement_column
            if counter is not None and isinstance(counter.type, sa.Integer):
                _set_counter(destination, table, counter, _counter(origin, table, counter))


def _counter(connection: sa.Connection, table: sa.Table, column: sa.Column[int]) -> int:
    """The highest id that was ever allocated. Ids of deleted rows are not used again."""
    if connection.dialect.name == "sqlite":
        last = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        return connection.execute(last, {"name": table.name}).scalar() or 0
    name = connection.scalar(sa.func.pg_get_serial_sequence(table.name, column.name))
    last_value, is_called = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {name}").one()
    return int(last_value) if is_called else 0


def _set_counter(connection: sa.Connection, table: sa.Table, column: sa.Column[int], last: int) -> None:
    if not last:
        return
    if connection.dialect.name == "sqlite":
        given = {"name": table.name, "seq": last}
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), given)
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), given)
    else:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(sa.select(sa.func.setval(sequence, last)))


def _count(path: Path) -> int:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return sum(
            connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in metadata.sorted_tables
        )
