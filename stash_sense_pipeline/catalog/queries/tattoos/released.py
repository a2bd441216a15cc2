"""Tattoos of released people, their vectors, and of how many people pictures were searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.schema import (
    faces,
    tattoo_detections,
    tattoo_embeddings,
    tattoo_scans,
    trusted_faces,
)
from stash_sense_pipeline.catalog.upsert import batched


class TattooRow(NamedTuple):
    """One tattoo in a picture with one person, with a trusted face. The box is 0..1 of the upright picture."""

    tattoo_id: int
    performer_id: int
    face_id: int
    source: str
    image_id: str
    x: float
    y: float
    width: float
    height: float
    confidence: float
    location_hint: str | None


class SearchedPerson(NamedTuple):
    """A person with trusted faces: `pictures` of them, and how many of these were searched for tattoos."""

    performer_id: int
    pictures: int
    searched: int


def tattoos_of_trusted_faces(connection: sa.Connection, detector_digest: str) -> list[TattooRow]:
    """The tattoos that this detector found in pictures of trusted faces.

    Sorted by performer, rank of the face, and place in the picture: an order that does not depend on tattoo ids.
    """
    query = (
        sa.select(
            tattoo_detections.c.tattoo_id,
            trusted_faces.c.performer_id,
            tattoo_detections.c.face_id,
            faces.c.source,
            faces.c.image_id,
            *(tattoo_detections.c[name] for name in ("x", "y", "width", "height")),
            tattoo_detections.c.confidence,
            tattoo_detections.c.location_hint,
        )
        .join(tattoo_scans, tattoo_scans.c.face_id == tattoo_detections.c.face_id)
        .join(faces, faces.c.face_id == tattoo_detections.c.face_id)
        .join(trusted_faces, trusted_faces.c.face_id == tattoo_detections.c.face_id)
        .where(tattoo_scans.c.detector_digest == detector_digest)
        .order_by(
            trusted_faces.c.performer_id,
            trusted_faces.c.rank,
            tattoo_detections.c.face_id,
            tattoo_detections.c.tattoo_index,
        )
    )
    return [TattooRow._make(row) for row in streamed(connection, query)]


def searched_people(connection: sa.Connection, detector_digest: str) -> list[SearchedPerson]:
    """Each person with trusted faces, sorted. A picture with several people does not count as searched."""
    searched = sa.and_(
        tattoo_scans.c.face_id == trusted_faces.c.face_id,
        tattoo_scans.c.detector_digest == detector_digest,
        tattoo_scans.c.tattoos.is_not(None),
    )
    query = (
        sa.select(trusted_faces.c.performer_id, sa.func.count(), sa.func.count(tattoo_scans.c.face_id))
        .select_from(trusted_faces)
        .outerjoin(tattoo_scans, searched)
        .group_by(trusted_faces.c.performer_id)
        .order_by(trusted_faces.c.performer_id)
    )
    return [SearchedPerson._make(row) for row in streamed(connection, query)]


def tattoo_vectors(
    connection: sa.Connection, model_digest: str, tattoo_ids: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """The vectors of tattoos by one embedder, float32 (dimensions,) of length 1. A tattoo that waits has none."""
    found: dict[int, NDArray[np.float32]] = {}
    for batch in batched(tattoo_ids, IN_LIST):
        query = sa.select(tattoo_embeddings.c.tattoo_id, tattoo_embeddings.c.vector).where(
            tattoo_embeddings.c.tattoo_id.in_(batch), tattoo_embeddings.c.model_digest == model_digest
        )
        for tattoo_id, vector in connection.execute(query).all():
            found[tattoo_id] = np.frombuffer(vector, dtype="<f4")
    return found
