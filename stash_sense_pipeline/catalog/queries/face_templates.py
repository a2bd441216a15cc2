"""Faces that belong to one record only, and the mean vector of each record."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import (
    embeddings,
    face_templates,
    faces,
    performer_images,
    source_images,
)
from stash_sense_pipeline.catalog.upsert import batched, upsert
from stash_sense_pipeline.records.record_key import RecordKey

# Templates of two models with 512 dimensions: two megabytes per batch.
_RECORDS_PER_BATCH = 1_000


class OwnFace(NamedTuple):
    """The single face of an image that is on one record of its source only."""

    face_id: int
    source: str
    source_id: str
    image_id: str
    sha256: str | None
    quality: float


class Template(NamedTuple):
    """The mean of the vectors of a record's faces. `vector`: float16 (sum of the models' dimensions,)."""

    faces: int
    vector: NDArray[np.float16]


def own_faces(models: Mapping[str, str]) -> sa.Select[Any]:
    """Query for the columns of OwnFace, of faces of the first pack with a vector of every model (name to digest).

    Without models it has no rows.
    """
    shown, image = performer_images.c, source_images.c
    other_face, other_owner = faces.alias(), performer_images.alias()
    query = (
        sa.select(
            faces.c.face_id, shown.source, shown.source_id, shown.image_id, image.sha256, faces.c.quality
        )
        .select_from(performer_images)
        .join(source_images, (image.source == shown.source) & (image.image_id == shown.image_id))
        .join(faces, (faces.c.source == shown.source) & (faces.c.image_id == shown.image_id))
        .where(
            ~sa.exists().where(
                other_owner.c.source == shown.source,
                other_owner.c.image_id == shown.image_id,
                other_owner.c.source_id != shown.source_id,
            ),
            ~sa.exists().where(
                other_face.c.source == faces.c.source,
                other_face.c.image_id == faces.c.image_id,
                other_face.c.face_id != faces.c.face_id,
                ~other_face.c.second,
            ),
            ~faces.c.second,
        )
    )
    for model, digest in sorted(models.items()):
        query = query.where(
            sa.exists().where(
                embeddings.c.face_id == faces.c.face_id,
                embeddings.c.model == model,
                embeddings.c.model_digest == digest,
            )
        )
    return query if models else query.where(sa.false())


def read_own_faces(
    connection: sa.Connection, models: Mapping[str, str], records: Collection[RecordKey] | None = None
) -> list[OwnFace]:
    """Own faces of all records, or of `records`, sorted by record and face_id."""
    shown = performer_images.c
    query = own_faces(models).order_by(shown.source, shown.source_id, faces.c.face_id)
    if records is None:
        return [OwnFace._make(row) for row in streamed(connection, query)]
    found: list[OwnFace] = []
    for some in of_records(shown.source, shown.source_id, records):
        found += [OwnFace._make(row) for row in connection.execute(query.where(some))]
    return found


def read_shown_pictures(
    connection: sa.Connection,
) -> Iterator[tuple[str, str, str, str | None, str | None]]:
    """(source, image_id, source_id, sha256, picture_hash) of the images with a face, a row for each record."""
    shown, image = performer_images.c, source_images.c
    query = (
        sa.select(shown.source, shown.image_id, shown.source_id, image.sha256, image.picture_hash)
        .select_from(performer_images)
        .join(source_images, (image.source == shown.source) & (image.image_id == shown.image_id))
        .where(image.state == "done", sa.or_(image.sha256.is_not(None), image.picture_hash.is_not(None)))
    )
    return streamed(connection, query)


def count_templates(connection: sa.Connection, models: str) -> int:
    """The number of templates made with these models, given by their digest."""
    count = sa.select(sa.func.count()).where(face_templates.c.models == models)
    return connection.scalar(count) or 0


def read_templates(
    connection: sa.Connection, models: str, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, Template]:
    """Templates made with these models, given by their digest: of all records, or of those in `wanted`, sorted by record."""
    table = face_templates.c
    query = (
        sa.select(table.source, table.source_id, table.faces, table.vector)
        .where(table.models == models)
        .order_by(table.source, table.source_id)
    )
    if wanted is None:
        rows: Iterable[Any] = streamed(connection, query)
    else:
        parts = map(query.where, of_records(table.source, table.source_id, wanted))
        rows = chain.from_iterable(map(connection.execute, parts))
    return {
        (source, source_id): Template(count, np.frombuffer(vector, dtype="<f2"))
        for source, source_id, count, vector in rows
    }


def store_templates(
    connection: sa.Connection,
    models: str,
    found: Mapping[RecordKey, Template],
    asked: Collection[RecordKey] | None,
) -> int:
    """Makes the stored templates of the records `asked` (None for all) equal to `found`.

    Returns the number of rows written and removed.
    """
    table = face_templates
    if asked is None:
        keys = sa.select(table.c.source, table.c.source_id)
        asked = {(source, source_id) for source, source_id in streamed(connection, keys)} | found.keys()
    return sum(
        _store_some(connection, models, found, some) for some in batched(sorted(asked), _RECORDS_PER_BATCH)
    )


def _store_some(
    connection: sa.Connection, models: str, found: Mapping[RecordKey, Template], asked: Sequence[RecordKey]
) -> int:
    table = face_templates
    columns = (table.c.source, table.c.source_id, table.c.faces, table.c.models, table.c.vector)
    query, key = sa.select(*columns), (table.c.source, table.c.source_id)
    stored = {
        (source, source_id): tuple(facts)
        for some in of_records(*key, asked)
        for source, source_id, *facts in connection.execute(query.where(some))
    }
    wanted = {
        record: (found[record].faces, models, found[record].vector.astype("<f2").tobytes())
        for record in asked
        if record in found
    }
    for some in of_records(*key, stored.keys() - wanted.keys()):
        connection.execute(table.delete().where(some))
    rows = [
        {"source": record[0], "source_id": record[1], "faces": row[0], "models": row[1], "vector": row[2]}
        for record, row in sorted(wanted.items())
        if stored.get(record) != row
    ]
    upsert(connection, table, rows)
    return len(stored.keys() - wanted.keys()) + len(rows)
