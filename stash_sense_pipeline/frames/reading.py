"""Reads tables for analysis as DataFrames: whole or in chunks, without changing the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.column_types import UtcTime
from stash_sense_pipeline.catalog.engine import CatalogState, catalog_state, unchanging_engine
from stash_sense_pipeline.catalog.transactions import reading, shown_url
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.frames.tables import FrameColumn, FrameTable
from stash_sense_pipeline.privacy.suppression.unapplied import refuse_unapplied

# Text is kept by Python, so that a frame is the same with and without pyarrow.
TEXT = pd.StringDtype("python")
TIME = "datetime64[us, UTC]"
Gate = Callable[[sa.Connection], None]


@contextmanager
def catalog_for_reading(url: str) -> Iterator[sa.Engine]:
    """The catalog at this URL, which is neither created nor migrated nor changed.

    Raises CatalogError when there is none, or its schema is not that of this program.
    """
    state = catalog_state(url)
    shown = shown_url(sa.make_url(url))
    if state is CatalogState.MISSING:
        raise CatalogError(f"there is no catalog at {shown}; run stash-sense build first")
    if state is CatalogState.OLDER:
        raise CatalogError(
            f"the catalog {shown} was made by an older program; run stash-sense status, which migrates it"
        )
    engine = unchanging_engine(url).execution_options(postgresql_readonly=True)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _refuse_writing)
    try:
        yield engine
    finally:
        engine.dispose()


def whole_frame(url: str, table: FrameTable, gate: Gate = refuse_unapplied) -> pd.DataFrame:
    """All rows of the table, of one state of the catalog. `gate` may refuse to read it."""
    with catalog_for_reading(url) as engine, reading(engine) as connection:
        gate(connection)
        return _frame(table.columns, [tuple(row) for row in streamed(connection, table.query())])


def frame_chunks(
    url: str, table: FrameTable, rows: int, gate: Gate = refuse_unapplied
) -> Iterator[pd.DataFrame]:
    """The rows of the table in their order, at most `rows` at a time; at least one chunk, which may be empty.

    Each chunk is read in a transaction of its own, so that none is open while the caller works. `gate` is asked before
    each. Rows that change meanwhile may be of the old or the new state.
    """
    if rows < 1:
        raise ValueError(f"a chunk must have at least one row, not {rows}")
    after: Sequence[Any] | None = None
    first = True
    with catalog_for_reading(url) as engine:
        while first or after is not None:
            with reading(engine) as connection:
                gate(connection)
                found = [tuple(row) for row in connection.execute(table.query(after, rows))]
            after = found[-1][len(table.columns) :] if len(found) == rows else None
            if first or found:
                yield _frame(table.columns, found)
            first = False


def _refuse_writing(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA query_only = ON")


def _frame(columns: Sequence[FrameColumn], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    by_column = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return pd.DataFrame(
        {each.name: _series(each, values) for each, values in zip(columns, by_column, strict=False)}
    )


def dtype_of(column: FrameColumn) -> str:
    """The dtype of a column, as pandas names it; `object` for vectors."""
    kind = column.column.type
    if isinstance(kind, UtcTime):
        return TIME
    if isinstance(kind, sa.Integer):
        return "Int64" if column.nullable else "int64"
    if isinstance(kind, sa.Float):
        return "float64"
    return "object" if isinstance(kind, sa.LargeBinary) else "string"


def _series(column: FrameColumn, values: Sequence[Any]) -> pd.Series[Any]:
    dtype = dtype_of(column)
    if dtype == TIME:
        return pd.Series(pd.DatetimeIndex(list(values), dtype=TIME))
    if dtype == "object":
        return pd.Series([np.frombuffer(value, dtype="<f4") for value in values], dtype=object)
    return pd.Series(list(values), dtype=TEXT if dtype == "string" else dtype)
