"""Input of identity: source records with their aliases, URLs and images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import rows_of_records
from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import (
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey


class RecordRow(NamedTuple):
    """The fields of a source record that identity uses. `slug` and `number`: other ids of the record at its source."""

    source: str
    source_id: str
    name: str | None
    gender: str | None
    birth_date: str | None
    country: str | None
    ethnicity: str | None
    eye_color: str | None
    height_cm: int | None
    live: bool
    merged_into: str | None
    slug: str | None
    number: str | None


def read_records(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> Iterator[RecordRow]:
    """All records of all sources, including tombstones, or those in `wanted`."""
    table = source_performers.c
    query = sa.select(
        table.source,
        table.source_id,
        table.name,
        table.gender,
        table.birth_date,
        table.country,
        table.ethnicity,
        table.eye_color,
        table.height_cm,
        sa.and_(table.deleted_at.is_(None), table.merged_into.is_(None)),
        table.merged_into,
        table.raw["slug"].as_string(),
        table.raw["_id"].as_string(),
    )
    return map(RecordRow._make, rows_of_records(connection, query, table, wanted))


def read_merged_into(connection: sa.Connection, survivors: Collection[RecordKey]) -> list[RecordKey]:
    """The records that their source has merged directly into one of `survivors`."""
    table = source_performers.c
    query = sa.select(table.source, table.source_id)
    return [
        (source, source_id)
        for some in of_records(table.source, table.merged_into, survivors)
        for source, source_id in connection.execute(query.where(some))
    ]


def population_state(connection: sa.Connection) -> tuple[Any, ...]:
    """A value that changes when records are added, removed or changed, or images are processed or removed."""
    table, image = source_performers.c, source_images.c
    latest = sa.select(sa.func.max(table.changed_at)).scalar_subquery()
    query = sa.select(
        sa.select(sa.func.count()).select_from(source_performers).scalar_subquery(),
        latest,
        sa.select(sa.func.count()).where(table.changed_at == latest).scalar_subquery(),
        sa.select(sa.func.max(image.processed_at)).scalar_subquery(),
        sa.select(sa.func.count()).select_from(source_images).scalar_subquery(),
    )
    return tuple(connection.execute(query).one())


def read_aliases(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, list[str]]:
    """The aliases of each record with aliases."""
    table = performer_aliases.c
    query = sa.select(table.source, table.source_id, table.alias)
    return _grouped(rows_of_records(connection, query, table, wanted))


def read_urls(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, list[str]]:
    """The URLs of each record with URLs."""
    table = performer_urls.c
    query = sa.select(table.source, table.source_id, table.url)
    return _grouped(rows_of_records(connection, query, table, wanted))


def read_images(
    connection: sa.Connection, shared: Collection[ImageKey], wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, list[str]]:
    """The SHA-256 of each record's images with a face, without the images in `shared`."""
    image, shown = source_images.c, performer_images.c
    query = (
        sa.select(shown.source, shown.source_id, shown.image_id, image.sha256)
        .join(source_images, (image.source == shown.source) & (image.image_id == shown.image_id))
        .where(image.state == "done", image.sha256.is_not(None))
    )
    return _grouped(
        (source, source_id, sha256)
        for source, source_id, image_id, sha256 in rows_of_records(connection, query, shown, wanted)
        if (source, image_id) not in shared
    )


def _grouped(rows: Iterable[Any]) -> dict[RecordKey, list[str]]:
    found: dict[RecordKey, list[str]] = defaultdict(list)
    for source, source_id, value in rows:
        found[source, source_id].append(value)
    return found
