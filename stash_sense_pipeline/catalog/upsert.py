"""Bulk insert and upsert, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

# psycopg2 puts this many rows into one statement.
_ROWS_PER_STATEMENT = 500
# SQLite allows 32,766 bound parameters in a statement. A prepared statement holds about a hundred bytes for each.
_SQLITE_PARAMETERS = 10_000


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    keep: frozenset[str] = frozenset(),
) -> None:
    """Inserts `rows`. A row with an existing primary key overwrites the stored row, except the columns in `keep`.

    Raises ValueError when a primary-key column is missing, or when the rows differ in their columns.
    """
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    missing = [key for key in keys if key not in rows[0]]
    if missing:
        raise ValueError(f"upsert into {table.name} without primary key column {missing[0]}")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"upsert into {table.name}: rows of different columns")
    names = list(rows[0])
    upsert_values(connection, table, names, _tuples(names, rows), keep=keep)


def upsert_values(
    connection: sa.Connection,
    table: sa.Table,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    keep: frozenset[str] = frozenset(),
) -> None:
    """As `upsert`, for rows that are sequences of values in the order of the columns `names`."""
    keys = [column.name for column in table.primary_key]
    changed = [name for name in names if name not in keys and name not in keep]
    statement = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
    if changed:
        statement = statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in changed}
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    _execute(connection, table, statement, names, rows)


def insert_many(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Inserts rows of values in the order of `columns`, at some hundred thousand rows per second."""
    _execute(connection, table, sa.insert(table), columns, rows)


def _tuples(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    if len(names) == 1:
        return [(row[names[0]],) for row in rows]
    return list(map(itemgetter(*names), rows))


def _execute(
    connection: sa.Connection,
    table: sa.Table,
    statement: sa.Insert,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Executes an insert with many rows per statement.

    On SQLite the statement is built here: SQLAlchemy would spend more time on the parameters than SQLite on the rows.
    With one statement per row, Python's driver would release and take the interpreter lock for each row, which halves
    the speed of a sync that reads pages meanwhile.
    """
    if not rows:
        return
    if connection.dialect.name != "sqlite":
        for batch in batched(rows, _ROWS_PER_STATEMENT):
            connection.execute(statement, [dict(zip(names, row, strict=True)) for row in batch])
        return
    defaults = {
        column.name: column.default.arg
        for column in table.columns
        if isinstance(column.default, sa.ColumnDefault) and column.name not in names
    }
    given = dict(zip(names, zip(*rows, strict=True), strict=True))
    given |= {name: (value,) * len(rows) for name, value in defaults.items()}
    # SQLAlchemy writes the columns in the order of the table.
    columns = [column for column in table.columns if column.name in given]
    binds: dict[str, Any] = {column.name: sa.bindparam(column.name) for column in columns}
    one = str(statement.values(binds).compile(dialect=connection.dialect))
    group = f"({', '.join('?' * len(columns))})"
    assert one.count(group) == 1, one
    stored = [_stored_form(column, given[column.name], connection.dialect) for column in columns]
    for batch in _halving_batches(list(zip(*stored, strict=True)), _SQLITE_PARAMETERS // len(columns)):
        many = one.replace(group, ", ".join([group] * len(batch)))
        connection.exec_driver_sql(many, tuple(chain.from_iterable(batch)))


def _halving_batches(rows: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of `most` rows, then of a half, a quarter and so on.

    This keeps the number of different statements small: the driver caches the last 128 prepared statements.
    """
    start, size = 0, most
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        yield rows[start : start + size]
        start += size


def _stored_form(column: sa.Column[Any], values: Sequence[Any], dialect: sa.Dialect) -> Sequence[Any]:
    """The values in the form that the driver takes."""
    convert = column.type.dialect_impl(dialect).bind_processor(dialect)
    if convert is None:
        return values
    if values.count(values[0]) == len(values):
        return [convert(values[0])] * len(values)
    return list(map(convert, values))
