"""Physical deletion: removes deleted rows from the log, free pages and files of the database."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import metadata, pending_purges
from stash_sense_pipeline.catalog.transactions import first_line, reading, rebuild_lock, writing
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.foundation.files import private_opener

_LOCK_TIMEOUT_MS = 30_000
# How long to wait for other processes to let go of SQLite's write-ahead log, in seconds.
_LOG_PATIENCE = 5.0
# A rebuild writes the live content once to a temporary file and once to the write-ahead log.
_COPIES = 2


def request_purge(connection: sa.Connection, now: datetime) -> None:
    """Notes that rows of people were deleted whose bytes are still in the files of the database.

    The note is committed with the deletion, so that it survives a kill between the two.
    """
    connection.execute(sa.insert(pending_purges).values(requested_at=now))


def is_purge_pending(engine: sa.Engine) -> bool:
    """True while deleted rows may still have bytes in the files of the database."""
    return bool(_waiting(engine))


def overwrite_deleted(engine: sa.Engine) -> str | None:
    """Rebuilds SQLite's file when a purge is pending, so that no byte of a deleted row is in it or in its log.

    secure_delete overwrites a deleted row only where it lies now: copies from before a page was split stay in the gaps
    of pages. VACUUM writes every page anew. It waits for the write lock, other writers wait for it, and readers go on.
    It needs free space of twice the catalog beside it. A kill leaves the file as it was, and the note.

    Returns None when nothing is left to do, else one line that says why the bytes are still there. PostgreSQL is not
    rebuilt here: see `rewrite`.
    """
    if engine.dialect.name != "sqlite":
        return None
    lock = rebuild_lock(engine)
    waiting = _waiting(engine)
    if lock is None or not waiting:
        _emptied(engine)
        return None
    problem = _lack_of_space(engine, lock.parent)
    if problem is None:
        with _alone(lock) as alone:
            problem = _vacuum(engine, lock.parent) if alone else "another process is rebuilding the file"
    if problem is None and not _emptied(engine):
        problem = "another process is reading the catalog"
    if problem is None:
        with writing(engine) as connection:
            connection.execute(sa.delete(pending_purges).where(pending_purges.c.purge_id.in_(waiting)))
    return problem


def _waiting(engine: sa.Engine) -> list[int]:
    with reading(engine) as connection:
        return list(connection.scalars(sa.select(pending_purges.c.purge_id)))


def _emptied(engine: sa.Engine) -> bool:
    """Empties the write-ahead log; False when others do not let go of it for a few seconds."""
    patience = time.monotonic() + _LOG_PATIENCE
    while not (emptied := checkpoint(engine)) and time.monotonic() < patience:
        time.sleep(0.1)
    return emptied


def _lack_of_space(engine: sa.Engine, directory: Path) -> str | None:
    with engine.connect() as connection:
        pages, unused, page_bytes = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
            for name in ("page_count", "freelist_count", "page_size")
        )
    needed = _COPIES * (pages - unused) * page_bytes
    free = shutil.disk_usage(directory).free
    if free >= needed:
        return None
    return (
        f"a rebuild needs {needed / 2**30:.1f} GiB free in {directory}, and {free / 2**30:.1f} GiB are free"
    )


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Holds the place of the one process that rebuilds the file; False when another one has it."""
    with open(lock, "a", opener=private_opener) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # A writer whose patience ended meanwhile sees by the time that it may try again.
            os.utime(lock)


def _vacuum(engine: sa.Engine, directory: Path) -> str | None:
    """Writes every page of the file anew; what kept it from that, if anything did."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        tables = cursor.execute("SELECT name FROM sqlite_master WHERE name = 'sqlite_stat4'").fetchall()
        if tables:
            # Samples of values, which an ANALYZE by hand leaves.
            cursor.execute("DELETE FROM sqlite_stat4")
        # Else the temporary file is in /tmp, which may be small, or memory. SQLite unlinks it as soon as it is open.
        quoted = str(directory.absolute()).replace("'", "''")
        cursor.execute(f"PRAGMA temp_store_directory = '{quoted}'")
        try:
            cursor.execute("VACUUM")
        finally:
            cursor.execute("PRAGMA temp_store_directory = ''")
    except sqlite3.OperationalError as error:
        return f"the file cannot be rebuilt now: {error}"
    finally:
        connection.close()
    return None


def checkpoint(engine: sa.Engine) -> bool:
    """Moves SQLite's write-ahead log into the file and empties it, so that deleted data is in neither.

    False when a reader or a writer of another connection was in the way; always true on other databases.
    """
    if engine.dialect.name != "sqlite":
        return True
    connection = engine.raw_connection()
    try:
        busy, _, _ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return bool(busy == 0)
    finally:
        connection.close()


def vacuum(engine: sa.Engine, tables: Iterable[str]) -> None:
    """Frees the space of deleted rows on PostgreSQL, which otherwise keeps them until it is full.

    Nothing on SQLite, where `overwrite_deleted` does more.
    """
    if engine.dialect.name != "postgresql":
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in sorted(set(tables)):
            connection.exec_driver_sql(f'VACUUM "{table}"')


def rewrite(engine: sa.Engine) -> bool:
    """Has PostgreSQL write all tables anew, so that no page of its files keeps bytes of deleted rows, and fill its
    write-ahead log with something else. Nothing on SQLite, where nothing is left to do.

    Each table is locked while it is written, for minutes where it is large. False when the log stays because only a
    superuser may touch it. Raises CatalogError when another process does not let go of a table.
    """
    if engine.dialect.name != "postgresql":
        return True
    waiting = _waiting(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
        try:
            for table in (*metadata.sorted_tables, "pg_catalog.pg_statistic"):
                # The statistics of a column hold some of its values.
                connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {table}")
        except sa.exc.OperationalError as error:
            raise CatalogError(
                f"a table cannot be rewritten while it is in use: {first_line(error)}"
            ) from error
        finally:
            connection.exec_driver_sql("RESET lock_timeout")
        try:
            _fill_log(connection)
        except sa.exc.ProgrammingError:
            return False
    with writing(engine) as connection:
        connection.execute(sa.delete(pending_purges).where(pending_purges.c.purge_id.in_(waiting)))
    return True


def _fill_log(connection: sa.Connection) -> None:
    """Old segments of the log are kept and used again: all are retired, then each is filled.

    A checkpoint also unlinks the files that rewritten tables were in.
    """

    def next_segment() -> None:
        connection.exec_driver_sql("SELECT pg_logical_emit_message(false, '', '')")
        # What is left of the segment is filled with zeros.
        connection.exec_driver_sql("SELECT pg_switch_wal()")

    next_segment()
    connection.exec_driver_sql("CHECKPOINT")
    for _ in range(connection.exec_driver_sql("SELECT count(*) FROM pg_ls_waldir()").scalar_one()):
        next_segment()
    connection.exec_driver_sql("CHECKPOINT")
