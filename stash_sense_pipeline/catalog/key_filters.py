"""SQL conditions that select the rows of given records or images, in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.records.record_key import RecordKey

# The number of keys in one statement. SQLite allows at least 999 parameters, PostgreSQL 65,535.
IN_LIST = 500


def of_records(
    source: sa.ColumnElement[Any], identifier: sa.ColumnElement[Any], wanted: Collection[RecordKey]
) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that together select the rows of the wanted records, in batches and in the order of the keys.

    A single condition on a list of pairs would select the same rows, but SQLite reads the whole table for it.
    """
    by_source: dict[str, list[str]] = defaultdict(list)
    for key in sorted(wanted):
        by_source[key[0]].append(key[1])
    for name, identifiers in by_source.items():
        for batch in batched(identifiers, IN_LIST):
            yield sa.and_(source == name, identifier.in_(batch))


def record_key(table: sa.FromClause) -> sa.ColumnElement[Any]:
    """The columns (source, source_id) of a table, as the key for rows_of and of_keys."""
    return sa.tuple_(table.c.source, table.c.source_id)


def image_key(table: sa.FromClause) -> sa.ColumnElement[Any]:
    """The columns (source, image_id) of a table, as the key for rows_of and of_keys."""
    return sa.tuple_(table.c.source, table.c.image_id)


def rows_of(
    connection: sa.Connection, query: sa.Select[Any], key: sa.ColumnElement[Any], keys: Collection[Any]
) -> Iterator[tuple[Any, ...]]:
    """The rows of `query` in which `key`, a column or a pair of columns, is one of `keys`."""
    for chosen in of_keys(key, keys):
        yield from (tuple(row) for row in connection.execute(query.where(chosen)))


def of_keys(key: sa.ColumnElement[Any], keys: Collection[Any]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that together select the rows in which `key`, a column or a pair of columns, is one of `keys`."""
    if isinstance(key, sa.Tuple):
        source, identifier = key.clauses
        yield from of_records(source, identifier, keys)
        return
    for batch in batched(sorted(keys), IN_LIST):
        yield key.in_(batch)
