"""Import of performer records from a predecessor: unverified records, tombstones and face counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.performer_rows import (
    COLUMNS,
    aliases_of,
    links_of,
    store_links,
    stored_rows,
    update_rows,
    urls_of,
    values_of,
)
from stash_sense_pipeline.catalog.queries.performers import (
    live_versions,
    tombstone_records,
    withheld_versions,
)
from stash_sense_pipeline.catalog.schema import performer_aliases, performer_urls, source_performers
from stash_sense_pipeline.catalog.upsert import upsert

if TYPE_CHECKING:
    from stash_sense_pipeline.records.performer_record import PerformerRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seed_records(
    connection: sa.Connection,
    source: str,
    records: Sequence[PerformerRecord],
    now: datetime,
    hashed: Callable[[str], str],
) -> list[str]:
    """Adds live records of an unverified import, except records that are stored, tombstoned or withheld.

    They have no content hash and no time of change, so that a sync reads each of them. `hashed` returns the keyed hash
    of an id, which identifies withheld records. Returns the ids of the added records.
    """
    latest = {record.source_id: record for record in records}
    unknown = _unknown(connection, source, latest, hashed)
    fresh = [record for source_id, record in latest.items() if source_id in unknown]
    unverified = {"content_hash": None, "created_at": None, "updated_at": None}
    rows = [dict(zip(COLUMNS, values_of(source, record, now), strict=True)) | unverified for record in fresh]
    upsert(connection, source_performers, rows)
    store_links(connection, source, performer_aliases.c.alias, [], links_of(fresh, aliases_of))
    store_links(connection, source, performer_urls.c.url, [], links_of(fresh, urls_of))
    return [record.source_id for record in fresh]


def seed_tombstones(
    connection: sa.Connection,
    source: str,
    gone: Mapping[str, str | None],
    now: datetime,
    hashed: Callable[[str], str],
) -> list[str]:
    """Adds tombstones of an unverified import, as `tombstone_records` does, except for records that are stored or
    withheld.

    `hashed` as for seed_records. Returns the ids of the added tombstones.
    """
    unknown = _unknown(connection, source, gone, hashed)
    tombstone_records(connection, source, {key: gone[key] for key in gone if key in unknown}, now)
    return sorted(unknown)


def note_predecessor(
    connection: sa.Connection, source: str, known: Mapping[str, tuple[int, int | None]]
) -> int:
    """Stores for live records how many faces a predecessor had, and how many images it had looked at, None unknown.

    Returns the number of these records that are live.
    """
    live = live_versions(connection, source, known)
    rows = [
        {"of": source_id, "legacy_faces": known[source_id][0], "legacy_images": known[source_id][1]}
        for source_id in live
    ]
    update_rows(connection, source, rows)
    return len(rows)


def _unknown(
    connection: sa.Connection, source: str, source_ids: Collection[str], hashed: Callable[[str], str]
) -> set[str]:
    """Those of the records that were never stored and never withheld."""
    hashes = {hashed(source_id): source_id for source_id in source_ids}
    withheld = withheld_versions(connection, source, hashes, _EPOCH)
    return set(source_ids).difference(stored_rows(connection, source, source_ids), withheld)
