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
from stash_sense_pipeline.identity.face_matching.accepted_faces import accept
from stash_sense_pipeline.identity.face_matching.collisions import FaceSum, FaceSums
from stash_sense_pipeline.identity.face_matching.performer_faces import PerformerFaces
from stash_sense_pipeline.identity.face_matching.trust_policy import ChoiceRules, TrustPolicy
from stash_sense_pipeline.identity.face_matching.usable_faces import batches_with_vectors, usable_faces
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class TrustReport:
    """The results and changes of a run.

    `dropped` counts the faces left out, by reason. `rejected` counts records of reference sites with faces that do
    not match the performer's, by site. `collisions` counts the faces in quarantine.
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
) -> TrustReport:
    """Chooses the faces that represent each identity, and stores the differences in one transaction. Deterministic.

    Records of reference `sites` must agree: a record is removed when none of its faces agrees with the performer's, and
    the distances are kept. Faces of a record that was found by a name, or on a page that namesakes share, count only
    when they agree with faces of high trust, at any trust in their source.

    `source_caps`: most faces of one performer from a source. `trust`: high, medium or low, by source. Faces of a source
    that either lacks are not used. `models`: embedder name to the digest of its file, all of one pack; a face counts
    only with a vector of each. Raises ValueError without models.
    """
    if not models:
        raise ValueError("choosing trusted faces needs at least one model")
    begin = time.monotonic()
    rules = ChoiceRules(max_faces_per_performer, source_caps, trust, models, policy or TrustPolicy(), sites)
    made = _choose_all(ShortReads(engine), rules)
    with collector_paused(), writing(engine) as connection:
        lock_identity_writers(connection)
        choice = _current_part(connection, made)
        reject_records(connection, choice.rejected, datetime.now(UTC))
        added, removed, updated = store.store_trusted(
            connection, store.read_trusted(connection), choice.wanted
        )
        store.store_collisions(connection, choice.collisions, datetime.now(UTC))
    return TrustReport(
        performers=len({row.performer_id for row in choice.wanted.values()}),
        faces=len(choice.wanted),
        candidates=choice.candidates,
        collisions=len(choice.collisions),
        dropped=dict(sorted(choice.dropped.items())),
        faces_by_source=dict(sorted(Counter(row.source for row in choice.wanted.values()).items())),
        rejected=dict(sorted(Counter(rejection.source for rejection in choice.rejected).items())),
        added=added,
        removed=removed,
        updated=updated,
        seconds=time.monotonic() - begin,
    )


@dataclass(frozen=True)
class _Choice:
    """The chosen faces and the collisions by face id, the rejected records of sites, and the counts."""

    candidates: int
    wanted: Mapping[int, TrustedRow]
    collisions: Mapping[int, CollisionRow]
    rejected: Sequence[Rejection]
    dropped: Mapping[str, int]


def _choose_all(reads: ShortReads, rules: ChoiceRules) -> _Choice:
    """The choice for all performers. Reads their vectors twice, to keep only those of one batch in memory."""
    dropped: Counter[str] = Counter()
    unproven, rows, embedded = reads(_read, rules.sites, rules.models)
    candidates = len({row.face_id for row in rows})
    usable = usable_faces(rows, embedded, rules, dropped)
    rejected: list[Rejection] = []
    accepted: dict[int, list[CandidateRow]] = {}
    sums: dict[int, FaceSum] = {}
    for batch in batches_with_vectors(reads, usable, rules.models, dropped):
        for each in batch:
            performer = accept(each, rules, dropped, unproven, rejected if rules.sites else None)
            if performer.rows:
                accepted[performer.rows[0].performer_id] = performer.rows
                sums[performer.rows[0].performer_id] = FaceSum.of(performer)
    wanted: dict[int, TrustedRow] = {}
    collisions: dict[int, CollisionRow] = {}
    all_sums = FaceSums.of(sums)
    for batch in batches_with_vectors(reads, accepted, rules.models, dropped):
        found = all_sums.collisions(batch, rules.policy.collision_margin)
        collisions.update(found)
        for performer in batch:
            foreign = {i for i, row in enumerate(performer.rows) if row.face_id in found}
            own = performer.without(foreign, "nearer to another performer", dropped)
            for rank, row in enumerate(choose(own, rules, dropped)):
                wanted[row.face_id] = TrustedRow(row.performer_id, row.source, row.source_id, rank)
    of_sites = [rejection for rejection in rejected if rejection.source in rules.sites]
    return _Choice(candidates, wanted, collisions, of_sites, dropped)


def _read(
    connection: sa.Connection, sites: Collection[str], models: Mapping[str, str]
) -> tuple[frozenset[RecordKey], list[CandidateRow], set[int]]:
    """Records found without proof, candidates, and the faces with a vector of every model."""
    return (
        unproven_records(connection, sites),
        store.read_candidates(connection),
        store.faces_with_all(connection, models),
    )


def _current_part(connection: sa.Connection, choice: _Choice) -> _Choice:
    """The part of the choice with faces, records and performers that still belong together in the catalog.

    Faces and records that were erased, or moved to another performer, during the choice must not be stored.
    """
    wanted, collisions, rejected = choice.wanted, choice.collisions, choice.rejected
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
        rejected=[row for row in rejected if (row.performer_id, row.source, row.source_id) in records],
    )


def choose(performer: PerformerFaces, rules: ChoiceRules, dropped: Counter[str]) -> list[CandidateRow]:
    """The faces to trust among one performer's accepted faces, best first. Counts the others in `dropped`."""
    performer = performer.without(_near_duplicates(performer, rules.policy), "near duplicate", dropped)
    return _best_and_different(performer, rules, dropped)


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
    dropped: Counter[str],
) -> list[CandidateRow]:
    """Greedy choice by quality, distance to the nearest chosen face, and another pose, within the caps."""
    rows, policy = performer.rows, rules.policy
    if not rows:
        return []
    distance = np.mean(performer.distances(), axis=0)
    penalty = {"high": 0.0, "medium": policy.trust_penalty, "low": 2 * policy.trust_penalty}
    worth = np.array([row.quality - penalty[rules.trust[row.source]] for row in rows])
    nearest = np.ones(len(rows))
    yaw = np.array([row.yaw for row in rows])
    turned = np.full(len(rows), policy.pose_degrees)
    left = list(range(len(rows)))
    left_of_source = dict(rules.source_caps)
    chosen: list[int] = []
    while left and len(chosen) < rules.max_faces:
        # Rounded, so that the last bit of a sum does not decide; rows are sorted by quality and face_id.
        pose = policy.pose * np.minimum(turned[left] / policy.pose_degrees, 1.0)
        value = np.round(worth[left] + policy.diversity * np.minimum(nearest[left], 1.0) + pose, 4)
        best = left.pop(int(np.argmax(value)))
        if left_of_source[rows[best].source] < 1:
            dropped["cap of the source"] += 1
            continue
        left_of_source[rows[best].source] -= 1
        chosen.append(best)
        nearest = np.minimum(nearest, distance[best])
        turned = np.minimum(turned, np.abs(yaw - yaw[best]))
    dropped["cap of the performer"] += len(left)
    return [rows[i] for i in chosen]
