"""Choosing the rows of some records, whose key is a source and an identifier in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.records.record_key import RecordKey

# Below SQLite's bound on parameters.
_IN_LIST = 800


def of_records(
    source: sa.ColumnElement[Any], identifier: sa.ColumnElement[Any], wanted: Collection[RecordKey]
) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that together choose the rows of the wanted records, in order of the keys, some hundred at a time.

    A list of pairs would say the same in one condition, but for that SQLite reads the whole table.
    """
    by_source: dict[str, list[str]] = defaultdict(list)
    for key in sorted(wanted):
        by_source[key[0]].append(key[1])
    for name, identifiers in by_source.items():
        for batch in batched(identifiers, _IN_LIST):
            yield sa.and_(source == name, identifier.in_(batch))
