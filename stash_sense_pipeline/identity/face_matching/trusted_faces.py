"""Chooses the faces that represent a performer: trust, quality, diversity, caps."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import trusted_faces as store
from stash_sense_pipeline.catalog.queries.identity.identities import hold_still
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, CollisionRow, TrustedRow
from stash_sense_pipeline.catalog.queries.site_records import (
    Rejection,
    reject_records,
    unproven_records,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.identity.face_matching.collisions import Likeness, Likenesses
from stash_sense_pipeline.identity.face_matching.face_templates import outliers
from stash_sense_pipeline.identity.face_matching.performer_faces import PerformerFaces, Vectors
from stash_sense_pipeline.identity.face_matching.shared_pictures import ShownPicture, shared_pictures
from stash_sense_pipeline.records.record_key import RecordKey

# Vectors of so many faces are in memory at once: 2 models of 512 dimensions make 80 MB.
_FACES_AT_ONCE = 20_000


@dataclass(frozen=True)
class TrustPolicy:
    """The numbers of the choice. Distances are cosine distances of raw embeddings, similarities are cosines.

    `near_duplicate`: the same shot, when every model agrees. Re-encoded copies stay below 0.05; different photos of
    one person are rarely below 0.1. The default is on the careful side.
    `crowd`, `crowd_distance`: the sidecar drops a model's answer when its 20 nearest faces are all about equally near
    (below 0.10, within 0.05), so fewer than that may stand together.
    `outlier_similarity`, `outlier_faces`: with at least so many faces, one is foreign when its mean similarity to
    the others is below this in every model; strangers' faces have about 0, photos of one person seldom below 0.3.
    `agreement`: (references up to, largest distance) for faces of medium trust, of the predecessor's validator; the
    distance is the mean over the models, as the sidecar combines them. `cluster_distance`, `centroid_distance`: for
    faces with no such reference, of its design for low trust.
    `diversity`, `trust_penalty`: what difference from the faces already chosen, and a lower trust, count against
    quality (0..1). `pose`, `pose_degrees`: what another turn of the head counts, in full from so many degrees of yaw.
    `collision_margin`: a face is somebody else's when every model finds it nearer to the template of another performer
    than to the other faces of its own, by at least this cosine.
    """

    near_duplicate: float = 0.03
    crowd: int = 19
    crowd_distance: float = 0.10
    outlier_similarity: float = 0.20
    outlier_faces: int = 3
    agreement: tuple[tuple[int, float], ...] = ((1, 0.35), (3, 0.40), (1_000_000, 0.45))
    cluster_distance: float = 0.40
    centroid_distance: float = 0.45
    diversity: float = 0.5
    trust_penalty: float = 0.1
    pose: float = 0.2
    pose_degrees: float = 30.0
    collision_margin: float = 0.10


@dataclass(frozen=True)
class TrustReport:
    """What a run chose and changed. `dropped` counts the faces left out, by reason; `rejected` the records of
    reference sites whose faces are strangers to the person's, by site; `collisions` the faces in quarantine."""

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
        """Did the run write anything?"""
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
    """Chooses the faces that represent each identity and stores the differences, in one transaction.

    Records of reference `sites` must agree: one whose faces are all strangers to the person's own is removed, and the
    distances are kept. Faces of a record that was found by a name, or on a page that namesakes share, count only when
    they agree with faces of high trust, whatever the trust in their source.

    `source_caps`: most faces of one performer from a source; `trust`: high, medium or low, by source. Faces of
    sources in neither are not used. `models`: embedder name to the digest of its file, all of one pack: a face
    counts only with a vector of each. Deterministic.
    """
    if not models:
        raise ValueError("choosing trusted faces needs at least one model")
    begin = time.monotonic()
    policy = policy or TrustPolicy()
    dropped: Counter[str] = Counter()
    wanted: dict[int, TrustedRow] = {}
    rejected: list[Rejection] = []
    collisions: dict[int, CollisionRow] = {}
    reads = ShortReads(engine)
    unproven, rows, embedded = reads(_read, sites, models)
    candidates = len({row.face_id for row in rows})
    usable = _usable(rows, embedded, source_caps, trust, dropped)
    accepted: dict[int, list[CandidateRow]] = {}
    likenesses: dict[int, Likeness] = {}
    for performer in _with_vectors(reads, usable, models, dropped):
        performer = accept(performer, trust, policy, dropped, unproven, rejected if sites else None)
        if performer.rows:
            accepted[performer.rows[0].performer_id] = performer.rows
            likenesses[performer.rows[0].performer_id] = Likeness.of(performer)
    everybody = Likenesses.of(likenesses)
    for batch in _batches_with_vectors(reads, accepted, models, dropped):
        found = everybody.collisions(batch, policy.collision_margin)
        collisions.update(found)
        for performer in batch:
            foreign = {i for i, row in enumerate(performer.rows) if row.face_id in found}
            performer = _without(performer, foreign, "nearer to another performer", dropped)
            chosen = choose(performer, max_faces_per_performer, source_caps, trust, policy, dropped)
            for rank, row in enumerate(chosen):
                wanted[row.face_id] = TrustedRow(row.performer_id, row.source, row.source_id, rank)
    del rows, usable, accepted, everybody
    of_sites = [rejection for rejection in rejected if rejection.source in sites]
    with collector_paused(), writing(engine) as connection:
        hold_still(connection)
        wanted, collisions, of_sites = _still_true(connection, wanted, collisions, of_sites)
        reject_records(connection, of_sites, datetime.now(UTC))
        added, removed, updated = store.store_trusted(connection, store.read_trusted(connection), wanted)
        store.store_collisions(connection, collisions, datetime.now(UTC))
    return TrustReport(
        performers=len({row.performer_id for row in wanted.values()}),
        faces=len(wanted),
        candidates=candidates,
        collisions=len(collisions),
        dropped=dict(sorted(dropped.items())),
        faces_by_source=dict(sorted(Counter(row.source for row in wanted.values()).items())),
        rejected=dict(sorted(Counter(rejection.source for rejection in of_sites).items())),
        added=added,
        removed=removed,
        updated=updated,
        seconds=time.monotonic() - begin,
    )


def _read(
    connection: sa.Connection, sites: Collection[str], models: Mapping[str, str]
) -> tuple[frozenset[RecordKey], list[CandidateRow], set[int]]:
    """Records found without proof, candidates, and the faces with a vector of every model."""
    return (
        unproven_records(connection, sites),
        store.read_candidates(connection),
        store.faces_with_all(connection, models),
    )


def _still_true(
    connection: sa.Connection,
    wanted: Mapping[int, TrustedRow],
    collisions: Mapping[int, CollisionRow],
    rejected: Sequence[Rejection],
) -> tuple[dict[int, TrustedRow], dict[int, CollisionRow], list[Rejection]]:
    """What of the choice names faces, records and performers that still belong together.

    What was erased, or moved to another performer, while the choice was made must not come back.
    """
    faces: set[int] = set()
    colliding: set[int] = set()
    performers: set[int] = set()
    records: set[tuple[int, str, str]] = set()
    asked = {(row.performer_id, row.source, row.source_id) for row in rejected}
    for face_id, performer_id, source, source_id in store.read_owners(connection):
        whose = (performer_id, source, source_id)
        performers.add(performer_id)
        if face_id in wanted and wanted[face_id][:3] == whose:
            faces.add(face_id)
        if face_id in collisions and collisions[face_id][:3] == whose:
            colliding.add(face_id)
        if whose in asked:
            records.add(whose)
    return (
        {face_id: row for face_id, row in wanted.items() if face_id in faces},
        {
            face_id: row
            for face_id, row in collisions.items()
            if face_id in colliding and row.nearer_to in performers
        },
        [row for row in rejected if (row.performer_id, row.source, row.source_id) in records],
    )


def accept(
    performer: PerformerFaces,
    trust: Mapping[str, str],
    policy: TrustPolicy,
    dropped: Counter[str],
    unproven: frozenset[RecordKey] = frozenset(),
    rejected: list[Rejection] | None = None,
) -> PerformerFaces:
    """One performer's faces that agree with each other; counts the others in `dropped`, and adds the records of which
    no face agrees to `rejected`."""
    levels = {
        row.face_id: "unproven" if (row.source, row.source_id) in unproven else trust[row.source]
        for row in performer.rows
    }
    performer = _without(performer, _outliers(performer, levels, policy), "outlier", dropped)
    strangers = _disagreeing(performer, levels, policy)
    if rejected is not None and strangers:
        rejected += _rejections(performer, levels, strangers, policy)
    return _without(performer, strangers, "no agreement", dropped)


def choose(
    performer: PerformerFaces,
    max_faces: int,
    source_caps: Mapping[str, int],
    trust: Mapping[str, str],
    policy: TrustPolicy,
    dropped: Counter[str],
) -> list[CandidateRow]:
    """Of one performer's accepted faces those to trust, best first; counts the others in `dropped`."""
    performer = _without(performer, _near_duplicates(performer, policy), "near duplicate", dropped)
    return _best_and_different(performer, max_faces, source_caps, trust, policy, dropped)


def _usable(
    rows: Sequence[CandidateRow],
    embedded: set[int],
    source_caps: Mapping[str, int],
    trust: Mapping[str, str],
    dropped: Counter[str],
) -> dict[int, list[CandidateRow]]:
    """Candidates by performer, each face once and each image's bytes once, best quality first.

    None of a picture that several people of one source show, or of bytes that several people have anywhere.
    """
    shared = shared_pictures(
        ShownPicture(row.source, row.image_id, row.performer_id, row.sha256, row.picture_hash) for row in rows
    )
    owners_of_bytes: dict[str, set[int]] = defaultdict(set)
    faces_of_image: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        faces_of_image[row.source, row.image_id].add(row.face_id)
        if row.sha256 is not None:
            owners_of_bytes[row.sha256].add(row.performer_id)
    first: dict[int, CandidateRow] = {}
    for row in rows:
        first.setdefault(row.face_id, row)
    kept: dict[int, list[CandidateRow]] = defaultdict(list)
    seen_bytes: set[tuple[str, int]] = set()
    for row in sorted(first.values(), key=lambda row: (-row.quality, row.face_id)):
        image = (row.source, row.image_id)
        several = len(faces_of_image[image]) > 1
        if row.source not in trust or source_caps.get(row.source, 0) < 1:
            dropped["source not in use"] += 1
        elif image in shared or (row.sha256 and len(owners_of_bytes[row.sha256]) > 1):
            dropped["image of several people"] += 1
        elif several and trust[row.source] == "high":
            dropped["several faces"] += 1
        elif row.face_id not in embedded:
            dropped["no embedding"] += 1
        elif row.sha256 and not several and (row.sha256, row.performer_id) in seen_bytes:
            dropped["same image"] += 1
        else:
            if row.sha256:
                seen_bytes.add((row.sha256, row.performer_id))
            kept[row.performer_id].append(row)
    return dict(sorted(kept.items()))


def _with_vectors(
    reads: ShortReads,
    usable: Mapping[int, list[CandidateRow]],
    models: Mapping[str, str],
    dropped: Counter[str],
) -> Iterator[PerformerFaces]:
    """Performers with their vectors."""
    for batch in _batches_with_vectors(reads, usable, models, dropped):
        yield from batch


def _batches_with_vectors(
    reads: ShortReads,
    usable: Mapping[int, list[CandidateRow]],
    models: Mapping[str, str],
    dropped: Counter[str],
) -> Iterator[list[PerformerFaces]]:
    """Performers with their vectors, some thousand faces at a time."""
    batch: list[list[CandidateRow]] = []
    size = 0
    for rows in usable.values():
        batch.append(rows)
        size += len(rows)
        if size >= _FACES_AT_ONCE:
            yield list(_load(reads, batch, models, dropped))
            batch, size = [], 0
    yield list(_load(reads, batch, models, dropped))


def _load(
    reads: ShortReads,
    batch: Sequence[list[CandidateRow]],
    models: Mapping[str, str],
    dropped: Counter[str],
) -> Iterator[PerformerFaces]:
    ids = sorted(row.face_id for rows in batch for row in rows)
    found = [reads(store.read_vectors, model, digest, ids) for model, digest in sorted(models.items())]
    for listed in batch:
        rows = [row for row in listed if all(row.face_id in vectors for vectors in found)]
        if len(rows) < len(listed):
            dropped["no embedding"] += len(listed) - len(rows)
        if not rows:
            continue
        stacks = [np.stack([vectors[row.face_id] for row in rows]) for vectors in found]
        norms = [np.linalg.norm(stack, axis=1) for stack in stacks]
        good = np.all([np.isfinite(norm) & (norm > 0) for norm in norms], axis=0)
        if not good.all():
            dropped["unusable vector"] += int((~good).sum())
        yield PerformerFaces(
            [row for row, fine in zip(rows, good, strict=True) if fine],
            [
                np.asarray(stack[good] / norm[good, None], dtype=np.float32)
                for stack, norm in zip(stacks, norms, strict=True)
            ],
        )


def _without(
    performer: PerformerFaces, unwanted: set[int], reason: str, dropped: Counter[str]
) -> PerformerFaces:
    if not unwanted:
        return performer
    dropped[reason] += len(unwanted)
    return performer.keep([i for i in range(len(performer.rows)) if i not in unwanted])


def _outliers(performer: PerformerFaces, levels: Mapping[int, str], policy: TrustPolicy) -> set[int]:
    """Faces that are like none of the others in any model.

    Only faces of high trust are compared: lesser ones must agree with those, and may not outvote them.
    """
    high = [i for i, row in enumerate(performer.rows) if levels[row.face_id] == "high"]
    similarities = [model[high] @ model[high].T for model in performer.vectors]
    return {high[i] for i in outliers(similarities, policy.outlier_similarity, policy.outlier_faces)}


def _disagreeing(performer: PerformerFaces, levels: Mapping[int, str], policy: TrustPolicy) -> set[int]:
    """Faces of medium and low trust that nothing better bears out."""
    of_row = [levels[row.face_id] for row in performer.rows]
    if all(level == "high" for level in of_row):
        return set()
    distance = np.mean(performer.distances(), axis=0)
    references = [i for i, level in enumerate(of_row) if level == "high"]
    accepted = list(references)
    medium = [i for i, level in enumerate(of_row) if level == "medium"]
    if references:
        largest = _largest(policy, len(references))
        unproven = [i for i, level in enumerate(of_row) if level == "unproven"]
        accepted += [i for i in (*medium, *unproven) if distance[i, references].min() <= largest]
    else:
        accepted += _dominant_cluster(distance, medium, policy.cluster_distance)
    low = _dominant_cluster(
        distance, [i for i, level in enumerate(of_row) if level == "low"], policy.cluster_distance
    )
    if low and (not accepted or _centroid_distance(performer, low, accepted) <= policy.centroid_distance):
        accepted += low
    return set(range(len(of_row))) - set(accepted)


def _largest(policy: TrustPolicy, references: int) -> float:
    """The largest distance that is agreement, with so many references."""
    return next(limit for count, limit in policy.agreement if references <= count)


def _rejections(
    performer: PerformerFaces, levels: Mapping[int, str], strangers: set[int], policy: TrustPolicy
) -> Iterator[Rejection]:
    """The records of lesser trust all of whose faces are strangers to the faces of high trust, if there are any."""
    references = [i for i, row in enumerate(performer.rows) if levels[row.face_id] == "high"]
    if not references:
        return
    of_record: dict[RecordKey, list[int]] = defaultdict(list)
    for i, row in enumerate(performer.rows):
        if levels[row.face_id] != "high":
            of_record[row.source, row.source_id].append(i)
    distance = np.mean(performer.distances(), axis=0)
    for (source, source_id), faces in sorted(of_record.items()):
        if strangers.issuperset(faces):
            nearest = float(distance[np.ix_(faces, references)].min())
            limit = _largest(policy, len(references))
            if nearest > limit:
                yield Rejection(
                    source,
                    source_id,
                    performer.rows[0].performer_id,
                    len(faces),
                    len(references),
                    nearest,
                    limit,
                )


def _dominant_cluster(distance: Vectors, faces: Sequence[int], limit: float) -> list[int]:
    """The largest group of at least two faces chained by distances up to `limit`; none if two are largest."""
    clusters: list[list[int]] = []
    left = list(faces)
    while left:
        cluster = [left.pop(0)]
        for member in cluster:
            near = [i for i in left if distance[member, i] <= limit]
            cluster += near
            left = [i for i in left if i not in near]
        clusters.append(sorted(cluster))
    clusters.sort(key=len, reverse=True)
    if not clusters or len(clusters[0]) < 2 or (len(clusters) > 1 and len(clusters[1]) == len(clusters[0])):
        return []
    return clusters[0]


def _centroid_distance(performer: PerformerFaces, first: Sequence[int], second: Sequence[int]) -> float:
    """Mean over the models of the cosine distance between the mean vectors of two groups."""
    distances: list[float] = []
    for model in performer.vectors:
        a, b = model[list(first)].mean(axis=0), model[list(second)].mean(axis=0)
        distances.append(float(1.0 - (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))))
    return float(np.mean(distances))


def _near_duplicates(performer: PerformerFaces, policy: TrustPolicy) -> set[int]:
    """Faces that every model puts next to a better one, and those that would crowd the sidecar's nearest twenty."""
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
    max_faces: int,
    source_caps: Mapping[str, int],
    trust: Mapping[str, str],
    policy: TrustPolicy,
    dropped: Counter[str],
) -> list[CandidateRow]:
    """Greedy: quality, distance to the nearest face already chosen, and another pose; caps per source and in all."""
    rows = performer.rows
    if not rows:
        return []
    distance = np.mean(performer.distances(), axis=0)
    penalty = {"high": 0.0, "medium": policy.trust_penalty, "low": 2 * policy.trust_penalty}
    worth = np.array([row.quality - penalty[trust[row.source]] for row in rows])
    nearest = np.ones(len(rows))
    yaw = np.array([row.yaw for row in rows])
    turned = np.full(len(rows), policy.pose_degrees)
    left = list(range(len(rows)))
    room = dict(source_caps)
    chosen: list[int] = []
    while left and len(chosen) < max_faces:
        # Quantised, so that the last bit of a sum cannot decide; rows are in order of quality and face_id.
        pose = policy.pose * np.minimum(turned[left] / policy.pose_degrees, 1.0)
        value = np.round(worth[left] + policy.diversity * np.minimum(nearest[left], 1.0) + pose, 4)
        best = left.pop(int(np.argmax(value)))
        if room[rows[best].source] < 1:
            dropped["cap of the source"] += 1
            continue
        room[rows[best].source] -= 1
        chosen.append(best)
        nearest = np.minimum(nearest, distance[best])
        turned = np.minimum(turned, np.abs(yaw - yaw[best]))
    dropped["cap of the performer"] += len(left)
    return [rows[i] for i in chosen]
