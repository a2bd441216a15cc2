"""Transactions: consistent reads, exclusive writes, database errors in one line."""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.foundation.errors import CatalogError

# Classes of SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html) that are about the server, its
# disk, its locks or the client's rights: connection, authorisation, rollback by the server, resources, state of an
# object, operator intervention, system, configuration file, internal error.
_SERVER_CLASSES = frozenset({"08", "28", "40", "53", "55", "57", "58", "F0", "XX"})
# Single codes of other classes: a read-only transaction, a session that was idle for too long, a transaction that
# lasted too long, missing rights.
_SERVER_CODES = frozenset({"25006", "25P03", "25P04", "42501"})
# A violated deferred constraint is in the class of rollbacks, but it is an error of the data.
_DATA_CODES = frozenset({"40002"})
# Result codes of SQLite (https://sqlite.org/rescode.html), without the bits of the extended ones.
_SQLITE_CODES = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_NOTADB,
    }
)


@contextmanager
def server_errors_in_one_line(shown: str, doing: str) -> Iterator[None]:
    """Turns a server error (see is_server_error) into a CatalogError of one line that holds no value of a statement.

    `shown` is the URL of the catalog without secrets; `doing` completes "cannot ... the catalog". Errors of the data or
    of a statement (IntegrityError, DataError, ...) pass through.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        if not is_server_error(error):
            raise
        raise CatalogError(f"cannot {doing} the catalog {shown}: {first_line(error)}") from error


def is_server_error(error: sa.exc.DBAPIError) -> bool:
    """True for an error that does not depend on the statement: server unreachable or refusing, full disk, held lock."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _SQLITE_CODES
    if error.connection_invalidated:
        return True
    state = getattr(cause, "pgcode", None)
    if state is None:
        # The client library raises these when there is no connection or it broke.
        return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    return state in _SERVER_CODES or (state[:2] in _SERVER_CLASSES and state not in _DATA_CODES)


def first_line(error: Exception) -> str:
    """The first line of the database's error text. Later lines can hold values of a row."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# Parameters of libpq and psycopg2 with one of these words in their name hold secrets or paths to them.
_SECRET_WORDS = ("pass", "secret", "token", "key")


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction, committed at the end and rolled back on error.

    On SQLite it takes the write lock at the beginning. It waits until a rebuild of the file ends, and 30 s for any other
    writer. Raises CatalogError when the lock is not released, and when the database cannot write at the beginning, in
    the middle or at the commit: it is read-only, full, restarted or unreachable. Nothing of the transaction is then
    stored.
    """
    with server_errors_in_one_line(shown_url(engine.url), "write to"), ExitStack() as stack:
        while True:
            begun = time.time()
            try:
                connection = stack.enter_context(engine.connect().execution_options(write=True))
                stack.enter_context(connection.begin())
                break
            except sa.exc.OperationalError:
                stack.close()
                if not _rebuilt_since(engine, begun):
                    raise
        yield connection


def rebuild_lock(engine: sa.Engine) -> Path | None:
    """The file that is locked (flock) while SQLite's file is rebuilt, or None for a database without a file."""
    database = engine.url.database
    if engine.dialect.name != "sqlite" or database in (None, "", ":memory:"):
        return None
    path = Path(str(database))
    return path.with_name(f".{path.name}.rebuild.lock")


def _rebuilt_since(engine: sa.Engine, moment: float) -> bool:
    """True when a process is rebuilding SQLite's file, which locks it for minutes, or has done so since `moment`."""
    path = rebuild_lock(engine)
    if path is None or not path.exists():
        return False
    with path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return path.stat().st_mtime >= moment


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One consistent snapshot for reading. It does not block writers. Raises CatalogError when it cannot be read."""
    isolation = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with (
        server_errors_in_one_line(shown_url(engine.url), "read"),
        engine.connect().execution_options(**isolation) as connection,
        connection.begin(),
    ):
        yield connection


def shown_url(url: sa.URL) -> str:
    """The URL of a database without passwords and other secrets, also in its query."""
    hidden = {name: "***" for name in url.query if any(word in name.lower() for word in _SECRET_WORDS)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def check_references(connection: sa.Connection, shown: str) -> None:
    """Raises CatalogError when a row of a SQLite catalog refers to a missing one, which a migration does not enforce."""
    if connection.dialect.name != "sqlite":
        return
    lost = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if lost is not None:
        raise CatalogError(
            f"the catalog {shown} was not migrated: a row of {lost[0]} refers to a missing row of {lost[2]}; "
            "restore a backup"
        )
