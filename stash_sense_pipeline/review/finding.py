"""Finds the open decisions: rows of the catalog, suggestions and confusable people, one decision a question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import identity_runs as runs
from stash_sense_pipeline.catalog.queries.identity import review_details
from stash_sense_pipeline.catalog.queries.identity.identities import read_members
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import (
    images_of_faces,
    read_collisions,
    read_exclusions,
)
from stash_sense_pipeline.catalog.queries.performers import withheld_for_review
from stash_sense_pipeline.identity.face_matching.performer_faces import Reason
from stash_sense_pipeline.identity.linkage.overrides import NO_OVERRIDES, Overrides
from stash_sense_pipeline.identity.review_pairs import (
    Person,
    pairs_to_review,
    people_of,
    record_of,
    settled_people,
)
from stash_sense_pipeline.identity.source_suggestions.suggestion import SuggestionKind, SuggestionList
from stash_sense_pipeline.privacy.intake.holding import HELD, HELD_LINKED
from stash_sense_pipeline.privacy.suppression.suppression_hashes import profile_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.records.profile_urls import ProfileKey, canonical_profile
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey
from stash_sense_pipeline.review.decision import Decision, Fact, Kind
from stash_sense_pipeline.review.evidence_words import fact_in_words, reason_in_words, withheld_in_words

# A page on more records is described by its first holders.
_HOLDERS_SHOWN = 6
_FACES_ASKED_ABOUT = (Reason.HUB, Reason.COPY)


@dataclass(frozen=True)
class Findings:
    """What the decisions are made of besides the catalog.

    `stash_boxes`: their names. `suggestions`: mistakes for the sources. `confusable`: pairs of performer ids of the last
    release with the sidecar's distance.
    """

    stash_boxes: Collection[str]
    suggestions: SuggestionList = field(default_factory=SuggestionList)
    confusable: Mapping[tuple[int, int], float] = field(default_factory=dict)


def find_decisions(
    engine: sa.Engine, found: Findings, listed: Suppressions = NO_SUPPRESSIONS
) -> tuple[Decision, ...]:
    """All decisions, also those that the overrides settle, the most valuable first. Suppressed people are left out."""
    reads = ShortReads(engine)
    state = reads(_State.read)
    pairs = reads(_pairs, state, found)
    decisions = [
        *pairs,
        *reads(_faces, state, found),
        *reads(_pages, state, found, {frozenset(row.people) for row in pairs}),
        *_withheld(reads),
    ]
    shown = _without_suppressed(reads, decisions, state, listed)
    valued = reads(_with_values, shown, state)
    return tuple(sorted(valued, key=lambda row: (-row.value, row.decision_id)))


def open_decisions(
    decisions: Iterable[Decision], overrides: Overrides, members: Mapping[RecordKey, int]
) -> tuple[Decision, ...]:
    """The decisions that the overrides do not settle, in their order."""
    settled = _Settled.by(overrides, members)
    return tuple(row for row in decisions if not settled.covers(row))


@dataclass(frozen=True)
class _Settled:
    """What the overrides settle: pairs of people, (picture, person), pages, withheld records."""

    people: set[frozenset[Person]]
    pictures: set[tuple[str, Person]]
    no_faces: set[str]
    pages: set[str]
    records: set[str]

    @classmethod
    def by(cls, overrides: Overrides, members: Mapping[RecordKey, int]) -> _Settled:
        pictures = {
            (":".join(row.image), members.get(row.record, row.record))
            for row in overrides.face_verdicts
            if row.record is not None
        }
        for answer in overrides.reviewed:
            if answer.kind == Kind.FACE and len(answer.about) == 2:
                record = record_of(answer.about[1])
                pictures.add((answer.about[0], members.get(record, record)))
        seen = {(row.kind, row.about[0]) for row in overrides.reviewed}
        return cls(
            settled_people(overrides, members),
            pictures,
            {":".join(row.image) for row in overrides.face_verdicts if row.record is None},
            {*overrides.pages_without_proof, *(name for kind, name in seen if kind == Kind.PAGE)},
            {name for kind, name in seen if kind in (Kind.HELD, Kind.WITHHELD)},
        )

    def covers(self, row: Decision) -> bool:
        if row.image is not None:
            image = ":".join(row.image)
            return image in self.no_faces or (image, row.people[0]) in self.pictures
        if row.page is not None:
            return row.page in self.pages
        if row.kind in (Kind.HELD, Kind.WITHHELD):
            return row.subject[0] in self.records
        return frozenset(row.people) in self.people


@dataclass(frozen=True)
class _State:
    """The identities: the person of each record, and the records of each person."""

    members: Mapping[RecordKey, int]
    records_of: Mapping[int, tuple[RecordKey, ...]]

    @classmethod
    def read(cls, connection: sa.Connection) -> _State:
        members = read_members(connection)
        found: dict[int, list[RecordKey]] = defaultdict(list)
        for key, performer_id in sorted(members.items()):
            found[performer_id].append(key)
        return cls(members, {performer_id: tuple(keys) for performer_id, keys in found.items()})

    def person(self, key: RecordKey) -> Person:
        return self.members.get(key, key)

    def records(self, person: Person) -> tuple[RecordKey, ...]:
        return self.records_of.get(person, ()) if isinstance(person, int) else (person,)

    def in_both(self, people: Iterable[Person]) -> list[tuple[RecordKey, RecordKey]]:
        """Pairs of records of two people in one source."""
        first, second = people
        theirs = {key[0]: key for key in self.records(second)}
        return [(key, theirs[key[0]]) for key in self.records(first) if key[0] in theirs]


def _pairs(connection: sa.Connection, state: _State, found: Findings) -> list[Decision]:
    """One decision for two people, with the evidence on all pairs of their records."""
    facts: dict[frozenset[Person], list[Fact]] = defaultdict(list)
    reasons: dict[frozenset[Person], list[str]] = defaultdict(list)
    kinds: dict[frozenset[Person], Kind] = {}
    for pair in pairs_to_review(connection, NO_OVERRIDES):
        people = people_of((pair.a, pair.b), state.members)
        facts[people] += [
            Fact(pair.a, pair.b, fact_in_words(kind, key), weight) for kind, key, weight in pair.rows
        ]
        reasons[people].append(reason_in_words(pair.reason))
        kinds[people] = Kind.PAIR
    for row in found.suggestions.suggestions:
        if row.kind == SuggestionKind.DUPLICATE:
            people = people_of((row.record, row.other), state.members)
            facts[people] += [Fact(row.record, row.other, text, 0.0) for text in row.facts]
            kinds[people] = Kind.PAIR
    for (first, second), distance in found.confusable.items():
        if first in state.records_of and second in state.records_of:
            people = frozenset((first, second))
            reasons[people].append(f"the sidecar finds them {distance:.2f} apart")
            kinds.setdefault(people, Kind.CONFUSABLE)
    return [
        _about_two(_Evidence(kind, facts[people], reasons[people]), people, state, found.stash_boxes)
        for people, kind in kinds.items()
        if len(people) == 2
    ]


@dataclass(frozen=True)
class _Evidence:
    """What is known about two people."""

    kind: Kind
    facts: Sequence[Fact]
    reasons: Sequence[str]


def _about_two(
    evidence: _Evidence, people: frozenset[Person], state: _State, stash_boxes: Collection[str]
) -> Decision:
    kind, facts = evidence.kind, evidence.facts
    first, second = sorted(people, key=lambda person: (isinstance(person, tuple), str(person)))
    twice = sorted(state.in_both((first, second)), key=lambda pair: (pair[0][0] not in stash_boxes, pair))
    if kind is Kind.PAIR and twice:
        kind = Kind.DUPLICATE
    weights: dict[tuple[RecordKey, RecordKey], float] = defaultdict(float)
    for fact in facts:
        weights[fact.a, fact.b] += fact.weight
    if kind is Kind.DUPLICATE:
        records = twice[0]
    elif weights:
        records = min(weights, key=lambda pair: (-weights[pair], pair))
    else:
        records = (state.records(first)[0], state.records(second)[0])
    if state.person(records[0]) != first:
        records = (records[1], records[0])
    ordered = sorted(facts, key=lambda fact: ({fact.a, fact.b} != set(records), fact.a, fact.b, -fact.weight))
    return Decision(
        kind,
        (first, second),
        records,
        facts=tuple(dict.fromkeys(ordered)),
        reasons=tuple(dict.fromkeys(reason for reason in evidence.reasons if reason)),
    )


def _faces(connection: sa.Connection, state: _State, found: Findings) -> list[Decision]:
    """One decision for a picture and the person that lists it."""
    decisions: dict[tuple[ImageKey, Person], Decision] = {}

    def add(image: ImageKey, record: RecordKey, reason: str, other: Person | None) -> None:
        person = state.person(record)
        key = (image, person)
        if key in decisions:
            decisions[key] = replace(decisions[key], reasons=(*decisions[key].reasons, reason))
            return
        people = (person,) if other is None or other == person else (person, other)
        decisions[key] = Decision(Kind.FACE, people, (record,), image=image, reasons=(reason,))

    collisions = read_collisions(connection)
    excluded = {
        key: row for key, row in read_exclusions(connection).items() if row.reason in _FACES_ASKED_ABOUT
    }
    images = images_of_faces(connection, [*collisions, *(face_id for face_id, _ in excluded)])
    for face_id, near in collisions.items():
        text = f"cosine {near.nearer_similarity:.2f} to the faces of the other person, {near.similarity:.2f} to its own"
        add(record_of(images[face_id]), (near.source, near.source_id), text, near.nearer_to)
    for (face_id, _), row in excluded.items():
        text = f"near {row.people or 0} other people" if row.reason == Reason.HUB else row.reason
        add(record_of(images[face_id]), (row.source, row.source_id), text, None)
    for wrong in found.suggestions.suggestions:
        if wrong.kind == SuggestionKind.PICTURE:
            image = (wrong.record[0], wrong.picture)
            add(image, wrong.record, "; ".join(wrong.facts), state.person(wrong.other))
    return list(decisions.values())


def _pages(
    connection: sa.Connection, state: _State, found: Findings, asked: Collection[frozenset[Person]]
) -> list[Decision]:
    """One decision for a page that many people, or one person too many, list.

    A link between two people that are `asked` about already is left out: their decision settles it.
    """
    decisions: dict[str, Decision] = {}
    hubs = runs.read_hubs(connection)
    holders = runs.KeyIndex.of(runs.read_keys(connection)).holders(digest for digest, _, _ in hubs)
    for digest, page, count in hubs:
        records = tuple(sorted(holders.get(digest, ()))[:_HOLDERS_SHOWN])
        people = tuple(dict.fromkeys(map(state.person, records)))
        if records:
            reasons = (f"{count} records list it, so that it proves nothing",)
            decisions[page] = Decision(Kind.PAGE, people, records, page=page, reasons=reasons, value=count)
    for row in found.suggestions.suggestions:
        profile = canonical_profile(row.subject) if row.kind == SuggestionKind.LINK else None
        if profile is None or people_of((row.record, row.other), state.members) in asked:
            continue
        page = f"{profile.site}:{profile.key}"
        facts = tuple(Fact(row.record, row.other, text, 0.0) for text in row.facts)
        before = decisions.get(page)
        if before is None:
            people = tuple(dict.fromkeys((state.person(row.record), state.person(row.other))))
            decisions[page] = Decision(Kind.PAGE, people, (row.record, row.other), page=page, facts=facts)
        else:
            decisions[page] = replace(before, facts=(*before.facts, *facts))
    return list(decisions.values())


def _withheld(reads: ShortReads) -> Iterator[Decision]:
    for row in reads(withheld_for_review):
        kind = Kind.HELD if row.reason in (HELD, HELD_LINKED) else Kind.WITHHELD
        record = (row.source, row.source_id)
        yield Decision(kind, (record,), (record,), reasons=(withheld_in_words(row.reason),), value=1)


def _without_suppressed(
    reads: ShortReads, decisions: Sequence[Decision], state: _State, listed: Suppressions
) -> list[Decision]:
    """The decisions without people, pictures and pages on the list, also before the list is applied to the catalog."""
    if not listed.knows_evidence and not len(listed):
        return list(decisions)
    named = {
        record
        for row in decisions
        if row.kind not in (Kind.HELD, Kind.WITHHELD)
        for person in row.people
        for record in state.records(person)
    }
    urls = reads(review_details.read_urls, named)
    gone = {
        record
        for record in named
        if listed.degree(record[0], (record[1],), urls.get(record, ())) is not None or listed.is_held(*record)
    }
    people = {state.person(record) for record in gone}

    def is_listed(row: Decision) -> bool:
        if not people.isdisjoint(row.people):
            return True
        if row.image is not None:
            return listed.covers_picture(*row.image, url="")
        if row.page is not None:
            return profile_hash(listed.key, ProfileKey(*record_of(row.page))) in listed.urls
        return False

    return [row for row in decisions if not is_listed(row)]


def _with_values(connection: sa.Connection, decisions: Sequence[Decision], state: _State) -> list[Decision]:
    """The decisions with their sources, and with the faces and records of their people as value."""
    people = {person for row in decisions for person in row.people}
    records = {record for person in people for record in state.records(person)}
    faces = review_details.count_faces(connection, records)
    found = []
    for row in decisions:
        own = [record for person in row.people for record in state.records(person)] or list(row.records)
        value = sum(faces.get(record, 0) for record in own) + len(own)
        sources = frozenset(record[0] for record in own)
        found.append(replace(row, value=max(row.value, value), sources=sources))
    return found
