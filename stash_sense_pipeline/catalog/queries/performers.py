"""Performer records: store, tombstone, withhold, and the reads of a sync."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.queries.performer_rows import (
    CLEARED,
    COLUMNS,
    add_images,
    aliases_of,
    image_ids_of,
    links_of,
    store_images,
    store_links,
    stored_rows,
    update_rows,
    urls_of,
    values_of,
)
from stash_sense_pipeline.catalog.schema import (
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
    withheld_records,
)
from stash_sense_pipeline.catalog.upsert import batched, upsert, upsert_values

if TYPE_CHECKING:
    from stash_sense_pipeline.records.performer_record import PerformerRecord

# No id holds a line feed, as connectors remove control characters from texts.
_SEPARATOR = "\n"


@dataclass(frozen=True)
class StoreCounts:
    """The numbers of records by what storing did. `updated` includes tombstones that became live records again."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    images_added: int = 0


class HeldRecord(NamedTuple):
    """The fields of a live record that a sync compares: the source's time of its last change, and its image ids.

    `listed` is the image ids in one text, which takes little memory: a sweep reads all records at once and compares
    them page by page.
    """

    updated_at: datetime | None
    listed: str | None

    @property
    def image_ids(self) -> frozenset[str]:
        """The ids of its images."""
        return frozenset(self.listed.split(_SEPARATOR) if self.listed is not None else ())


@dataclass(frozen=True)
class TombstoneCounts:
    """The numbers of live records that became tombstones: `merged` into another record, or `removed`."""

    removed: int = 0
    merged: int = 0


class WithheldRecord(NamedTuple):
    """A record that was read and must not be stored. `source_id` is None when only the keyed hash may be kept."""

    id_hash: str
    updated_at: datetime | None
    reason: str
    source_id: str | None


class WithheldForReview(NamedTuple):
    """A record that is withheld because of its dates, for review by the operator."""

    source: str
    source_id: str
    reason: str
    checked_at: datetime


@dataclass(frozen=True)
class RecordCounts:
    """The numbers of records of one source by state. `unseen`: tombstones of records that were never seen live; they do
    not count as merged or removed.
    """

    live: int
    merged: int
    removed: int
    unseen: int


def store_records(
    connection: sa.Connection, source: str, records: Sequence[PerformerRecord], now: datetime
) -> StoreCounts:
    """Stores the current state of live records of a source. Of records with equal ids, the last one is stored.

    A record with unchanged content is not written; of a record with only a new `updated`, that column is written.
    New images are stored as pending. Images without records stay until `remove_orphaned_images`.
    """
    # Sorted by key, a batch touches each page of a table once.
    latest = {record.source_id: record for record in sorted(records, key=_source_id)}
    stored = stored_rows(connection, source, latest)
    changed, touched, added = [], [], 0
    for source_id, record in latest.items():
        row = stored.get(source_id)
        if row is None:
            added += 1
            changed.append(record)
        elif row.content_hash != record.content_hash or row.deleted_at is not None:
            changed.append(record)
        elif row.updated_at != record.updated_at:
            touched.append(record)
    upsert_values(
        connection,
        source_performers,
        COLUMNS,
        [values_of(source, record, now) for record in changed],
        keep=frozenset({"first_seen_at"}),
    )
    _set_updated(connection, source, touched)
    known = [record.source_id for record in changed if record.source_id in stored]
    store_links(connection, source, performer_aliases.c.alias, known, links_of(changed, aliases_of))
    store_links(connection, source, performer_urls.c.url, known, links_of(changed, urls_of))
    images_added = store_images(connection, source, list(latest.values()), now)
    complete = [record for record in changed if not record.keeps_images]
    store_links(
        connection,
        source,
        performer_images.c.image_id,
        [record.source_id for record in complete if record.source_id in stored],
        links_of(complete, image_ids_of),
    )
    add_images(connection, source, [record for record in changed if record.keeps_images])
    return StoreCounts(added, len(changed) - added, len(latest) - len(changed), images_added)


def tombstone_records(
    connection: sa.Connection, source: str, gone: Mapping[str, str | None], now: datetime
) -> TombstoneCounts:
    """Tombstones records. `gone` maps the id to the id of the record that it was merged into, or None.

    A tombstone keeps the name and the times, and no other field of the record. An equal tombstone is not written again.
    """
    stored = stored_rows(connection, source, gone)
    live = {source_id: row for source_id, row in stored.items() if row.deleted_at is None}
    redirected = [key for key, row in stored.items() if key not in live and row.merged_into != gone[key]]
    update_rows(
        connection,
        source,
        [
            {"of": key, "deleted_at": now, "merged_into": gone[key], "changed_at": now, **CLEARED}
            for key in live
        ],
    )
    update_rows(
        connection, source, [{"of": key, "merged_into": gone[key], "changed_at": now} for key in redirected]
    )
    upsert(
        connection,
        source_performers,
        [
            {
                "source": source,
                "source_id": key,
                "deleted_at": now,
                "merged_into": target,
                "first_seen_at": now,
                "changed_at": now,
                "raw": {},
            }
            for key, target in gone.items()
            if key not in stored
        ],
    )
    for column in (performer_aliases.c.alias, performer_urls.c.url, performer_images.c.image_id):
        store_links(connection, source, column, list(live), {})
    merged = sum(gone[key] is not None for key in live)
    return TombstoneCounts(removed=len(live) - merged, merged=merged)


def withhold_records(
    connection: sa.Connection, source: str, withheld: Sequence[WithheldRecord], now: datetime
) -> None:
    """Stores which versions of records were withheld, so that they are not read again in every run."""
    rows = [{"source": source, "checked_at": now, **each._asdict()} for each in withheld]
    upsert(connection, withheld_records, rows)


def withheld_versions(
    connection: sa.Connection,
    source: str,
    hashes: Mapping[str, str],
    since: datetime,
    besides: Collection[str] = (),
) -> dict[str, datetime | None]:
    """The versions of these records that were withheld at `since` or later, by id, besides those with these reasons.

    `hashes` maps the keyed hash of an id to the id.
    """
    table = withheld_records
    return {
        hashes[id_hash]: updated
        for batch in batched(list(hashes), IN_LIST)
        for id_hash, updated in connection.execute(
            sa.select(table.c.id_hash, table.c.updated_at).where(
                table.c.source == source,
                table.c.id_hash.in_(batch),
                table.c.checked_at >= since,
                table.c.reason.not_in(list(besides)),
            )
        )
    }


def withheld_for_review(connection: sa.Connection) -> list[WithheldForReview]:
    """The records that are withheld because of their dates, sorted by source and id."""
    table = withheld_records
    query = (
        sa.select(table.c.source, table.c.source_id, table.c.reason, table.c.checked_at)
        .where(table.c.source_id.is_not(None))
        .order_by(table.c.source, table.c.source_id)
    )
    return [WithheldForReview(*row) for row in connection.execute(query)]


def remove_orphaned_images(connection: sa.Connection, source: str) -> int:
    """Removes images without records, with their faces. Returns their number."""
    link = sa.select(performer_images.c.image_id).where(
        performer_images.c.source == source_images.c.source,
        performer_images.c.image_id == source_images.c.image_id,
    )
    orphaned = (source_images.c.source == source) & ~sa.exists(link)
    return connection.execute(sa.delete(source_images).where(orphaned)).rowcount


def live_besides(connection: sa.Connection, source: str, listed: Collection[str]) -> tuple[int, list[str]]:
    """The number of live records, and the sorted ids of those that are not in `listed`."""
    table = source_performers
    # Reading all ids as one text is faster than reading rows.
    ids = sa.select(sa.func.aggregate_strings(table.c.source_id, _SEPARATOR)).where(
        table.c.source == source, table.c.deleted_at.is_(None)
    )
    together = connection.scalar(ids)
    live = together.split(_SEPARATOR) if together is not None else []
    return len(live), sorted(set(live).difference(listed))


def live_versions(
    connection: sa.Connection, source: str, source_ids: Collection[str]
) -> dict[str, datetime | None]:
    """The source's time of the last change of each of these records that is live."""
    table = source_performers
    query = sa.select(table.c.source_id, table.c.updated_at).where(
        table.c.source == source, table.c.deleted_at.is_(None)
    )
    return {
        source_id: updated
        for batch in batched(list(source_ids), IN_LIST)
        for source_id, updated in connection.execute(query.where(table.c.source_id.in_(batch))).all()
    }


def liveness(connection: sa.Connection, source: str, source_ids: Collection[str]) -> dict[str, bool]:
    """For each of these records that is stored: True for a live record, False for a tombstone."""
    return {key: row.deleted_at is None for key, row in stored_rows(connection, source, source_ids).items()}


def slugs(
    connection: sa.Connection, source: str, source_ids: Collection[str]
) -> dict[str, tuple[str, str | None]]:
    """(name, slug at the source) of each of these records that is live."""
    table = source_performers
    return {
        source_id: (name, slug)
        for batch in batched(list(source_ids), IN_LIST)
        for source_id, name, slug in connection.execute(
            sa.select(table.c.source_id, table.c.name, table.c.raw["slug"].as_string()).where(
                table.c.source == source, table.c.source_id.in_(batch), table.c.deleted_at.is_(None)
            )
        )
    }


def tombstones(connection: sa.Connection, source: str) -> dict[str, str | None]:
    """The tombstones of a source: id to the id of the record that it was merged into, or None."""
    table = source_performers
    query = sa.select(table.c.source_id, table.c.merged_into).where(
        table.c.source == source, table.c.deleted_at.is_not(None)
    )
    return dict(map(tuple, connection.execute(query)))


def held_records(
    connection: sa.Connection, source: str, source_ids: Collection[str] | None = None
) -> dict[str, HeldRecord]:
    """The fields that a sync compares, of all live records or of those in `source_ids`, by id."""
    table, links = source_performers, performer_images
    joined = table.outerjoin(
        links, (links.c.source == table.c.source) & (links.c.source_id == table.c.source_id)
    )
    # The image ids come as one text per record, which is faster than a row for each image.
    images = sa.func.aggregate_strings(links.c.image_id, _SEPARATOR)
    query = (
        sa.select(table.c.source_id, table.c.updated_at, images)
        .select_from(joined)
        .where(table.c.source == source, table.c.deleted_at.is_(None))
        .group_by(table.c.source, table.c.source_id)
    )
    queries = (
        [query]
        if source_ids is None
        else [query.where(table.c.source_id.in_(batch)) for batch in batched(list(source_ids), IN_LIST)]
    )
    return {
        source_id: HeldRecord(updated, listed)
        for each in queries
        for source_id, updated, listed in connection.execute(each).all()
    }


def unread_records(connection: sa.Connection, source: str) -> frozenset[str]:
    """The live records that no sync has read yet: those from an unverified import."""
    table = source_performers
    return frozenset(
        connection.scalars(
            sa.select(table.c.source_id).where(
                table.c.source == source, table.c.deleted_at.is_(None), table.c.content_hash.is_(None)
            )
        )
    )


def has_read_records(connection: sa.Connection, source: str) -> bool:
    """True when a sync has stored a live record of this source."""
    table = source_performers
    query = sa.select(table.c.source_id).where(
        table.c.source == source, table.c.deleted_at.is_(None), table.c.content_hash.is_not(None)
    )
    return connection.execute(query.limit(1)).first() is not None


def count_changed_since(connection: sa.Connection, source: str, since: datetime) -> int:
    """The number of live records that the source changed at `since` or later, by its clock."""
    table = source_performers
    query = sa.select(sa.func.count()).where(
        table.c.source == source, table.c.deleted_at.is_(None), table.c.updated_at >= since
    )
    return int(connection.execute(query).scalar_one())


def count_records(connection: sa.Connection, source: str) -> RecordCounts:
    """The numbers of records of a source by state."""
    table = source_performers
    dead, merged = table.c.deleted_at.is_not(None), table.c.merged_into.is_not(None)
    unseen = table.c.name.is_(None)
    counts = connection.execute(
        sa.select(
            sa.func.count().filter(~dead),
            sa.func.count().filter(dead & merged & ~unseen),
            sa.func.count().filter(dead & ~merged & ~unseen),
            sa.func.count().filter(unseen),
        ).where(table.c.source == source)
    ).one()
    return RecordCounts(*map(int, counts))


def _set_updated(connection: sa.Connection, source: str, records: Sequence[PerformerRecord]) -> None:
    update_rows(
        connection, source, [{"of": record.source_id, "updated_at": record.updated_at} for record in records]
    )


def _source_id(record: PerformerRecord) -> str:
    return record.source_id
