"""Searched pictures and the tattoos in them: store with a face, and read for a copy of the face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    faces,
    tattoo_crops,
    tattoo_detections,
    tattoo_embeddings,
    tattoo_scans,
)
from stash_sense_pipeline.catalog.upsert import upsert


class TattooModels(NamedTuple):
    """The digests of the two networks of a pack that find and embed tattoos."""

    detector: str
    embedder: str


@dataclass(frozen=True)
class StoredTattoo:
    """One tattoo to store. `columns`: of `tattoo_detections`. `png`: its crop. `vector`: a row of `tattoo_embeddings`."""

    columns: Mapping[str, Any]
    png: bytes | None
    vector: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TattooScan:
    """What one picture of a face was found to show. `tattoos` is None when it shows several people."""

    detector_digest: str
    tattoos: Sequence[StoredTattoo] | None


_COLUMNS = tuple(column for column in tattoo_detections.c if column.name not in ("tattoo_id", "face_id"))
_VECTOR = tuple(column for column in tattoo_embeddings.c if column.name not in ("tattoo_id", "created_at"))


def store_scans(connection: sa.Connection, scans: Sequence[tuple[int, TattooScan]], now: datetime) -> None:
    """Stores the scans of faces without one, given as (face_id, scan)."""
    rows = [
        {
            "face_id": face_id,
            "detector_digest": scan.detector_digest,
            "tattoos": None if scan.tattoos is None else len(scan.tattoos),
            "scanned_at": now,
        }
        for face_id, scan in scans
    ]
    upsert(connection, tattoo_scans, rows)
    found = [(face_id, tattoo) for face_id, scan in scans for tattoo in scan.tattoos or ()]
    if not found:
        return
    tattoo_ids = connection.scalars(
        sa.insert(tattoo_detections).returning(tattoo_detections.c.tattoo_id, sort_by_parameter_order=True),
        [{**tattoo.columns, "face_id": face_id} for face_id, tattoo in found],
    ).all()
    stored = [(tattoo_id, tattoo) for tattoo_id, (_, tattoo) in zip(tattoo_ids, found, strict=True)]
    crops = [{"tattoo_id": key, "png": each.png} for key, each in stored if each.png is not None]
    upsert(connection, tattoo_crops, crops)
    vectors = [
        {"tattoo_id": key, "created_at": now, **each.vector}
        for key, each in stored
        if each.vector is not None
    ]
    upsert(connection, tattoo_embeddings, vectors)


def read_scan(connection: sa.Connection, face_id: int) -> TattooScan | None:
    """The stored scan of a face, for a copy of the face; None without one."""
    scan = connection.execute(
        sa.select(tattoo_scans.c.detector_digest, tattoo_scans.c.tattoos).where(
            tattoo_scans.c.face_id == face_id
        )
    ).first()
    if scan is None:
        return None
    if scan.tattoos is None:
        return TattooScan(scan.detector_digest, None)
    rows = connection.execute(
        sa.select(*_COLUMNS, tattoo_crops.c.png, *_VECTOR)
        .select_from(tattoo_detections)
        .outerjoin(tattoo_crops, tattoo_crops.c.tattoo_id == tattoo_detections.c.tattoo_id)
        .outerjoin(tattoo_embeddings, tattoo_embeddings.c.tattoo_id == tattoo_detections.c.tattoo_id)
        .where(tattoo_detections.c.face_id == face_id)
        .order_by(tattoo_detections.c.tattoo_index)
    ).all()
    return TattooScan(scan.detector_digest, [_stored_tattoo(row._mapping) for row in rows])


def lacks_scan(connection: sa.Connection, source: str, image_id: str, models: TattooModels) -> bool:
    """Whether an image has a face of the first pack without a scan that these networks can use."""
    face_id = _first_face(connection, source, image_id)
    return face_id is not None and usable_scan(read_scan(connection, face_id), models) is None


def replace_scan(
    connection: sa.Connection, source: str, image_id: str, scan: TattooScan, now: datetime
) -> None:
    """Stores the scan of the first pack's face of an image instead of the one that it has. Without a face, nothing."""
    face_id = _first_face(connection, source, image_id)
    if face_id is None:
        return
    connection.execute(sa.delete(tattoo_detections).where(tattoo_detections.c.face_id == face_id))
    connection.execute(sa.delete(tattoo_scans).where(tattoo_scans.c.face_id == face_id))
    store_scans(connection, [(face_id, scan)], now)


def _first_face(connection: sa.Connection, source: str, image_id: str) -> int | None:
    query = sa.select(faces.c.face_id).where(
        faces.c.source == source, faces.c.image_id == image_id, ~faces.c.second
    )
    return connection.execute(query).scalar()


def usable_scan(scan: TattooScan | None, models: TattooModels) -> TattooScan | None:
    """The scan with only vectors of this embedder; None when it is by another detector, or lacks what a vector needs."""
    if scan is None or scan.detector_digest != models.detector:
        return None
    if scan.tattoos is None:
        return scan
    tattoos = [
        replace(each, vector=each.vector if _is_by(each.vector, models.embedder) else None)
        for each in scan.tattoos
    ]
    return replace(scan, tattoos=tattoos) if all(each.png or each.vector for each in tattoos) else None


def _is_by(vector: Mapping[str, Any] | None, digest: str) -> bool:
    return vector is not None and vector["model_digest"] == digest


def _stored_tattoo(row: Mapping[Any, Any]) -> StoredTattoo:
    vector = {column.name: row[column] for column in _VECTOR}
    return StoredTattoo(
        {column.name: row[column] for column in _COLUMNS},
        row[tattoo_crops.c.png],
        vector if vector["vector"] is not None else None,
    )
