"""Pairs of records for the operator's review: refused links, near matches, and names that are aliases elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity.explanation import EvidenceRow, refused_evidence
from stash_sense_pipeline.catalog.queries.identity.identities import read_members
from stash_sense_pipeline.identity.alias_names import names_in_aliases
from stash_sense_pipeline.identity.linkage.clustering import TOO_WEAK
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Kind
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.records.record_key import RecordKey

# The reviewed decisions on two people, as the overrides name them.
PAIR_KINDS = frozenset({"pair", "duplicate", "confusable"})
# Pairs that lack at most this much for a link are listed: no page in common, or one field that differs, costs as much.
_NEAR = 1.0

Person = int | RecordKey


@dataclass(frozen=True)
class ReviewPair:
    """A pair to review. `rows`: (kind, key, weight) of each piece of evidence; `weight` is their sum."""

    section: str
    a: RecordKey
    b: RecordKey
    rows: tuple[tuple[str, str, float], ...]
    reason: str
    weight: float


def pairs_to_review(connection: sa.Connection, overrides: Overrides) -> list[ReviewPair]:
    """Refused pairs, highest weight first, then pairs that share an alias only. Pairs of settled people are left out."""
    members = read_members(connection)
    settled = settled_people(overrides, members)
    refused: dict[tuple[RecordKey, RecordKey], list[EvidenceRow]] = defaultdict(list)
    for row in refused_evidence(connection):
        refused[(row.source_a, row.source_id_a), (row.source_b, row.source_id_b)].append(row)
    found = [pair for (a, b), rows in refused.items() if (pair := _refused(a, b, rows)) is not None]
    found.sort(key=lambda pair: (-pair.weight, pair.a, pair.b))
    for alias in names_in_aliases(connection):
        if (alias.a, alias.b) not in refused:
            text = "; ".join((f"name in aliases ({alias.name})", *alias.agreeing))
            rows = (("", text, alias.weight),)
            found.append(ReviewPair("near", alias.a, alias.b, rows, "an alias in common only", alias.weight))
    return [pair for pair in found if people_of((pair.a, pair.b), members) not in settled]


def settled_people(overrides: Overrides, members: Mapping[RecordKey, int]) -> set[frozenset[Person]]:
    """The people of each pair that the operator has settled, whichever of their records the file names."""
    pairs = [
        (pair.a, pair.b) for pair in (*overrides.must_link, *overrides.cannot_link, *overrides.duplicates)
    ]
    pairs += [
        (record_of(row.about[0]), record_of(row.about[1]))
        for row in overrides.reviewed
        if row.kind in PAIR_KINDS and len(row.about) == 2
    ]
    return {people_of(pair, members) for pair in pairs}


def people_of(records: Iterable[RecordKey], members: Mapping[RecordKey, int]) -> frozenset[Person]:
    """The performer ids of records; a record that is in no identity stands for itself."""
    return frozenset(members.get(key, key) for key in records)


def record_of(text: str) -> RecordKey:
    """The record of a text `source:id`."""
    source, _, source_id = text.partition(":")
    return source, source_id


def _refused(a: RecordKey, b: RecordKey, rows: list[EvidenceRow]) -> ReviewPair | None:
    """The pair of refused rows; None when too little speaks for it."""
    reason = rows[0].reason or ""
    weak = reason.startswith(TOO_WEAK)
    face = any(row.kind == Kind.FACE and row.weight >= 0 for row in rows)
    weight = sum(row.weight for row in rows)
    section = "conflict" if not weak else "face" if face else "near"
    if section == "near" and round(weight, 3) < WEIGHTS.link - _NEAR:
        return None
    evidence = tuple((row.kind, row.key, row.weight) for row in rows)
    return ReviewPair(section, a, b, evidence, reason, weight)
