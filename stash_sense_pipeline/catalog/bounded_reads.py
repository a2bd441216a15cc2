"""Reads that leave no transaction waiting for Python: large results in batches, each read in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused

P = ParamSpec("P")
T = TypeVar("T")

# Python turns this many rows into objects in some milliseconds. PostgreSQL ends a session whose transaction
# is idle for longer than idle_in_transaction_session_timeout, which operators set to seconds.
_ROWS_A_FETCH = 2_000


@dataclass(frozen=True)
class ShortReads:
    """Runs each read in a transaction of its own, so that none is open while its result is computed with.

    Two reads may see two states of the catalog: check before writing that it is still the state of the first one.
    """

    engine: sa.Engine

    def __call__(
        self, read: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`read(connection, ...)`. Its result must not need the connection any longer."""
        # With millions of objects a pass of the collector takes longer than a transaction may be idle.
        with collector_paused(), reading(self.engine) as connection:
            return read(connection, *args, **kwargs)


def streamed(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Any]:
    """Executes a query with many rows, which PostgreSQL sends a batch at a time.

    The transaction is then idle only while the caller handles one batch, and the driver holds no more than that.
    """
    if connection.dialect.name != "postgresql":
        return iter(connection.execute(query))
    # Without this the server plans for the first tenth of the rows of a cursor.
    connection.exec_driver_sql("SET LOCAL cursor_tuple_fraction = 1")
    return iter(connection.execute(query, execution_options={"yield_per": _ROWS_A_FETCH}))
