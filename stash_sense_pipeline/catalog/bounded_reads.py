"""Reads large results in batches, each in a transaction of its own, so that no transaction waits for Python."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.records.record_key import RecordKey

P = ParamSpec("P")
T = TypeVar("T")

# Python turns this many rows into objects in some milliseconds. PostgreSQL ends a session with a transaction that is
# idle for longer than idle_in_transaction_session_timeout, which operators set to seconds.
_ROWS_PER_FETCH = 2_000


@dataclass(frozen=True)
class ShortReads:
    """Runs each read in its own transaction, so that no transaction is open while the result is used.

    Two reads can see different states of the catalog. Before writing, check that the state of the first read is still
    current.
    """

    engine: sa.Engine

    def __call__(
        self, read: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Returns `read(connection, ...)`. The result must not use the connection."""
        # With millions of objects, a pass of the cycle collector takes longer than a transaction may be idle.
        with collector_paused(), reading(self.engine) as connection:
            return read(connection, *args, **kwargs)


def streamed(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Any]:
    """Executes a query with many rows, and fetches them in batches. PostgreSQL sends them in batches, too.

    The transaction is idle only while the caller handles one batch, and the driver holds one batch in memory. To fetch
    row by row would take SQLAlchemy several times as long.
    """
    options: dict[str, Any] = {}
    if connection.dialect.name == "postgresql":
        # By default PostgreSQL plans a cursor for fetching a tenth of its rows.
        connection.exec_driver_sql("SET LOCAL cursor_tuple_fraction = 1")
        options["yield_per"] = _ROWS_PER_FETCH
    result = connection.execute(query, execution_options=options)
    return chain.from_iterable(result.partitions(_ROWS_PER_FETCH))


def rows_of_records(
    connection: sa.Connection,
    query: sa.Select[Any],
    columns: sa.ColumnCollection[str, Any],
    wanted: Collection[RecordKey] | None,
) -> Iterator[Any]:
    """The rows of `query`, all of them or those of the records in `wanted`. `columns` are those of a table of records."""
    parts = (
        [query]
        if wanted is None
        else map(query.where, of_records(columns["source"], columns["source_id"], wanted))
    )
    for part in parts:
        yield from result_rows(connection, part, wanted)


def result_rows(
    connection: sa.Connection, query: sa.Select[Any], wanted: Collection[RecordKey] | None
) -> Iterable[Any]:
    """The rows of the query, streamed when they are of all records."""
    return streamed(connection, query) if wanted is None else connection.execute(query).all()
