"""Filling catalogs for the identity tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    identities,
    identity_evidence,
    identity_log,
    identity_members,
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.catalog.upsert import batched, insert_many
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.records.record_key import RecordKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)
# A sync that writes a record sets another time.
_WRITES = count()
HOSTS = {
    "stashdb": "stashdb.org",
    "theporndb": "theporndb.net",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}


def population(*records: Record) -> dict[RecordKey, Record]:
    return {record.key: record for record in records}


def store(engine: sa.Engine, *records: Record, raw: Mapping[RecordKey, Any] | None = None) -> None:
    """Writes the records, replacing those that are there."""
    with writing(engine) as connection:
        for record in records:
            where = (source_performers.c.source == record.source) & (
                source_performers.c.source_id == record.source_id
            )
            values = {
                "name": record.name,
                "gender": record.gender,
                "birth_date": record.birth_date,
                "country": record.country,
                "deleted_at": None if record.live else NOW,
                "merged_into": record.merged_into,
                "raw": (raw or {}).get(record.key),
                "changed_at": NOW + timedelta(microseconds=next(_WRITES)),
            }
            if connection.execute(source_performers.update().where(where).values(**values)).rowcount == 0:
                key = {"source": record.source, "source_id": record.source_id}
                connection.execute(source_performers.insert().values(**key, **values, first_seen_at=NOW))
            for table, column, items in (
                (performer_aliases, "alias", record.aliases),
                (performer_urls, "url", record.urls),
            ):
                mine = (table.c.source == record.source) & (table.c.source_id == record.source_id)
                connection.execute(table.delete().where(mine))
                for item in items:
                    key = {"source": record.source, "source_id": record.source_id, column: item}
                    connection.execute(table.insert().values(**key))


def store_many(engine: sa.Engine, records: Iterable[Record]) -> None:
    """Adds records that are not there yet, in bulk."""
    rows: list[tuple[Any, ...]] = []
    links: list[tuple[str, str, str]] = []
    for record in records:
        about = (record.name, record.gender, record.birth_date, record.country)
        rows.append((*record.key, *about, NOW, NOW))
        links += [(*record.key, url) for url in record.urls]
    names = ("source", "source_id", "name", "gender", "birth_date", "country", "first_seen_at", "changed_at")
    for some in batched(rows, 5_000):
        with collector_paused(), writing(engine) as connection:
            insert_many(connection, source_performers, names, some)
    for some in batched(links, 5_000):
        with collector_paused(), writing(engine) as connection:
            insert_many(connection, performer_urls, ("source", "source_id", "url"), some)


def show(
    engine: sa.Engine,
    record: Record,
    image_id: str,
    sha256: str,
    state: str = "done",
    picture_hash: str | None = None,
) -> None:
    """Hangs an image on a record."""
    with writing(engine) as connection:
        connection.execute(
            source_images.insert().values(
                source=record.source,
                image_id=image_id,
                url="u",
                state=state,
                sha256=sha256,
                picture_hash=picture_hash,
            )
        )
        connection.execute(
            performer_images.insert().values(
                source=record.source, source_id=record.source_id, image_id=image_id
            )
        )


def members(engine: sa.Engine) -> dict[int, set[str]]:
    """performer_id to its members as `source:id`."""
    found: dict[int, set[str]] = {}
    with reading(engine) as connection:
        for row in connection.execute(sa.select(identity_members)):
            found.setdefault(row.performer_id, set()).add(f"{row.source}:{row.source_id}")
    return found


def states(engine: sa.Engine) -> dict[int, tuple[bool, int | None]]:
    """performer_id to (is retired, redirect_to)."""
    with reading(engine) as connection:
        rows = connection.execute(sa.select(identities)).all()
    return {row.performer_id: (row.retired_at is not None, row.redirect_to) for row in rows}


def log(engine: sa.Engine) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(sa.select(identity_log).order_by(identity_log.c.entry)))


def evidence(engine: sa.Engine) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(sa.select(identity_evidence)))


def groups_of(found: Iterable[Iterable[RecordKey]]) -> set[frozenset[str]]:
    return {frozenset(":".join(key) for key in group) for group in found}
