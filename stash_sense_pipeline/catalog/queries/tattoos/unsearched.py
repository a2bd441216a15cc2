"""Images with a face that the networks of a pack have not searched for tattoos: count, and make due again."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels
from stash_sense_pipeline.catalog.schema import (
    claimed_faces,
    faces,
    source_images,
    tattoo_crops,
    tattoo_detections,
    tattoo_embeddings,
    tattoo_scans,
)


def count_unsearched(connection: sa.Connection, source: str, models: TattooModels) -> int:
    """The number of images of a source with a face that must be fetched for their tattoos, due or not."""
    query = sa.select(sa.func.count()).select_from(source_images).where(unsearched(source, models))
    return connection.scalar(query) or 0


def reopen_unsearched(connection: sa.Connection, source: str, models: TattooModels, now: datetime) -> int:
    """Makes these images due, unless they have a time for their next attempt. Returns their number.

    The images stay done: their faces are in use until they are fetched.
    """
    result = connection.execute(
        sa.update(source_images)
        .where(unsearched(source, models), source_images.c.next_attempt_at.is_(None))
        .values(next_attempt_at=now, attempts=0, refusals=0)
    )
    return result.rowcount


def unsearched(source: str, models: TattooModels) -> sa.ColumnElement[bool]:
    """Condition on `source_images`: done, with a face that was not searched, or with a tattoo that cannot be embedded.

    A face that came from a release is left out: the pictures of such faces are looked at a few each night.
    """
    has_crop = sa.exists().where(tattoo_crops.c.tattoo_id == tattoo_detections.c.tattoo_id)
    has_vector = sa.exists().where(
        tattoo_embeddings.c.tattoo_id == tattoo_detections.c.tattoo_id,
        tattoo_embeddings.c.model_digest == models.embedder,
    )
    searched = sa.exists().where(
        tattoo_scans.c.face_id == faces.c.face_id, tattoo_scans.c.detector_digest == models.detector
    )
    incomplete = sa.exists().where(tattoo_detections.c.face_id == faces.c.face_id, ~has_crop, ~has_vector)
    images = sa.select(faces.c.image_id).where(
        faces.c.source == source,
        ~faces.c.second,
        ~sa.exists().where(claimed_faces.c.face_id == faces.c.face_id),
        sa.or_(~searched, incomplete),
    )
    return sa.and_(
        source_images.c.source == source,
        source_images.c.state == ImageState.DONE,
        source_images.c.image_id.in_(images),
    )
