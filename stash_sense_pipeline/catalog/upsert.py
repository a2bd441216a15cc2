"""Insert-or-update in bulk, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

# psycopg2 makes one statement of this many rows.
_ROWS_A_STATEMENT = 500
_MANY = 10_000
# SQLite allows 32,766 bound parameters in a statement.
_SQLITE_PARAMETERS = 30_000


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
    """Inserts `rows`; one whose primary key exists is overwritten, but for the columns in `keep`.

    Raises ValueError when a primary-key column is missing, or the rows differ in their columns.
    """
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    missing = [key for key in keys if key not in rows[0]]
    if missing:
        raise ValueError(f"upsert into {table.name} without primary key column {missing[0]}")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"upsert into {table.name}: rows of different columns")
    changed = [name for name in rows[0] if name not in keys and name not in keep]
    on_sqlite = connection.dialect.name == "sqlite"
    statement = (sqlite.insert if on_sqlite else postgresql.insert)(table)
    if changed:
        statement = statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in changed}
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    if on_sqlite:
        _insert_in_one(connection, table, statement, rows)
        return
    for batch in batched(rows, _ROWS_A_STATEMENT):
        connection.execute(statement, [dict(row) for row in batch])


def insert_many(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Inserts rows of values in the order of `columns`: some hundred thousand a second."""
    if connection.dialect.name != "sqlite":
        for batch in batched(rows, _MANY):
            connection.execute(table.insert(), [dict(zip(columns, row, strict=True)) for row in batch])
        return
    # SQLAlchemy would spend more time on the parameters than SQLite on the rows.
    names, marks = ", ".join(columns), ", ".join("?" for _ in columns)
    statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
    convert = [table.c[name].type.bind_processor(connection.dialect) for name in columns]
    special = [(place, process) for place, process in enumerate(convert) if process is not None]
    for batch in batched(rows, _MANY):
        columns_of_batch: list[Sequence[Any]] = list(zip(*batch, strict=True))
        for place, process in special:
            values = columns_of_batch[place]
            # Often one time for all of them.
            same = all(value is values[0] for value in values)
            columns_of_batch[place] = (
                [process(values[0])] * len(values) if same else list(map(process, values))
            )
        connection.exec_driver_sql(statement, list(zip(*columns_of_batch, strict=True)))


def _insert_in_one(
    connection: sa.Connection, table: sa.Table, statement: sa.Insert, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Executes an insert with many rows a statement.

    Python's driver would otherwise let go of the interpreter lock and take it back for every row, which halves
    the speed of a sync that reads pages meanwhile.
    """
    dialect = connection.dialect
    defaults = {
        column.name: column.default.arg
        for column in table.columns
        if isinstance(column.default, sa.ColumnDefault) and column.name not in rows[0]
    }
    # The order of the table is the one in which SQLAlchemy writes them down.
    names = [column.name for column in table.columns if column.name in rows[0] or column.name in defaults]
    one = str(statement.values({name: sa.bindparam(name) for name in names}).compile(dialect=dialect))
    group = f"({', '.join('?' * len(names))})"
    assert one.count(group) == 1, one
    columns = []
    for name in names:
        values = [defaults[name]] * len(rows) if name in defaults else [row[name] for row in rows]
        process = table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        columns.append(values if process is None else list(map(process, values)))
    for batch in batched(list(zip(*columns, strict=True)), _SQLITE_PARAMETERS // len(names)):
        many = one.replace(group, ", ".join([group] * len(batch)))
        connection.exec_driver_sql(many, tuple(chain.from_iterable(batch)))
