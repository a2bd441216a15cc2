"""Faces, aligned crops and embeddings: store and reuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooScan, read_scan, store_scans
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    embeddings,
    faces,
    second_verdicts,
    source_images,
)
from stash_sense_pipeline.catalog.upsert import batched, upsert
from stash_sense_pipeline.records.record_key import ImageKey

_FACE_COLUMNS = tuple(
    column
    for column in faces.c
    if column.name not in ("face_id", "source", "image_id", "created_at", "second")
)
# Images with equal bytes. Executed for every fetched image, so it is built once.
_EQUAL_IMAGES = (
    sa.select(
        source_images.c.source,
        source_images.c.image_id,
        source_images.c.state,
        source_images.c.reason,
        source_images.c.picture_hash,
    )
    .where(
        source_images.c.sha256 == sa.bindparam("sha256"),
        source_images.c.detector_digest == sa.bindparam("detector"),
        source_images.c.judged_by == sa.bindparam("judged_by"),
        sa.or_(source_images.c.state == "done", source_images.c.state == "rejected"),
    )
    # One placeholder picture can be the image of thousands of performers, all with the same verdict.
    .limit(8)
)


# The same for the verdicts of the second pack.
_EQUAL_SECOND = (
    sa.select(
        second_verdicts.c.source,
        second_verdicts.c.image_id,
        second_verdicts.c.state,
        second_verdicts.c.reason,
        source_images.c.picture_hash,
    )
    .join(
        source_images,
        (source_images.c.source == second_verdicts.c.source)
        & (source_images.c.image_id == second_verdicts.c.image_id),
    )
    .where(
        source_images.c.sha256 == sa.bindparam("sha256"),
        second_verdicts.c.detector_digest == sa.bindparam("detector"),
        second_verdicts.c.judged_by == sa.bindparam("judged_by"),
    )
    .limit(8)
)


@dataclass(frozen=True)
class StoredFace:
    """One face to store for an image. `columns`: of the table `faces`. `png`: the aligned crop. `picture_hash`: of the
    image. `vectors`: rows of `embeddings` that exist already. `tattoos`: those in the image; None: it was not searched.
    """

    columns: Mapping[str, Any]
    png: bytes | None
    picture_hash: str | None
    vectors: Sequence[Mapping[str, Any]] = ()
    tattoos: TattooScan | None = None


@dataclass(frozen=True)
class Judged:
    """The verdict on an image: its state, the reason when it was rejected, the face when it is done."""

    state: str
    reason: str | None
    face: StoredFace | None


@dataclass(frozen=True)
class Judge:
    """What decides on an image: the detector, the criteria as text, and the models (name → digest) of the pack.

    `second`: the pack is the second one.
    """

    detector_digest: str
    judged_by: str
    digests: Mapping[str, str]
    second: bool = False


def find_judged(connection: sa.Connection, sha256: str, judge: Judge) -> Judged | None:
    """The verdict on an image with these bytes in any source, by the same detector and rules, or None.

    A done image counts only if its face can be copied completely: with its crop, or with a vector of each model.
    """
    asked = {"sha256": sha256, "detector": judge.detector_digest, "judged_by": judge.judged_by}
    rows = connection.execute(_EQUAL_SECOND if judge.second else _EQUAL_IMAGES, asked).all()
    for source, image_id, state, reason, picture_hash in rows:
        if state == "rejected":
            return Judged(state, reason, None)
        face = _stored_face(connection, (source, image_id), picture_hash, judge)
        if face is not None:
            return Judged(state, None, face)
    return None


def _stored_face(
    connection: sa.Connection, image: ImageKey, picture_hash: str | None, judge: Judge
) -> StoredFace | None:
    digests = judge.digests
    row = connection.execute(
        sa.select(faces.c.face_id, *_FACE_COLUMNS).where(
            faces.c.source == image[0], faces.c.image_id == image[1], faces.c.second.is_(judge.second)
        )
    ).first()
    if row is None:
        return None
    columns = dict(row._mapping)
    face_id = columns.pop("face_id")
    png = connection.scalar(sa.select(aligned_crops.c.png).where(aligned_crops.c.face_id == face_id))
    vectors = connection.execute(
        sa.select(embeddings.c.model, embeddings.c.vector, embeddings.c.pack, embeddings.c.model_digest)
        .where(embeddings.c.face_id == face_id)
        .order_by(embeddings.c.model)
    ).all()
    current = [dict(row._mapping) for row in vectors if digests.get(row.model) == row.model_digest]
    if png is None and len(current) < len(digests):
        return None
    return StoredFace(columns, png, picture_hash, current, read_scan(connection, face_id))


def store_faces(
    connection: sa.Connection,
    source: str,
    found: Sequence[tuple[str, StoredFace]],
    now: datetime,
    second: bool = False,
) -> None:
    """Stores one face for each (image_id, face). It replaces the faces that this pack has of the image.

    `second`: the faces are of the second pack.
    """
    if not found:
        return
    image_ids = [image_id for image_id, _ in found]
    forget_faces(connection, source, image_ids, faces.c.second.is_(second))
    # The packs may have changed places.
    detectors = {face.columns["detector_digest"] for _, face in found}
    forget_faces(connection, source, image_ids, faces.c.detector_digest.in_(detectors))
    rows = [
        {**face.columns, "source": source, "image_id": image_id, "created_at": now, "second": second}
        for image_id, face in found
    ]
    face_ids = connection.scalars(
        sa.insert(faces).returning(faces.c.face_id, sort_by_parameter_order=True), rows
    ).all()
    stored = [(face_id, face) for face_id, (_, face) in zip(face_ids, found, strict=True)]
    crops = [{"face_id": face_id, "png": face.png} for face_id, face in stored if face.png is not None]
    upsert(connection, aligned_crops, crops)
    vectors = [
        {"face_id": face_id, "created_at": now, **vector}
        for face_id, face in stored
        for vector in face.vectors
    ]
    upsert(connection, embeddings, vectors)
    scans = [(face_id, face.tattoos) for face_id, face in stored if face.tattoos is not None]
    store_scans(connection, scans, now)


def forget_faces(
    connection: sa.Connection,
    source: str,
    image_ids: Sequence[str],
    which: sa.ColumnElement[bool] | None = None,
) -> None:
    """Removes the faces of images with their crops, vectors and tattoos; with `which` those that fulfil this condition."""
    for ids in batched(image_ids, IN_LIST):
        query = sa.delete(faces).where(faces.c.source == source, faces.c.image_id.in_(ids))
        connection.execute(query if which is None else query.where(which))


def forget_first(connection: sa.Connection, source: str, image_ids: Sequence[str]) -> None:
    """Removes the faces that the first pack has of images."""
    forget_faces(connection, source, image_ids, ~faces.c.second)


def forget_second(connection: sa.Connection, source: str, image_ids: Sequence[str]) -> None:
    """Removes the verdicts of the second pack on images, and its faces."""
    forget_faces(connection, source, image_ids, faces.c.second)
    for ids in batched(image_ids, IN_LIST):
        connection.execute(
            sa.delete(second_verdicts).where(
                second_verdicts.c.source == source, second_verdicts.c.image_id.in_(ids)
            )
        )


def store_second_verdicts(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores verdicts of the second pack; each replaces the one on the same image."""
    upsert(connection, second_verdicts, rows)
