"""Input and state of enrichment: listed profiles, searchable performers, visits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.schema import (
    identity_members,
    performer_aliases,
    performer_images,
    performer_urls,
    site_visits,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.upsert import batched, upsert
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class LastVisit:
    """The last visit of one item: its outcome, times, and the validators of the answer.

    `missing_since`: the first visit that did not find a stored profile.
    """

    outcome: str
    visited_at: datetime
    next_visit_at: datetime
    missing_since: datetime | None = None
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class KnownRecord:
    """The fields of a live stash-box record that enrichment uses. `performer_id`: its identity, None before it has one."""

    source: str
    source_id: str
    name: str
    gender: str | None
    aliases: tuple[str, ...]
    performer_id: int | None


@dataclass(frozen=True)
class StoredProfile:
    """A live record of a reference site. `found_by`: how it was found. `alias_hashes`: of its untrusted aliases."""

    source_id: str
    found_by: str | None
    alias_hashes: frozenset[str]
    urls: tuple[str, ...]


def listed_urls(
    connection: sa.Connection, boxes: Collection[str], parts: Sequence[str]
) -> Iterator[tuple[RecordKey, str]]:
    """(record key, URL) of each URL of a live record of `boxes` that contains one of `parts`, sorted by both."""
    columns = performer_urls.c
    query = (
        sa.select(columns.source, columns.source_id, columns.url)
        .join(
            source_performers,
            (source_performers.c.source == columns.source)
            & (source_performers.c.source_id == columns.source_id),
        )
        .where(
            columns.source.in_(boxes),
            source_performers.c.deleted_at.is_(None),
            sa.or_(*(columns.url.icontains(part, autoescape=True) for part in parts)),
        )
        .order_by(columns.source, columns.source_id, columns.url)
    )
    for source, source_id, url in connection.execute(query):
        yield (source, source_id), url


def known_records(
    connection: sa.Connection, boxes: Collection[str], wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, KnownRecord]:
    """Live records of `boxes` with a name: all of them, or those in `wanted`."""
    table, members = source_performers, identity_members
    joined = table.outerjoin(
        members, (members.c.source == table.c.source) & (members.c.source_id == table.c.source_id)
    )
    query = (
        sa.select(table.c.source, table.c.source_id, table.c.name, table.c.gender, members.c.performer_id)
        .select_from(joined)
        .where(table.c.deleted_at.is_(None), table.c.name.is_not(None), table.c.source.in_(boxes))
        .order_by(table.c.source, table.c.source_id)
    )
    aliases = sa.select(performer_aliases.c.source, performer_aliases.c.source_id, performer_aliases.c.alias)
    aliases = aliases.where(performer_aliases.c.source.in_(boxes)).order_by(performer_aliases.c.alias)
    rows: list[Any] = []
    aliases_of: dict[RecordKey, list[str]] = {}
    if wanted is None:
        rows, aliases_of = list(connection.execute(query)), _grouped(connection.execute(aliases))
    else:
        by_source: dict[str, list[str]] = defaultdict(list)
        for source, source_id in sorted(wanted):
            by_source[source].append(source_id)
        for source, ids in by_source.items():
            for batch in batched(ids, IN_LIST):
                these = (table.c.source == source) & table.c.source_id.in_(batch)
                rows += connection.execute(query.where(these)).all()
                theirs = performer_aliases.c.source_id.in_(batch) & (performer_aliases.c.source == source)
                aliases_of.update(_grouped(connection.execute(aliases.where(theirs))))
    return {
        (source, source_id): KnownRecord(
            source, source_id, name, gender, tuple(aliases_of.get((source, source_id), ())), performer_id
        )
        for source, source_id, name, gender, performer_id in rows
    }


def _grouped(rows: Iterable[Any]) -> dict[RecordKey, list[str]]:
    found: dict[RecordKey, list[str]] = defaultdict(list)
    for source, source_id, alias in rows:
        found[source, source_id].append(alias)
    return found


def held_records(connection: sa.Connection, source: str) -> dict[str, StoredProfile]:
    """The live records of a reference site, by id."""
    table = source_performers
    urls = sa.select(performer_urls.c.source, performer_urls.c.source_id, performer_urls.c.url)
    listed = _grouped(connection.execute(urls.where(performer_urls.c.source == source)))
    query = sa.select(table.c.source_id, table.c.raw).where(
        table.c.source == source, table.c.deleted_at.is_(None)
    )
    return {
        source_id: StoredProfile(
            source_id,
            (raw or {}).get("found_by"),
            frozenset((raw or {}).get("alias_hashes", ())),
            tuple(sorted(listed.get((source, source_id), ()))),
        )
        for source_id, raw in connection.execute(query)
    }


def visits(connection: sa.Connection, source: str, mode: str) -> dict[str, LastVisit]:
    """The last visits of all items of a site in a mode, by the hash of the item."""
    columns = site_visits.c
    query = sa.select(
        columns.item_hash,
        columns.outcome,
        columns.visited_at,
        columns.next_visit_at,
        columns.missing_since,
        columns.etag,
        columns.last_modified,
    ).where(columns.source == source, columns.mode == mode)
    return {row[0]: LastVisit(*row[1:]) for row in connection.execute(query)}


def store_visits(connection: sa.Connection, source: str, mode: str, visited: Mapping[str, LastVisit]) -> None:
    """Stores visits, given by the hash of the item."""
    rows = [
        {"source": source, "mode": mode, "item_hash": item, **vars(visit)} for item, visit in visited.items()
    ]
    upsert(connection, site_visits, rows)


def alias_hashes(connection: sa.Connection, performer_ids: Collection[int], but: str) -> frozenset[str]:
    """The hashes of untrusted aliases that reference sites other than `but` list for these identities."""
    table, members = source_performers, identity_members
    query = (
        sa.select(table.c.raw)
        .join(members, (members.c.source == table.c.source) & (members.c.source_id == table.c.source_id))
        .where(table.c.deleted_at.is_(None), table.c.source != but)
    )
    return frozenset(
        found
        for batch in batched(sorted(performer_ids), IN_LIST)
        for (raw,) in connection.execute(query.where(members.c.performer_id.in_(batch)))
        for found in (raw or {}).get("alias_hashes", ())
    )


def owners_of_images(connection: sa.Connection, source: str) -> dict[str, str]:
    """For each URL of the images of a source that may still be fetched, the smallest id of a record with the image."""
    query = (
        sa.select(source_images.c.url, sa.func.min(performer_images.c.source_id))
        .join(
            performer_images,
            (performer_images.c.source == source_images.c.source)
            & (performer_images.c.image_id == source_images.c.image_id),
        )
        .where(
            source_images.c.source == source,
            (source_images.c.state == "pending") | source_images.c.next_attempt_at.is_not(None),
        )
        .group_by(source_images.c.url)
    )
    return dict(map(tuple, connection.execute(query)))
