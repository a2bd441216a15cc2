"""Sample rows of each table for the UI, without anything that identifies a person.

The rows are stored in the run history, which outlives the catalog. They therefore have no name, URL or image, and no id
of a record either: the id at a reference site contains the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    embeddings,
    faces,
    identity_members,
    performer_images,
    source_performers,
    tattoo_detections,
    tattoo_embeddings,
    trusted_faces,
)
from stash_sense_pipeline.catalog.transactions import reading

_ROWS = 5

Rows = Sequence[Mapping[str, Any]]


def changed_performers(engine: sa.Engine, source: str) -> Rows:
    """The records of a source that changed last, with their numbers of images."""
    table, links = source_performers.c, performer_images.c
    images = sa.select(sa.func.count()).where(
        links.source == table.source, links.source_id == table.source_id
    )
    query = (
        sa.select(table.changed_at, table.updated_at, table.gender, images.scalar_subquery().label("images"))
        .where(table.source == source, table.deleted_at.is_(None))
        .order_by(table.updated_at.desc(), table.source_id)
    )
    return _first(engine, query)


def newest_faces(engine: sa.Engine, source: str) -> Rows:
    """The faces of a source that were found last."""
    table = faces.c
    query = (
        sa.select(table.face_id, table.detection_confidence, table.yaw, table.quality)
        .where(table.source == source)
        .order_by(table.face_id.desc())
    )
    return _first(engine, query)


def newest_embeddings(engine: sa.Engine, source: str) -> Rows:
    """The embeddings of a source's newest faces, with model and pack."""
    table = embeddings.c
    bytes_ = sa.func.length(table.vector).label("bytes")
    query = (
        sa.select(table.face_id, table.model, table.pack, sa.func.substr(table.model_digest, 1, 12), bytes_)
        .join(faces, faces.c.face_id == table.face_id)
        .where(faces.c.source == source)
        .order_by(table.face_id.desc(), table.model)
    )
    return _first(engine, query)


def newest_tattoos(engine: sa.Engine, source: str) -> Rows:
    """The tattoos of a source's newest faces with tattoos, and whether they have a vector."""
    table = tattoo_detections.c
    embedded = sa.exists().where(tattoo_embeddings.c.tattoo_id == table.tattoo_id).label("embedded")
    query = (
        sa.select(table.tattoo_id, table.confidence, table.location_hint, embedded)
        .join(faces, faces.c.face_id == table.face_id)
        .where(faces.c.source == source)
        .order_by(table.tattoo_id.desc())
    )
    return _first(engine, query)


def largest_identities(engine: sa.Engine) -> Rows:
    """The identities with the most records."""
    table = identity_members.c
    records = sa.func.count().label("records")
    query = (
        sa.select(table.performer_id, records, sa.func.count(table.source.distinct()).label("sources"))
        .group_by(table.performer_id)
        .order_by(records.desc(), table.performer_id)
    )
    return _first(engine, query)


def first_trusted_faces(engine: sa.Engine) -> Rows:
    """The first trusted faces in release order."""
    table = trusted_faces.c
    query = sa.select(table.performer_id, table.rank, table.face_id, table.source).order_by(
        table.performer_id, table.rank
    )
    return _first(engine, query)


def _first(engine: sa.Engine, query: sa.Select[Any]) -> Rows:
    with reading(engine) as connection:
        return [dict(row._mapping) for row in connection.execute(query.limit(_ROWS))]
