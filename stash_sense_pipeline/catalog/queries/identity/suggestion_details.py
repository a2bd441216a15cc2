"""Reads for the suggestions to the sources: names of live records, their pictures and links."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import image_key, of_records, record_key, rows_of
from stash_sense_pipeline.catalog.schema import (
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey


def read_names(
    connection: sa.Connection, wanted: Collection[RecordKey]
) -> dict[RecordKey, tuple[str | None, str | None]]:
    """Name and disambiguation of the live records among `wanted`."""
    table = source_performers.c
    query = sa.select(table.source, table.source_id, table.name, table.disambiguation).where(
        table.deleted_at.is_(None), table.merged_into.is_(None)
    )
    return {
        (source, source_id): (name, disambiguation)
        for some in of_records(table.source, table.source_id, wanted)
        for source, source_id, name, disambiguation in connection.execute(query.where(some))
    }


def read_picture_urls(connection: sa.Connection, wanted: Collection[ImageKey]) -> dict[ImageKey, str]:
    """The URLs of these images."""
    table = source_images
    query = sa.select(table.c.source, table.c.image_id, table.c.url)
    rows = rows_of(connection, query, image_key(table), set(wanted))
    return {(source, image_id): url for source, image_id, url in rows}


def read_shown(connection: sa.Connection, wanted: Collection[ImageKey]) -> set[tuple[str, str, str]]:
    """(source, source_id, image_id) of the records that show these images."""
    table = performer_images
    query = sa.select(table.c.source, table.c.source_id, table.c.image_id)
    rows = rows_of(connection, query, image_key(table), set(wanted))
    return {(source, source_id, image_id) for source, source_id, image_id in rows}


def read_links(connection: sa.Connection, wanted: Collection[RecordKey]) -> set[tuple[str, str, str]]:
    """(source, source_id, url) of the links of these records."""
    table = performer_urls
    query = sa.select(table.c.source, table.c.source_id, table.c.url)
    rows = rows_of(connection, query, record_key(table), set(wanted))
    return {(source, source_id, url) for source, source_id, url in rows}
