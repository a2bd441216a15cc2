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

# Classes of SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html) that say something about the
# server, its disk, its locks or our rights: connection, authorisation, rollback by the server, resources, state of an
# object, operator, system, its configuration, its files.
_SERVER_CLASSES = frozenset({"08", "28", "40", "53", "55", "57", "58", "F0", "XX"})
# Single codes of other classes: a read-only transaction, a session that was idle for too long, a transaction that
# lasted too long, missing rights.
_SERVER_CODES = frozenset({"25006", "25P03", "25P04", "42501"})
# A violated deferred constraint is in the class of rollbacks, and is an error of the data.
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
    """Turns an error that is the database's own into a CatalogError of one line, which holds no value of a statement.

    `shown` is the URL of the catalog as it may be shown; `doing` completes "cannot ... the catalog". Errors of the data
    or of a statement (IntegrityError, DataError, ...) are passed on as they are.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        if not is_server_error(error):
            raise
        raise CatalogError(f"cannot {doing} the catalog {shown}: {first_line(error)}") from error


def is_server_error(error: sa.exc.DBAPIError) -> bool:
    """True for an error that any statement would meet: the server is gone or refuses, a full disk, a held lock."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _SQLITE_CODES
    if error.connection_invalidated:
        return True
    state = getattr(cause, "pgcode", None)
    if state is None:
        # The client's own errors: no connection, or it broke.
        return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    return state in _SERVER_CODES or (state[:2] in _SERVER_CLASSES and state not in _DATA_CODES)


def first_line(error: Exception) -> str:
    """The first line of what the database said: the ones after it can hold values of a row."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# Parameters of libpq and psycopg2 with such a word in their name hold secrets or lead to them.
_SECRET_WORDS = ("pass", "secret", "token", "key")


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction, committed at the end and rolled back on error.

    On SQLite it takes the write lock at once; it waits as long as a rebuild of the file lasts, and 30 s for any other
    writer. Raises CatalogError when the lock stays taken, and when the database cannot write at the begin, in the middle
    or at the commit: read-only, full, restarted, gone. Nothing of the transaction is stored then.
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
    """The file that is locked (flock) while SQLite's file is rebuilt; None for a database that is no file."""
    database = engine.url.database
    if engine.dialect.name != "sqlite" or database in (None, "", ":memory:"):
        return None
    path = Path(str(database))
    return path.with_name(f".{path.name}.rebuild.lock")


def _rebuilt_since(engine: sa.Engine, moment: float) -> bool:
    """True when a process rebuilds SQLite's file now, or has since `moment`: it holds the write lock for minutes."""
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
    """One consistent snapshot for reading; writers are not held up by it. Raises CatalogError when it cannot be read."""
    isolation = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with (
        server_errors_in_one_line(shown_url(engine.url), "read"),
        engine.connect().execution_options(**isolation) as connection,
        connection.begin(),
    ):
        yield connection


def shown_url(url: sa.URL) -> str:
    """The URL of a database as it may be shown: without its password, also where its query holds one."""
    hidden = {name: "***" for name in url.query if any(word in name.lower() for word in _SECRET_WORDS)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)
