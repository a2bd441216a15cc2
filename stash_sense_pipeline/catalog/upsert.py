"""Insert-or-update in bulk, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

# SQLite allows 32,766 bound parameters in a statement; executemany-style batches stay far below.
_ROWS_A_STATEMENT = 500
_MANY = 10_000


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
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    if changed:
        statement = statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in changed}
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
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
        values = [list(row) for row in batch]
        for row in values:
            for place, process in special:
                row[place] = process(row[place])
        connection.exec_driver_sql(statement, [tuple(row) for row in values])
