"""Rows of performer records: their columns, and their links to aliases, URLs and images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.schema import (
    performer_images,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.upsert import batched, upsert_values

if TYPE_CHECKING:
    from stash_sense_pipeline.records.performer_record import PerformerRecord


_PENDING = "pending"
# States, and reasons for rejection, of images without judged bytes: nothing was fetched, or no picture.
_UNJUDGED_STATES = frozenset({"failed", "gone"})
_UNJUDGED_REASONS = frozenset({"disallowed", "too_many_bytes", "empty", "html", "not_an_image", "truncated"})


# The columns of source_performers that a tombstone does not keep, with their empty values.
CLEARED: Mapping[str, Any] = {
    column.name: None
    for column in source_performers.columns
    if column.name
    not in (
        *("source", "source_id", "name", "created_at", "updated_at"),
        *("deleted_at", "merged_into", "first_seen_at", "changed_at", "raw"),
    )
} | {"raw": {}}


# The columns of a live record, in the order of values_of.
COLUMNS = (
    *("source", "source_id", "name", "disambiguation", "gender", "birth_date", "death_date", "country"),
    *("ethnicity", "eye_color", "hair_color", "height_cm", "career_start_year", "career_end_year"),
    *("created_at", "updated_at", "deleted_at", "merged_into", "content_hash", "raw"),
    *("first_seen_at", "changed_at"),
)


def values_of(source: str, record: PerformerRecord, now: datetime) -> tuple[Any, ...]:
    """The values of a live record, in the order of COLUMNS."""
    return (
        source,
        record.source_id,
        record.name,
        record.disambiguation,
        record.gender,
        record.birth_date,
        record.death_date,
        record.country,
        record.ethnicity,
        record.eye_color,
        record.hair_color,
        record.height_cm,
        record.career_start_year,
        record.career_end_year,
        record.created_at,
        record.updated_at,
        None,
        None,
        record.content_hash,
        dict(record.raw),
        now,
        now,
    )


def stored_rows(connection: sa.Connection, source: str, source_ids: Collection[str]) -> dict[str, Any]:
    """Rows with content_hash, updated_at, deleted_at and merged_into, by id."""
    table = source_performers
    columns = (
        table.c.source_id,
        table.c.content_hash,
        table.c.updated_at,
        table.c.deleted_at,
        table.c.merged_into,
    )
    return {
        row.source_id: row
        for batch in batched(list(source_ids), IN_LIST)
        for row in connection.execute(
            sa.select(*columns).where(table.c.source == source, table.c.source_id.in_(batch))
        )
    }


def update_rows(connection: sa.Connection, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Sets columns of existing records. In each row, `of` is the id and the other keys are columns."""
    if not rows:
        return
    table = source_performers
    statement = sa.update(table).where(table.c.source == source, table.c.source_id == sa.bindparam("of"))
    names = [name for name in rows[0] if name != "of"]
    statement = statement.values({name: sa.bindparam(f"new_{name}") for name in names})
    connection.execute(
        statement, [{"of": row["of"], **{f"new_{name}": row[name] for name in names}} for row in rows]
    )


def aliases_of(record: PerformerRecord) -> Iterable[str]:
    """The aliases of a record."""
    return record.aliases


def urls_of(record: PerformerRecord) -> Iterable[str]:
    """The URLs of a record."""
    return record.urls


def image_ids_of(record: PerformerRecord) -> Iterable[str]:
    """The ids of the images of a record."""
    return [image.image_id for image in record.images]


def links_of(
    records: Sequence[PerformerRecord], values: Callable[[PerformerRecord], Iterable[str]]
) -> dict[str, set[str]]:
    """The set of `values` of each record, by id: the links that `store_links` takes."""
    return {record.source_id: set(values(record)) for record in records}


def store_links(
    connection: sa.Connection,
    source: str,
    column: sa.Column[Any],
    known: Sequence[str],
    wanted: Mapping[str, set[str]],
) -> None:
    """Makes the links of records equal to `wanted`, and writes only differences. A record without an entry gets none.

    `known`: the records that may have stored links.
    """
    table = column.table
    assert isinstance(table, sa.Table)
    present: dict[str, set[str]] = {source_id: set() for source_id in known}
    for batch in batched(known, IN_LIST):
        query = sa.select(table.c.source_id, column).where(
            table.c.source == source, table.c.source_id.in_(batch)
        )
        for source_id, value in connection.execute(query):
            present[source_id].add(value)
    nothing: frozenset[str] = frozenset()
    stale = [
        {"of": source_id, "stale": value}
        for source_id, values in present.items()
        for value in sorted(values - wanted.get(source_id, nothing))
    ]
    if stale:
        where = (
            (table.c.source == source)
            & (table.c.source_id == sa.bindparam("of"))
            & (column == sa.bindparam("stale"))
        )
        connection.execute(sa.delete(table).where(where), stale)
    fresh = [
        (source, source_id, value)
        for source_id, values in wanted.items()
        for value in sorted(values - present.get(source_id, nothing))
    ]
    upsert_values(connection, table, ("source", "source_id", column.name), fresh)


def add_images(connection: sa.Connection, source: str, records: Sequence[PerformerRecord]) -> None:
    """Links images to records. Existing links stay."""
    rows = [(source, record.source_id, image.image_id) for record in records for image in record.images]
    upsert_values(connection, performer_images, ("source", "source_id", "image_id"), rows)


def store_images(
    connection: sa.Connection, source: str, records: Sequence[PerformerRecord], now: datetime
) -> int:
    """Adds new images as pending, first seen `now`, and updates stored ones. Returns the number of new images.

    A stored image with a new URL becomes pending, unless its bytes were judged: an equal id means the same picture. A
    failed image keeps its attempts when only the query of the URL differs: a signature in it changes at every sync.
    """
    wanted = {image.image_id: image for record in records for image in record.images}
    table = source_images
    stored = {
        row.image_id: row
        for batch in batched(list(wanted), IN_LIST)
        for row in connection.execute(
            sa.select(
                table.c.image_id, table.c.url, table.c.width, table.c.height, table.c.state, table.c.reason
            ).where(table.c.source == source, table.c.image_id.in_(batch))
        )
    }
    rows = [
        (source, image_id, image.url, image.width, image.height, _PENDING, 0, now)
        for image_id, image in sorted(wanted.items())
        if image_id not in stored or stored[image_id][1:4] != (image.url, image.width, image.height)
    ]
    names = ("source", "image_id", "url", "width", "height", "state", "attempts", "first_seen_at")
    upsert_values(connection, table, names, rows, keep=frozenset({"state", "attempts", "first_seen_at"}))
    moved = [
        {"of": image_id}
        for image_id, row in stored.items()
        if _without_query(row.url) != _without_query(wanted[image_id].url)
        and (row.state in _UNJUDGED_STATES or row.reason in _UNJUDGED_REASONS)
    ]
    if moved:
        connection.execute(
            sa.update(table)
            .where(table.c.source == source, table.c.image_id == sa.bindparam("of"))
            .values(state=_PENDING, reason=None, attempts=0, refusals=0, next_attempt_at=None),
            moved,
        )
    return len(wanted) - len(stored)


def _without_query(url: str) -> str:
    return url.partition("#")[0].partition("?")[0]


class OtherGender(NamedTuple):
    """A stored record that the gender filter of its source does not let through."""

    source_id: str
    gender: str
    updated_at: datetime | None


def of_other_genders(connection: sa.Connection, source: str, wanted: Collection[str]) -> list[OtherGender]:
    """The live records of `source` of a known gender that is not in `wanted`."""
    table = source_performers.c
    there = (table.source == source) & table.deleted_at.is_(None) & table.gender.not_in(list(wanted))
    query = sa.select(table.source_id, table.gender, table.updated_at).where(there)
    return [OtherGender(*row) for row in connection.execute(query)]
