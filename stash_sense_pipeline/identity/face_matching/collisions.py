"""Finds faces that are nearer to another performer than to their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CollisionRow
from stash_sense_pipeline.identity.face_matching.performer_faces import PerformerFaces, Vectors
from stash_sense_pipeline.identity.face_matching.template_set import above


@dataclass(frozen=True)
class FaceSum:
    """The sum of the unit vectors of a performer, (dims of all models,), and the number of its faces."""

    total: Vectors
    faces: int

    @classmethod
    def of(cls, performer: PerformerFaces) -> FaceSum:
        """The sum over all faces of the performer."""
        return cls(np.concatenate([model.sum(axis=0) for model in performer.vectors]), len(performer.rows))


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

    def collisions(self, batch: Sequence[PerformerFaces], margin: float) -> dict[int, CollisionRow]:
        """Face id to the collision, for faces that are nearer to another performer by `margin` in every model.

        A performer's only face cannot be compared. The search is exact: every product is computed, in blocks.
        """
        judged = [performer for performer in batch if len(performer.rows) > 1]
        if not judged:
            return {}
        rows = [row for performer in judged for row in performer.rows]
        widths = [model.shape[1] for model in judged[0].vectors]
        faces = np.concatenate([np.concatenate(performer.vectors, axis=1) for performer in judged])
        mine = np.array([self.place_of[row.performer_id] for row in rows])
        others = _unit_parts(self.totals[mine] - faces, widths)
        own = _by_model(faces, others, widths)
        templates = _unit_parts(self.totals, widths)
        limit = (own.sum(axis=1) + margin * len(widths)).astype(np.float32)
        found: dict[int, CollisionRow] = {}
        for a, b, _ in above(templates, range(len(rows)), range(len(templates)), limit, faces):
            foreign = mine[a] != b
            a, b = a[foreign], b[foreign]
            nearer = _by_model(faces[a], templates[b], widths)
            for i in np.flatnonzero(np.all(nearer >= own[a] + margin, axis=1)):
                row, similarity = rows[int(a[i])], float(nearer[i].mean())
                known = found.get(row.face_id)
                if known is None or similarity > known.nearer_similarity:
                    found[row.face_id] = CollisionRow(
                        row.performer_id,
                        row.source,
                        row.source_id,
                        self.performers[int(b[i])],
                        round(float(own[a[i]].mean()), 4),
                        round(similarity, 4),
                    )
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
