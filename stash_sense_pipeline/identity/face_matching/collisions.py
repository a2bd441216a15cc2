"""Compares faces with the templates of other performers: collisions, and hubs, which are near many people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, CollisionRow
from stash_sense_pipeline.identity.face_matching.performer_faces import PerformerFaces, Vectors
from stash_sense_pipeline.identity.face_matching.template_set import above
from stash_sense_pipeline.identity.face_matching.trust_policy import TrustPolicy


@dataclass(frozen=True)
class FaceSum:
    """The sum of the unit vectors of a performer, (dims of all models,), and the number of its faces."""

    total: Vectors
    faces: int

    @classmethod
    def of(cls, performer: PerformerFaces) -> FaceSum:
        """The sum over all faces of the performer."""
        return cls(np.concatenate([model.sum(axis=0) for model in performer.vectors]), len(performer.rows))


@dataclass
class Neighbours:
    """What was found about faces, by face_id: collisions, and the number of other performers that a face is `near`."""

    collisions: dict[int, CollisionRow] = field(default_factory=dict)
    near: Counter[int] = field(default_factory=Counter)

    def add(self, row: CandidateRow, nearer_to: int, own: float, other: float) -> None:
        """Keeps the collision of a face with the nearest performer, of equally near ones that with the lower id."""
        rank = (round(other, 4), -nearer_to)
        known = self.collisions.get(row.face_id)
        if known is None or rank > (known.nearer_similarity, -known.nearer_to):
            facts = (row.performer_id, row.source, row.source_id, nearer_to, round(own, 4), rank[0])
            self.collisions[row.face_id] = CollisionRow(*facts)

    def update(self, other: Neighbours) -> None:
        """Adds what was found in another part of the faces or templates."""
        self.near.update(other.near)
        for face_id, row in other.collisions.items():
            known = self.collisions.get(face_id)
            if known is None or (row.nearer_similarity, -row.nearer_to) > (
                known.nearer_similarity,
                -known.nearer_to,
            ):
                self.collisions[face_id] = row


@dataclass(frozen=True)
class ComparedFaces:
    """Faces to compare with templates: their rows, unit vectors (faces, dims of all models) and performers.

    `own` (faces, models): the cosines to the other faces of their performers, with the margin of a collision. Products
    up to `limit` show neither a collision nor a near performer.
    """

    rows: Sequence[CandidateRow]
    vectors: Vectors
    performers: NDArray[np.int64]
    widths: Sequence[int]
    own: Vectors
    limit: Vectors


@dataclass(frozen=True)
class FaceSums:
    """The face sums of all performers: `totals` (performers, dims of all models)."""

    performers: tuple[int, ...]
    place_of: Mapping[int, int]
    totals: Vectors
    faces: tuple[int, ...]

    @classmethod
    def of(cls, found: Mapping[int, FaceSum]) -> FaceSums:
        """The sums in the order of performer ids."""
        performers = tuple(sorted(found))
        totals = (
            np.stack([found[p].total for p in performers]) if performers else np.zeros((0, 1), np.float32)
        )
        faces = tuple(found[performer].faces for performer in performers)
        return cls(performers, {p: i for i, p in enumerate(performers)}, totals.astype(np.float32), faces)

    def compared(self, batch: Sequence[PerformerFaces], policy: TrustPolicy) -> ComparedFaces | None:
        """The faces of a batch, for `compare`; None for an empty batch. A performer's only face cannot collide."""
        if not batch:
            return None
        rows = [row for performer in batch for row in performer.rows]
        widths = [model.shape[1] for model in batch[0].vectors]
        models = zip(*(performer.vectors for performer in batch), strict=True)
        vectors = np.concatenate([np.concatenate(model) for model in models], axis=1)
        mine = np.array([self.place_of[row.performer_id] for row in rows])
        others = _unit_parts(self.totals[mine] - vectors, widths)
        own = _by_model(vectors, others, widths) + policy.collision_margin
        own[np.array(self.faces)[mine] < 2] = np.inf
        # Slightly lowered, because products of blocks are not exact to the last bit.
        near = (1 - policy.hub_distance) * len(widths)
        limit = (np.minimum(own.sum(axis=1), near) - 1e-4).astype(np.float32)
        performers = np.array([row.performer_id for row in rows], np.int64)
        return ComparedFaces(rows, vectors, performers, widths, own, limit)

    def compare(
        self, faces: ComparedFaces | None, policy: TrustPolicy, among: Collection[int] | None = None
    ) -> Neighbours:
        """Compares faces with the templates of other performers, all or those `among` them.

        A face collides when it is nearer to another performer by the margin in every model. The search is exact: every
        product is computed, in blocks.
        """
        known = self.performers if among is None else sorted(p for p in among if p in self.place_of)
        found = Neighbours()
        if faces is None or not known:
            return found
        performers = np.array(known, np.int64)
        totals = self.totals if among is None else self.totals[[self.place_of[p] for p in known]]
        templates = _unit_parts(totals, faces.widths)
        rows, vectors = faces.rows, faces.vectors
        near = np.zeros(len(rows), np.int64)
        for a, place, _ in above(templates, range(len(rows)), range(len(templates)), faces.limit, vectors):
            foreign = faces.performers[a] != performers[place]
            a, place = a[foreign], place[foreign]
            nearer = _by_model(vectors[a], templates[place], faces.widths)
            means = nearer.mean(axis=1)
            near += np.bincount(a[means >= 1 - policy.hub_distance], minlength=len(rows))
            for i in np.flatnonzero(np.all(nearer >= faces.own[a], axis=1)).tolist():
                own = float(faces.own[a[i]].mean()) - policy.collision_margin
                found.add(rows[int(a[i])], int(performers[place[i]]), own, float(means[i]))
        found.near.update({rows[i].face_id: int(near[i]) for i in np.flatnonzero(near).tolist()})
        return found


def _unit_parts(vectors: Vectors, widths: Sequence[int]) -> Vectors:
    """The vectors with each model's part scaled to unit length; zeros stay zero."""
    units = vectors.copy()
    begin = 0
    for width in widths:
        part = units[:, begin : begin + width]
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        np.divide(part, norms, out=part, where=norms > 0)
        begin += width
    return units


def _by_model(a: Vectors, b: Vectors, widths: Sequence[int]) -> Vectors:
    """Cosines of the rows of unit vectors, (rows, models)."""
    edges = np.cumsum([0, *widths])
    parts = [np.einsum("ij,ij->i", a[:, begin:end], b[:, begin:end]) for begin, end in pairwise(edges)]
    return np.stack(parts, axis=1)
