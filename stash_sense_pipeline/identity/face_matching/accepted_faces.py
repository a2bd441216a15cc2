"""Accepts the faces of one performer that agree with each other, by trust."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stash_sense_pipeline.catalog.queries.site_records import Rejection
from stash_sense_pipeline.identity.face_matching.face_templates import outliers
from stash_sense_pipeline.identity.face_matching.performer_faces import (
    LeftOut,
    PerformerFaces,
    Reason,
    Vectors,
)
from stash_sense_pipeline.identity.face_matching.trust_policy import ChoiceRules, TrustPolicy
from stash_sense_pipeline.records.record_key import RecordKey


def accept(
    performer: PerformerFaces,
    rules: ChoiceRules,
    left_out: LeftOut,
    unproven: frozenset[RecordKey] = frozenset(),
    rejected: list[Rejection] | None = None,
) -> PerformerFaces:
    """The faces of one performer that agree with each other.

    `unproven` are records that were found by a name, or on a page that namesakes share. Adds the faces left out to
    `left_out`, and records of which no face agrees to `rejected`. Accepting the result again changes nothing.
    """
    policy = rules.policy
    levels = {
        row.face_id: "unproven" if (row.source, row.source_id) in unproven else rules.trust_of(row)
        for row in performer.rows
    }
    performer = performer.without(_outliers(performer, levels, policy), Reason.OUTLIER, left_out)
    disagreeing = _disagreeing(performer, levels, policy)
    if rejected is not None and disagreeing:
        rejected += _rejections(performer, levels, disagreeing, policy)
    performer = performer.without(disagreeing, Reason.NO_AGREEMENT, left_out)
    return performer.without(_second_faces(performer), Reason.SECOND_FACE, left_out)


def _outliers(performer: PerformerFaces, levels: Mapping[int, str], policy: TrustPolicy) -> set[int]:
    """Faces that resemble none of the others in any model.

    Only faces of high trust are compared. Faces of lower trust must agree with them and cannot outvote them.
    """
    high = [i for i, row in enumerate(performer.rows) if levels[row.face_id] == "high"]
    similarities = [model[high] @ model[high].T for model in performer.vectors]
    return {high[i] for i in outliers(similarities, policy.outlier_similarity, policy.outlier_faces)}


def _disagreeing(performer: PerformerFaces, levels: Mapping[int, str], policy: TrustPolicy) -> set[int]:
    """Faces of lower trust that no face of higher trust supports."""
    of_row = [levels[row.face_id] for row in performer.rows]
    if all(level == "high" for level in of_row):
        return set()
    distance = np.mean(performer.distances(), axis=0)
    references = [i for i, level in enumerate(of_row) if level == "high"]
    accepted = list(references)
    medium = [i for i, level in enumerate(of_row) if level == "medium"]
    if references:
        largest = policy.largest_distance(len(references))
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


def _second_faces(performer: PerformerFaces) -> set[int]:
    """All but one face of each picture: a person is in a picture once. The face most like the others stays."""
    pictures: dict[object, list[int]] = defaultdict(list)
    for i, row in enumerate(performer.rows):
        pictures[row.sha256 or (row.source, row.image_id)].append(i)
    second: set[int] = set()
    for faces in pictures.values():
        if len(faces) > 1:
            others = [i for i in range(len(performer.rows)) if i not in faces]
            # Rounded, so that the last bit of a sum does not decide; rows are sorted by quality and picture.
            near = [
                round(float(np.mean([model[i] @ model[others].T for model in performer.vectors])), 4)
                if others
                else 0.0
                for i in faces
            ]
            second |= set(faces) - {faces[int(np.argmax(near))]}
    return second


def _rejections(
    performer: PerformerFaces, levels: Mapping[int, str], disagreeing: set[int], policy: TrustPolicy
) -> Iterator[Rejection]:
    """Records of lower trust that have no face near a face of high trust. None without faces of high trust."""
    references = [i for i, row in enumerate(performer.rows) if levels[row.face_id] == "high"]
    if not references:
        return
    of_record: dict[RecordKey, list[int]] = defaultdict(list)
    for i, row in enumerate(performer.rows):
        if levels[row.face_id] != "high":
            of_record[row.source, row.source_id].append(i)
    distance = np.mean(performer.distances(), axis=0)
    for (source, source_id), faces in sorted(of_record.items()):
        if disagreeing.issuperset(faces):
            nearest = float(distance[np.ix_(faces, references)].min())
            limit = policy.largest_distance(len(references))
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
    """The largest group of two or more faces that are linked by distances up to `limit`; empty on a tie."""
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
    """The cosine distance between the mean vectors of two groups, as a mean over the models."""
    distances: list[float] = []
    for model in performer.vectors:
        a, b = model[list(first)].mean(axis=0), model[list(second)].mean(axis=0)
        distances.append(float(1.0 - (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))))
    return float(np.mean(distances))
