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

_POLL_SECONDS = 1.0
# The first half of the key of PostgreSQL's advisory lock. The second half is a hash of the source.
_LOCK_SPACE = 7305215
# PostgreSQL before version 14 has no such setting.
_NO_IDLE_TIMEOUT = sa.text(
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
)


@contextmanager
def source_lock(engine: sa.Engine, source: str, report: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of `source` while the block runs: one run at a time fetches from a source.

    When another run has the lock, it waits and calls `report` once with a line about it. The lock is an advisory lock of
    PostgreSQL, or on a file beside SQLite's, so it ends with its process. Raises CatalogError when it cannot be taken.
    """
    database = engine.url.database
    if engine.dialect.name == "postgresql":
        with _server_lock(engine, source, report):
            yield
    elif database in (None, "", ":memory:"):
        yield
    else:
        with _file_lock(Path(str(database)), source, report):
            yield


@contextmanager
def _server_lock(engine: sa.Engine, source: str, report: Callable[[str], None]) -> Iterator[None]:
    number = sa.func.hashtext(source)
    autocommit = {"isolation_level": "AUTOCOMMIT"}
    with ExitStack() as stack:
        with server_errors_in_one_line(shown_url(engine.url), f"take the lock of {source} in"):
            connection = stack.enter_context(engine.connect().execution_options(**autocommit))
            # The connection that holds the lock is idle for hours.
            connection.execute(_NO_IDLE_TIMEOUT)
            take = sa.select(sa.func.pg_try_advisory_lock(_LOCK_SPACE, number))
            _wait_for(lambda: bool(connection.scalar(take)), source, report)
        try:
            yield
        finally:
            _unlock(connection, number)


def _unlock(connection: sa.Connection, number: sa.ColumnElement[int]) -> None:
    """Releases the lock, which the pooled connection would keep. A broken connection has released it already."""
    if connection.invalidated:
        return
    try:
        connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK_SPACE, number)))
    except sa.exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise


@contextmanager
def _file_lock(database: Path, source: str, report: Callable[[str], None]) -> Iterator[None]:
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

        _wait_for(take, source, report)
        yield


def _wait_for(take: Callable[[], bool], source: str, report: Callable[[str], None]) -> None:
    waiting = False
    while not take():
        if not waiting:
            report(f"{source}: another run is reading it; this one begins when that has ended")
            waiting = True
        time.sleep(_POLL_SECONDS)
