"""Chooses the faces that represent a performer: trust, quality, diversity, caps."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import trusted_faces as store
from stash_sense_pipeline.catalog.queries.identity.identities import lock_identity_writers
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, CollisionRow, TrustedRow
from stash_sense_pipeline.catalog.queries.site_records import Rejection, reject_records, unproven_records
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.identity.face_matching.cleaning import clean
from stash_sense_pipeline.identity.face_matching.performer_faces import LeftOut, PerformerFaces, Reason
from stash_sense_pipeline.identity.face_matching.trust_policy import ChoiceRules, TrustPolicy
from stash_sense_pipeline.identity.face_matching.usable_faces import batches_with_vectors, usable_faces
from stash_sense_pipeline.identity.linkage.face_verdicts import resolve_verdicts
from stash_sense_pipeline.identity.linkage.overrides import NO_OVERRIDES, Overrides
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class TrustReport:
    """The results and changes of a run.

    `dropped` counts the faces left out, by reason. `rejected` counts records of reference sites with faces that do
    not match the performer's, by site. `collisions` counts the faces in quarantine, `hubs` the faces near too many
    people, `faceless` the people that lost every face. `rounds`: see cleaning.clean.
    """

    performers: int
    faces: int
    candidates: int
    collisions: int
    dropped: Mapping[str, int]
    faces_by_source: Mapping[str, int]
    added: int
    removed: int
    updated: int
    seconds: float
    rejected: Mapping[str, int] = field(default_factory=dict)
    hubs: int = 0
    faceless: int = 0
    rounds: int = 0

    @property
    def changed(self) -> bool:
        """True when the run wrote anything."""
        return self.added + self.removed + self.updated > 0


def choose_trusted_faces(
    engine: sa.Engine,
    *,
    max_faces_per_performer: int,
    source_caps: Mapping[str, int],
    trust: Mapping[str, str],
    models: Mapping[str, str],
    policy: TrustPolicy | None = None,
    sites: Collection[str] = (),
    overrides: Overrides = NO_OVERRIDES,
    second_detector: str | None = None,
) -> TrustReport:
    """Chooses the faces that represent each identity, and stores the differences in one transaction. Deterministic.

    Records of reference `sites` must agree: a record is removed when none of its faces agrees with the performer's, and
    the distances are kept. Faces of a record that was found by a name, or on a page that namesakes share, count only
    when they agree with faces of high trust, at any trust in their source.

    `source_caps`: most faces of one performer from a source. `trust`: high, medium or low, by source. Faces of a source
    that either lacks are not used. `models`: embedder name to the digest of its file, all of one pack; a face counts
    only with a vector of each. `overrides`: the faces that its verdicts name are not chosen. With `second_detector`, the
    digest of the second pack's detector, faces of that pack are chosen and stored, and nothing else changes. Raises
    ValueError without models.
    """
    if not models:
        raise ValueError("choosing trusted faces needs at least one model")
    begin = time.monotonic()
    reads = ShortReads(engine)
    verdicts = resolve_verdicts(reads, overrides.path, overrides.face_verdicts)
    rules = ChoiceRules(
        max_faces_per_performer, source_caps, trust, models, policy or TrustPolicy(), sites, verdicts
    )
    made = _choose_all(reads, rules, second_detector)
    with collector_paused(), writing(engine) as connection:
        lock_identity_writers(connection)
        choice = _current_part(connection, made)
        second = second_detector is not None
        stored = store.read_trusted(connection, second)
        added, removed, updated = store.store_trusted(connection, stored, choice.wanted, second)
        faceless = {} if second else _store_reasons(connection, choice)
    return TrustReport(
        performers=len({row.performer_id for row in choice.wanted.values()}),
        faces=len(choice.wanted),
        candidates=choice.candidates,
        collisions=len(choice.collisions),
        dropped=dict(sorted(choice.left_out.counts.items())),
        faces_by_source=dict(sorted(Counter(row.source for row in choice.wanted.values()).items())),
        rejected=dict(sorted(Counter(rejection.source for rejection in choice.rejected).items())),
        added=added,
        removed=removed,
        updated=updated,
        seconds=time.monotonic() - begin,
        hubs=choice.left_out.counts[Reason.HUB],
        faceless=len(faceless),
        rounds=choice.rounds,
    )


def _store_reasons(connection: sa.Connection, choice: _Choice) -> Mapping[int, object]:
    """Stores which records and faces are left out, and why. Returns the people without a face."""
    reject_records(connection, choice.rejected, datetime.now(UTC))
    store.store_collisions(connection, choice.collisions, datetime.now(UTC))
    store.store_exclusions(connection, choice.left_out.rows, datetime.now(UTC))
    return store.people_without_a_face(connection)


@dataclass(frozen=True)
class _Choice:
    """The chosen faces and the collisions by face id, the faces left out, and the rejected records of sites."""

    candidates: int
    wanted: Mapping[int, TrustedRow]
    collisions: Mapping[int, CollisionRow]
    left_out: LeftOut
    rejected: Sequence[Rejection]
    rounds: int


def _choose_all(reads: ShortReads, rules: ChoiceRules, second_detector: str | None) -> _Choice:
    """The choice for all performers. Reads their vectors several times, to keep only those of one batch in memory."""
    left_out = LeftOut()
    unproven, rows, embedded = reads(_read, rules.sites, rules.models, second_detector)
    candidates = len({row.face_id for row in rows})
    disowned = rules.verdicts.disowned(reads) if rules.verdicts.other_people else set()
    usable = usable_faces(rows, embedded, disowned, rules, left_out)
    people = clean(reads, usable, rules, unproven, left_out)
    wanted: dict[int, TrustedRow] = {}
    for batch in batches_with_vectors(reads, people.rows, rules.models, left_out):
        for performer in batch:
            for rank, row in enumerate(choose(performer, rules, left_out)):
                wanted[row.face_id] = TrustedRow(row.performer_id, row.source, row.source_id, rank)
    of_sites = [rejection for rejection in people.rejected if rejection.source in rules.sites]
    return _Choice(candidates, wanted, people.collisions, left_out, of_sites, people.rounds)


def _read(
    connection: sa.Connection, sites: Collection[str], models: Mapping[str, str], second_detector: str | None
) -> tuple[frozenset[RecordKey], list[CandidateRow], set[int]]:
    """Records found without proof, candidates, and the faces with a vector of every model."""
    return (
        unproven_records(connection, sites),
        store.read_candidates(connection, second_detector),
        store.faces_with_all(connection, models),
    )


def _current_part(connection: sa.Connection, choice: _Choice) -> _Choice:
    """The part of the choice with faces, records and performers that still belong together in the catalog.

    Faces and records that were erased, or moved to another performer, during the choice must not be stored. The faces of
    rejected records are deleted with them.
    """
    wanted, collisions, rejected = choice.wanted, choice.collisions, choice.rejected
    excluded = choice.left_out.rows
    excluding: set[tuple[int, int]] = set()
    faces: set[int] = set()
    colliding: set[int] = set()
    performers: set[int] = set()
    records: set[tuple[int, str, str]] = set()
    asked = {(row.performer_id, row.source, row.source_id) for row in rejected}
    for face_id, performer_id, source, source_id in store.read_owners(connection):
        owner = (performer_id, source, source_id)
        performers.add(performer_id)
        if face_id in wanted and wanted[face_id][:3] == owner:
            faces.add(face_id)
        if face_id in collisions and collisions[face_id][:3] == owner:
            colliding.add(face_id)
        if (row := excluded.get((face_id, performer_id))) is not None and row[:3] == owner:
            excluding.add((face_id, performer_id))
        if owner in asked:
            records.add(owner)
    return replace(
        choice,
        wanted={face_id: row for face_id, row in wanted.items() if face_id in faces},
        collisions={
            face_id: row
            for face_id, row in collisions.items()
            if face_id in colliding and row.nearer_to in performers
        },
        left_out=replace(
            choice.left_out,
            rows={key: excluded[key] for key in sorted(excluding) if excluded[key][:3] not in records},
        ),
        rejected=[row for row in rejected if (row.performer_id, row.source, row.source_id) in records],
    )


def choose(performer: PerformerFaces, rules: ChoiceRules, left_out: LeftOut) -> list[CandidateRow]:
    """The faces to trust among one performer's accepted faces, best first. Adds the others to `left_out`."""
    performer = performer.without(_near_duplicates(performer, rules.policy), "near duplicate", left_out)
    return _best_and_different(performer, rules, left_out)


def _near_duplicates(performer: PerformerFaces, policy: TrustPolicy) -> set[int]:
    """Faces that are near a better one in every model, and faces that would crowd the sidecar's twenty nearest."""
    distances = performer.distances()
    furthest = np.max(distances, axis=0)
    crowded = np.min(distances, axis=0) < policy.crowd_distance
    kept: list[int] = []
    for i in range(len(performer.rows)):
        if kept and furthest[i, kept].min() < policy.near_duplicate:
            continue
        near = [j for j in kept if crowded[i, j]]
        if len(near) >= policy.crowd or any(crowded[j, kept].sum() >= policy.crowd for j in near):
            continue
        kept.append(i)
    return set(range(len(performer.rows))) - set(kept)


def _best_and_different(
    performer: PerformerFaces,
    rules: ChoiceRules,
    left_out: LeftOut,
) -> list[CandidateRow]:
    """Greedy choice by quality, distance to the nearest chosen face, and another pose, within the caps."""
    rows, policy = performer.rows, rules.policy
    if not rows:
        return []
    distance = np.mean(performer.distances(), axis=0)
    penalty = {"high": 0.0, "medium": policy.trust_penalty, "low": 2 * policy.trust_penalty}
    worth = np.array([row.quality - penalty[rules.trust_of(row)] for row in rows])
    nearest = np.ones(len(rows))
    yaw = np.array([row.yaw for row in rows])
    turned = np.full(len(rows), policy.pose_degrees)
    left = list(range(len(rows)))
    left_of_source = dict(rules.source_caps)
    chosen: list[int] = []
    while left and len(chosen) < rules.max_faces:
        # Rounded, so that the last bit of a sum does not decide; rows are sorted by quality and picture.
        pose = policy.pose * np.minimum(turned[left] / policy.pose_degrees, 1.0)
        value = np.round(worth[left] + policy.diversity * np.minimum(nearest[left], 1.0) + pose, 4)
        best = left.pop(int(np.argmax(value)))
        if left_of_source[rows[best].source] < 1:
            left_out.counts["cap of the source"] += 1
            continue
        left_of_source[rows[best].source] -= 1
        chosen.append(best)
        nearest = np.minimum(nearest, distance[best])
        turned = np.minimum(turned, np.abs(yaw - yaw[best]))
    left_out.counts["cap of the performer"] += len(left)
    return [rows[i] for i in chosen]
