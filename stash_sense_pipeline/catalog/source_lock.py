"""The lock that lets one run at a time read a source."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import server_errors_in_one_line, shown_url
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.foundation.files import private_opener

_LOOK_AGAIN_SECONDS = 1.0
# The first half of PostgreSQL's lock number: ours. The second one stands for the source.
_LOCK_SPACE = 7305215
# Servers before PostgreSQL 14 have no such setting.
_NEVER_TOO_IDLE = sa.text(
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
)


@contextmanager
def source_lock(engine: sa.Engine, source: str, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the place of the one run that fetches from `source` while the block runs; waits for it, and says so once.

    The place is a lock of the server's, or on a file beside SQLite's, so that it ends with its process. Raises
    CatalogError where it cannot be taken at all.
    """
    database = engine.url.database
    if engine.dialect.name == "postgresql":
        with _server_lock(engine, source, say):
            yield
    elif database in (None, "", ":memory:"):
        yield
    else:
        with _file_lock(Path(str(database)), source, say):
            yield


@contextmanager
def _server_lock(engine: sa.Engine, source: str, say: Callable[[str], None]) -> Iterator[None]:
    number = sa.func.hashtext(source)
    autocommit = {"isolation_level": "AUTOCOMMIT"}
    with ExitStack() as stack:
        with server_errors_in_one_line(shown_url(engine.url), f"take the lock of {source} in"):
            connection = stack.enter_context(engine.connect().execution_options(**autocommit))
            # The lock is held by a connection that says nothing for hours.
            connection.execute(_NEVER_TOO_IDLE)
            take = sa.select(sa.func.pg_try_advisory_lock(_LOCK_SPACE, number))
            _await(lambda: bool(connection.scalar(take)), source, say)
        try:
            yield
        finally:
            _unlock(connection, number)


def _unlock(connection: sa.Connection, number: sa.ColumnElement[int]) -> None:
    """The connection goes back to the pool, and would keep the lock; where it broke, the lock ended with it."""
    if connection.invalidated:
        return
    try:
        connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK_SPACE, number)))
    except sa.exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise


@contextmanager
def _file_lock(database: Path, source: str, say: Callable[[str], None]) -> Iterator[None]:
    path = database.with_name(f".{database.name}.{source}.lock")
    try:
        descriptor = private_opener(str(path), os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise CatalogError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor) as stream:

        def take() -> bool:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        _await(take, source, say)
        yield


def _await(take: Callable[[], bool], source: str, say: Callable[[str], None]) -> None:
    waiting = False
    while not take():
        if not waiting:
            say(f"{source}: another run is reading it; this one begins when that has ended")
            waiting = True
        time.sleep(_LOOK_AGAIN_SECONDS)
