"""Opening the catalog: connection settings, migration to the current schema, and the two kinds of transaction."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from stash_sense_pipeline.errors import CatalogError

_BUSY_TIMEOUT_MS = 30_000
# Above this size only the header and the schema are read at opening; a backup or a release runs the full check.
_QUICK_CHECK_BYTES = 64 * 1024 * 1024


def open_catalog(url: str) -> sa.Engine:
    """Opens the catalog at a SQLAlchemy URL and migrates it to the schema of this program.

    SQLite runs with WAL, foreign keys and a busy timeout of 30 s; a new file is built aside and put in place whole.
    Raises CatalogError, and changes nothing, when the store is corrupt, is some other database, cannot be reached,
    or was migrated by a newer program.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise CatalogError(f"the catalog URL is not a database URL: {error}") from error
    shown = parsed.render_as_string(hide_password=True)
    try:
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            _prepare_sqlite_file(Path(str(parsed.database)), shown)
        engine = _engine(parsed)
        _migrate(engine, shown)
    except (sa.exc.DBAPIError, sqlite3.DatabaseError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        reason = str(cause).strip().split("\n")[0]
        raise CatalogError(f"cannot open the catalog {shown}: {reason}") from error
    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction, committed at the end and rolled back on error. On SQLite it takes the write lock at once."""
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One consistent snapshot for reading; writers are not held up by it."""
    isolation = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with engine.connect().execution_options(**isolation) as connection, connection.begin():
        yield connection


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


def _engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, record: Any) -> None:
    # The driver must not start transactions by itself: _begin_sqlite chooses their kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",
        "cache_size=-65536",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _prepare_sqlite_file(path: Path, shown: str) -> None:
    """Checks an existing file, or puts a new one with the current schema in place in one step."""
    if path.exists():
        _check_sqlite_file(path, shown)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    try:
        engine = _engine(sa.URL.create("sqlite", database=str(fresh)))
        _migrate(engine, shown)
        engine.dispose()
        fresh.chmod(0o600)
        # A hard link fails where another process was faster, and then its file is the catalog.
        try:
            os.link(fresh, path)
        except FileExistsError:
            _check_sqlite_file(path, shown)
    finally:
        for leftover in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm")):
            leftover.unlink(missing_ok=True)


def _check_sqlite_file(path: Path, shown: str) -> None:
    size = path.stat().st_size
    if size == 0:
        raise CatalogError(
            f"cannot open the catalog {shown}: the file is empty; restore a backup, or remove it to begin anew"
        )
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_MS / 1000)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
        if size <= _QUICK_CHECK_BYTES:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise CatalogError(f"the catalog {shown} is corrupt ({verdict}); restore a backup")
    except sqlite3.DatabaseError as error:
        raise CatalogError(f"the catalog {shown} is corrupt ({error}); restore a backup") from error
    finally:
        connection.close()


def _migrate(engine: sa.Engine, shown: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        heads = MigrationContext.configure(connection).get_current_heads()
        tables = set(sa.inspect(connection).get_table_names())
    known = {revision.revision for revision in script.walk_revisions()}
    if not heads and tables:
        raise CatalogError(f"{shown} is a database of something else: it has tables, but no catalog revision")
    unknown = set(heads) - known
    if unknown:
        raise CatalogError(
            f"the catalog {shown} was made by a newer program (revision {sorted(unknown)[0]}); upgrade stash-sense"
        )
    if set(heads) == set(script.get_heads()):
        return
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            # Several processes may start at once: the first one migrates, the others then find it done.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7305215331)"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
