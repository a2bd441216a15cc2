"""A catalog with the content of another one, as if it had been collected in another order and at another time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.column_types import UtcTime
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline_tests.factories import Rows, insert_rows

# Ids that a catalog gives in the order of arrival: their table, and what arrives together.
_COUNTED = {
    "face_id": (schema.faces, ("source", "image_id")),
    "tattoo_id": (schema.tattoo_detections, ("face_id",)),
}
# The sources' own clock: part of the records.
_STATED = {(schema.source_performers.name, "created_at"), (schema.source_performers.name, "updated_at")}


def recollected(engine: sa.Engine, path: Path, seed: int) -> sa.Engine:
    """A new catalog at `path`: the same rows in a random order, with other ids of faces and tattoos, and other times.

    Faces of one picture, and tattoos of one face, keep their order, because one batch stores them.
    """
    random = Random(seed)
    rows: Rows = {}
    with reading(engine) as connection:
        for table in schema.metadata.sorted_tables:
            found = [dict(row._mapping) for row in connection.execute(sa.select(table))]
            random.shuffle(found)
            rows[table.name] = found
    numbers = {
        name: _numbers(rows[table.name], name, together, random)
        for name, (table, together) in _COUNTED.items()
    }
    for name, found in rows.items():
        for row in found:
            _change(row, schema.metadata.tables[name], numbers, random)
    made = open_catalog(f"sqlite:///{path}")
    insert_rows(made, rows)
    return made


def _numbers(
    rows: Sequence[Mapping[str, Any]], name: str, together: Sequence[str], random: Random
) -> Mapping[int, int]:
    """Another id for each id: increasing among those that arrive together, else in a random order."""
    batches: dict[tuple[object, ...], list[int]] = {}
    for row in rows:
        batches.setdefault(tuple(row[each] for each in together), []).append(row[name])
    shuffled = list(batches.values())
    random.shuffle(shuffled)
    others = iter(sorted(random.sample(range(1, 10 * len(rows) + 1), len(rows))))
    return {number: next(others) for batch in shuffled for number in sorted(batch)}


def _change(
    row: dict[str, Any], table: sa.Table, numbers: Mapping[str, Mapping[int, int]], random: Random
) -> None:
    for column in table.columns:
        value = row[column.name]
        if value is None:
            continue
        if column.name in numbers:
            row[column.name] = numbers[column.name][value]
        elif isinstance(column.type, UtcTime) and (table.name, column.name) not in _STATED:
            row[column.name] = value + timedelta(seconds=random.randrange(1, 10**7))
