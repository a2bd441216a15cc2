"""When a thread of a test waits for a lock of PostgreSQL that the test holds."""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa

_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def wait_until_locked_out(engine: sa.Engine, thread: threading.Thread, limit: float = 200.0) -> bool:
    """Returns True when another connection to the database waits for a lock, and False when the thread has ended before.

    `limit`: seconds, after which it fails.
    """
    until = time.monotonic() + limit
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while thread.is_alive():
            if connection.exec_driver_sql(_WAITING).scalar_one():
                return True
            assert time.monotonic() < until, "the thread neither waits for a lock nor ends"
            time.sleep(0.02)
    return False
