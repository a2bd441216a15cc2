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
# Seconds to wait until other processes no longer use SQLite's write-ahead log.
_LOG_TIMEOUT = 5.0
# A rebuild writes the live content once to a temporary file and once to the write-ahead log.
_COPIES = 2


def request_purge(connection: sa.Connection, now: datetime) -> None:
    """Notes that rows were deleted and that their bytes are still in the files of the database.

    The note is committed with the deletion, so that it is kept when the process is killed before the purge.
    """
    connection.execute(sa.insert(pending_purges).values(requested_at=now))


def is_purge_pending(engine: sa.Engine) -> bool:
    """True while deleted rows may still have bytes in the files of the database."""
    return bool(_pending(engine))


def overwrite_deleted(engine: sa.Engine) -> str | None:
    """Rebuilds SQLite's file when a purge is pending, so that neither it nor its log has bytes of a deleted row.

    secure_delete overwrites a deleted row only at its current place: copies from before a page was split stay in the
    free space of pages. VACUUM writes every page anew. It waits for the write lock; other writers wait for it, and
    readers go on. It needs free space of twice the catalog's size in its directory. When the process is killed, the
    file is unchanged and the purge stays pending.

    Returns None when nothing is left to do, else one line that says why the bytes are still there. PostgreSQL is not
    rebuilt here: see `rewrite`.
    """
    if engine.dialect.name != "sqlite":
        return None
    lock = rebuild_lock(engine)
    pending = _pending(engine)
    if lock is None or not pending:
        _empty_log(engine)
        return None
    problem = _lack_of_space(engine, lock.parent)
    if problem is None:
        with _holding_rebuild_lock(lock) as held:
            problem = _vacuum(engine, lock.parent) if held else "another process is rebuilding the file"
    if problem is None and not _empty_log(engine):
        problem = "another process is reading the catalog"
    if problem is None:
        with writing(engine) as connection:
            connection.execute(sa.delete(pending_purges).where(pending_purges.c.purge_id.in_(pending)))
    return problem


def _pending(engine: sa.Engine) -> list[int]:
    with reading(engine) as connection:
        return list(connection.scalars(sa.select(pending_purges.c.purge_id)))


def _empty_log(engine: sa.Engine) -> bool:
    """Empties the write-ahead log. False when other connections use it until the timeout."""
    deadline = time.monotonic() + _LOG_TIMEOUT
    while not (emptied := checkpoint(engine)) and time.monotonic() < deadline:
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
def _holding_rebuild_lock(lock: Path) -> Iterator[bool]:
    """Yields True while it holds the lock of the process that rebuilds the file, False when another process has it."""
    with open(lock, "a", opener=private_opener) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # A writer that timed out meanwhile sees from the modification time that it may try again.
            os.utime(lock)


def _vacuum(engine: sa.Engine, directory: Path) -> str | None:
    """Writes every page of the file anew. Returns None, or the reason why that failed."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        tables = cursor.execute("SELECT name FROM sqlite_master WHERE name = 'sqlite_stat4'").fetchall()
        if tables:
            # This table holds samples of values, from a manual ANALYZE.
            cursor.execute("DELETE FROM sqlite_stat4")
        # By default the temporary file is in /tmp, which may be small or in memory. SQLite unlinks it once it is open.
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
    """Moves SQLite's write-ahead log into the file and empties it, so that it holds no deleted data.

    False when a reader or writer on another connection prevents that. Always True on other databases.
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
    """Frees the space of deleted rows on PostgreSQL. Does nothing on SQLite: see `overwrite_deleted`."""
    if engine.dialect.name != "postgresql":
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in sorted(set(tables)):
            connection.exec_driver_sql(f'VACUUM "{table}"')


def rewrite(engine: sa.Engine) -> bool:
    """Makes PostgreSQL write all tables anew and overwrite its write-ahead log, so that its files hold no bytes of
    deleted rows. Does nothing on SQLite: see `overwrite_deleted`.

    Each table is locked while it is written, which takes minutes for a large one. Returns False when the log was not
    overwritten, as only a superuser may do that. Raises CatalogError when another process keeps a table locked.
    """
    if engine.dialect.name != "postgresql":
        return True
    pending = _pending(engine)
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
        connection.execute(sa.delete(pending_purges).where(pending_purges.c.purge_id.in_(pending)))
    return True


def _fill_log(connection: sa.Connection) -> None:
    """Overwrites the write-ahead log: retires all of its segments, then fills each of them.

    PostgreSQL keeps old segments and uses them again. The checkpoint also unlinks the old files of rewritten tables.
    """

    def next_segment() -> None:
        connection.exec_driver_sql("SELECT pg_logical_emit_message(false, '', '')")
        # The rest of the segment is filled with zeros.
        connection.exec_driver_sql("SELECT pg_switch_wal()")

    next_segment()
    connection.exec_driver_sql("CHECKPOINT")
    for _ in range(connection.exec_driver_sql("SELECT count(*) FROM pg_ls_waldir()").scalar_one()):
        next_segment()
    connection.exec_driver_sql("CHECKPOINT")
