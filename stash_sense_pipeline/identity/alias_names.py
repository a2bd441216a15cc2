"""Pairs of identities in which the main name of one record is an alias of the other: too little to compare them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import identity_members, performer_aliases, source_performers
from stash_sense_pipeline.identity.linkage.clustering import AMBIGUOUS_MARGIN
from stash_sense_pipeline.identity.linkage.comparisons import (
    Record,
    birth_agreement,
    field_agreements,
    names_a_group,
)
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS
from stash_sense_pipeline.records.name_folding import fold_name
from stash_sense_pipeline.records.record_key import RecordKey


class AliasName(NamedTuple):
    """A pair of records of two identities, `a` before `b`, with the folded name, what agrees, and its weight."""

    a: RecordKey
    b: RecordKey
    name: str
    agreeing: tuple[str, ...]
    weight: float


def names_in_aliases(connection: sa.Connection) -> list[AliasName]:
    """The pairs of which nothing differs and some field agrees; the highest weight first.

    The name has two words or more and is no duo's. Exactly two identities have it, without a source in common.
    """
    records, members = _records(connection)
    main: dict[str, list[RecordKey]] = defaultdict(list)
    holders: dict[str, set[int]] = defaultdict(set)
    aliased: dict[str, list[RecordKey]] = defaultdict(list)
    for key, record in records.items():
        name = fold_name(record.name or "")
        main[name].append(key)
        holders[name].add(members[key])
        for alias in record.aliases:
            aliased[fold_name(alias)].append(key)
            holders[fold_name(alias)].add(members[key])
    sources: dict[int, set[str]] = defaultdict(set)
    for (source, _), performer_id in members.items():
        sources[performer_id].add(source)
    found: dict[tuple[RecordKey, RecordKey], AliasName] = {}
    for name in sorted(aliased.keys() & main.keys()):
        if " " not in name or names_a_group(name) or len(holders[name]) != 2:
            continue
        first, second = holders[name]
        if sources[first].isdisjoint(sources[second]):
            for pair in _pairs(main[name], aliased[name], members):
                agreement = _agreement(records[pair[0]], records[pair[1]])
                if agreement is not None:
                    found[pair] = AliasName(*pair, name, *agreement)
    return sorted(found.values(), key=lambda row: (-row.weight, row.a, row.b))


def _pairs(
    named: Collection[RecordKey], aliased: Collection[RecordKey], members: dict[RecordKey, int]
) -> Iterator[tuple[RecordKey, RecordKey]]:
    for one in named:
        for other in aliased:
            if members[one] != members[other]:
                yield (one, other) if one < other else (other, one)


def _agreement(a: Record, b: Record) -> tuple[tuple[str, ...], float] | None:
    """What agrees, and the weight with the name; None when something differs, or nothing agrees."""
    found = [*field_agreements(a, b)]
    born = birth_agreement(a.birth_date, b.birth_date)
    if born is not None:
        found.append(born)
    weights = [float(getattr(WEIGHTS, how)) for how, _ in found]
    # An equal gender has no weight, and a weight this small proves nothing.
    if sum(weights) < AMBIGUOUS_MARGIN or min(weights, default=0.0) < 0:
        return None
    return tuple(text for _, text in found), round(WEIGHTS.name_in_aliases + sum(weights), 3)


def _records(connection: sa.Connection) -> tuple[dict[RecordKey, Record], dict[RecordKey, int]]:
    """The records in identities with the fields that are compared here, and their performer ids."""
    performers, table, aliases = source_performers.c, identity_members.c, performer_aliases.c
    names: dict[RecordKey, list[str]] = defaultdict(list)
    for source, source_id, alias in connection.execute(
        sa.select(aliases.source, aliases.source_id, aliases.alias)
    ):
        names[source, source_id].append(alias)
    fields = ("name", "gender", "birth_date", "country", "ethnicity", "eye_color", "height_cm")
    query = sa.select(
        table.source, table.source_id, table.performer_id, *(performers[name] for name in fields)
    ).join_from(
        identity_members,
        source_performers,
        (table.source == performers.source) & (table.source_id == performers.source_id),
    )
    records: dict[RecordKey, Record] = {}
    members: dict[RecordKey, int] = {}
    for source, source_id, performer_id, *values in connection.execute(query):
        key = (source, source_id)
        members[key] = performer_id
        records[key] = Record(
            source, source_id, aliases=tuple(names.get(key, ())), **dict(zip(fields, values, strict=True))
        )
    return records, members
