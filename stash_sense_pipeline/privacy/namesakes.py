"""Namesakes of erased people: other records of the same name, which stay until the operator decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import record_key, rows_of
from stash_sense_pipeline.catalog.schema import performer_aliases, source_performers
from stash_sense_pipeline.records.name_folding import fold_name
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True, order=True)
class Namesake:
    """A record that only a name links to the erased people, and whether the birth date is the same too."""

    source: str
    source_id: str
    same_birth_date: bool


def namesakes_of(connection: sa.Connection, people: Collection[RecordKey]) -> tuple[Namesake, ...]:
    """Live records of other people that share a folded main name, or an alias and the birth date, with these records.

    Call it before the records are erased: it reads their names.
    """
    births = _birth_dates_by_name(connection, people)
    if not births:
        return ()
    table = source_performers
    columns = sa.select(table.c.source, table.c.source_id, table.c.name, table.c.birth_date)
    found: dict[RecordKey, bool] = {}
    born_together: dict[RecordKey, str] = {}
    dates = set().union(*(dates for _, dates in births.values()))
    for source, source_id, name, birth_date in connection.execute(
        columns.where(table.c.deleted_at.is_(None))
    ):
        if (source, source_id) in people:
            continue
        is_main, known = births.get(fold_name(name or ""), (False, frozenset()))
        if birth_date in known or is_main:
            found[source, source_id] = birth_date in known
        elif birth_date in dates:
            born_together[source, source_id] = birth_date
    others = performer_aliases
    aliases = sa.select(others.c.source, others.c.source_id, others.c.alias)
    for source, source_id, alias in rows_of(connection, aliases, record_key(others), born_together):
        if born_together[source, source_id] in births.get(fold_name(alias), (False, frozenset()))[1]:
            found[source, source_id] = True
    return tuple(sorted(Namesake(*record, same) for record, same in found.items()))


def _birth_dates_by_name(
    connection: sa.Connection, people: Collection[RecordKey]
) -> dict[str, tuple[bool, frozenset[str]]]:
    """By folded name: whether it is a main name, and the birth dates of the records with it."""
    table, others = source_performers, performer_aliases
    born: dict[RecordKey, str | None] = {}
    main = set[str]()
    dates: defaultdict[str, set[str]] = defaultdict(set)
    columns = sa.select(table.c.source, table.c.source_id, table.c.name, table.c.birth_date)
    names: list[tuple[RecordKey, str]] = []
    for source, source_id, name, birth_date in rows_of(connection, columns, record_key(table), people):
        born[source, source_id] = birth_date
        main.add(fold_name(name or ""))
        names.append(((source, source_id), name or ""))
    aliases = sa.select(others.c.source, others.c.source_id, others.c.alias)
    names += [((row[0], row[1]), row[2]) for row in rows_of(connection, aliases, record_key(others), people)]
    for record, name in names:
        date = born.get(record)
        dates[fold_name(name)] |= {date} if date is not None else set()
    dates.pop("", None)
    return {name: (name in main, frozenset(of_name)) for name, of_name in dates.items()}
