"""Reads for the operator's verdicts on faces: owners of images, and the live records that merged ones became."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import (
    identity_members,
    performer_images,
    source_images,
    source_performers,
)
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey


def read_owners_of_images(
    connection: sa.Connection, images: Collection[ImageKey]
) -> dict[ImageKey, set[RecordKey]]:
    """The records that list each of these images. An image that the catalog does not hold is left out."""
    image, shown = source_images.c, performer_images.c
    query = sa.select(image.source, image.image_id, shown.source_id).outerjoin_from(
        source_images,
        performer_images,
        (shown.source == image.source) & (shown.image_id == image.image_id),
    )
    found: dict[ImageKey, set[RecordKey]] = {}
    for some in of_records(image.source, image.image_id, images):
        for source, image_id, source_id in connection.execute(query.where(some)):
            owners = found.setdefault((source, image_id), set())
            if source_id is not None:
                owners.add((source, source_id))
    return found


def read_survivors(
    connection: sa.Connection, records: Collection[RecordKey]
) -> dict[RecordKey, RecordKey | None]:
    """For each record that the catalog holds, the live record at the end of its merges; None when it is gone."""
    table = source_performers.c
    query = sa.select(table.source, table.source_id, table.deleted_at, table.merged_into)
    rows: dict[RecordKey, tuple[bool, str | None]] = {}
    asked = set(records)
    while asked:
        found = [
            row
            for some in of_records(table.source, table.source_id, asked)
            for row in connection.execute(query.where(some))
        ]
        rows.update(
            {
                (source, source_id): (deleted is None and merged is None, merged)
                for source, source_id, deleted, merged in found
            }
        )
        asked = {(row.source, row.merged_into) for row in found if row.merged_into is not None} - rows.keys()
    return {record: _survivor(rows, record) for record in records if record in rows}


def read_performers_of(connection: sa.Connection, records: Collection[RecordKey]) -> dict[RecordKey, int]:
    """The performer_id of each of these records that is in an identity."""
    table = identity_members.c
    query = sa.select(table.source, table.source_id, table.performer_id)
    return {
        (source, source_id): performer_id
        for some in of_records(table.source, table.source_id, records)
        for source, source_id, performer_id in connection.execute(query.where(some))
    }


def _survivor(rows: dict[RecordKey, tuple[bool, str | None]], record: RecordKey) -> RecordKey | None:
    seen: set[RecordKey] = set()
    while record in rows and record not in seen:
        live, merged = rows[record]
        if live:
            return record
        if merged is None:
            return None
        seen.add(record)
        record = (record[0], merged)
    return None
