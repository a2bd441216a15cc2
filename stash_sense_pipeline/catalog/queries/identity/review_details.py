"""Reads for the review: details of records, their faces and pages, and the aligned crops that are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    faces,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
    trusted_faces,
)
from stash_sense_pipeline.records.record_key import RecordKey

_DETAILS = (
    *("source", "source_id", "name", "disambiguation", "gender", "birth_date", "death_date", "country"),
    *("career_start_year", "career_end_year"),
)


class RecordDetails(NamedTuple):
    """What a source says about a performer, as far as it tells people apart."""

    source: str
    source_id: str
    name: str | None
    disambiguation: str | None
    gender: str | None
    birth_date: str | None
    death_date: str | None
    country: str | None
    career_start_year: int | None
    career_end_year: int | None


class ListedFace(NamedTuple):
    """A face of an image that a record lists. `rank`: its rank among the trusted faces, None when it is not trusted."""

    face_id: int
    source: str
    source_id: str
    image_id: str
    quality: float
    rank: int | None


class FaceOrigin(NamedTuple):
    """How to show a face: its image, the digest of the image's bytes, and its landmarks."""

    source: str
    image_id: str
    url: str
    sha256: str | None
    landmarks: bytes


def read_details(connection: sa.Connection, wanted: Collection[RecordKey]) -> dict[RecordKey, RecordDetails]:
    """The details of the live records among `wanted`."""
    table = source_performers.c
    query = sa.select(*(table[name] for name in _DETAILS)).where(
        table.deleted_at.is_(None), table.merged_into.is_(None)
    )
    return {
        (row.source, row.source_id): RecordDetails._make(row)
        for some in of_records(table.source, table.source_id, wanted)
        for row in connection.execute(query.where(some))
    }


def read_urls(connection: sa.Connection, wanted: Collection[RecordKey]) -> dict[RecordKey, list[str]]:
    """The URLs that these records list, sorted."""
    table = performer_urls.c
    query = sa.select(table.source, table.source_id, table.url).order_by(table.url)
    found: dict[RecordKey, list[str]] = defaultdict(list)
    for some in of_records(table.source, table.source_id, wanted):
        for source, source_id, url in connection.execute(query.where(some)):
            found[source, source_id].append(url)
    return dict(found)


def count_faces(connection: sa.Connection, wanted: Collection[RecordKey]) -> dict[RecordKey, int]:
    """The number of faces of the images that each of these records lists."""
    shown = performer_images.c
    query = (
        sa.select(shown.source, shown.source_id, sa.func.count())
        .join(faces, (faces.c.source == shown.source) & (faces.c.image_id == shown.image_id))
        .where(~faces.c.second)
        .group_by(shown.source, shown.source_id)
    )
    return {
        (source, source_id): count
        for some in of_records(shown.source, shown.source_id, wanted)
        for source, source_id, count in connection.execute(query.where(some))
    }


def read_listed_faces(connection: sa.Connection, wanted: Collection[RecordKey]) -> list[ListedFace]:
    """The faces of the images that these records list: trusted ones by rank first, then by quality."""
    shown = performer_images.c
    query = (
        sa.select(
            faces.c.face_id,
            shown.source,
            shown.source_id,
            faces.c.image_id,
            faces.c.quality,
            trusted_faces.c.rank,
        )
        .join(faces, (faces.c.source == shown.source) & (faces.c.image_id == shown.image_id))
        .outerjoin(trusted_faces, trusted_faces.c.face_id == faces.c.face_id)
        .where(~faces.c.second)
    )
    found = [
        ListedFace._make(row)
        for some in of_records(shown.source, shown.source_id, wanted)
        for row in connection.execute(query.where(some))
    ]
    return sorted(
        found, key=lambda row: (row.rank is None, row.rank or 0, -row.quality, row.face_id, row.source_id)
    )


def read_origin(connection: sa.Connection, face_id: int) -> FaceOrigin | None:
    """How to show a face; None when the catalog does not hold it any more."""
    query = (
        sa.select(
            faces.c.source,
            faces.c.image_id,
            source_images.c.url,
            source_images.c.sha256,
            faces.c.landmarks,
        )
        .join(
            source_images,
            (source_images.c.source == faces.c.source) & (source_images.c.image_id == faces.c.image_id),
        )
        .where(faces.c.face_id == face_id)
    )
    row = connection.execute(query).first()
    return None if row is None else FaceOrigin._make(row)


def read_kept_crop(connection: sa.Connection, face_id: int) -> bytes | None:
    """The crop of a face as PNG; None when the catalog does not keep it."""
    return connection.scalar(sa.select(aligned_crops.c.png).where(aligned_crops.c.face_id == face_id))
