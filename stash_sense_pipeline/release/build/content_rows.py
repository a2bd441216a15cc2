"""Reads the catalog rows that the content of a release is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import (
    faces,
    identities,
    identity_members,
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
    trusted_faces,
)
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.build.face_order import read_face_order
from stash_sense_pipeline.release.contract import PERSONAL_FIELDS

# A time as the catalog's text, `2026-01-31T04:05:06.000007Z`. Texts sort as the times do, and to parse and format some
# hundred thousand of them would take a tenth of the build.
Instant = str


class ReleasedFace(NamedTuple):
    """A trusted face; its position in ReleaseContent.faces is its id in every file of the release."""

    face_id: int
    performer_id: int
    source: str
    source_id: str
    image_url: str
    quality: float
    yaw: float
    created_at: Instant


class Member(NamedTuple):
    """A live record of a performer. `known` has the values of PERSONAL_FIELDS, in their order."""

    performer_id: int
    source: str
    source_id: str
    name: str | None
    updated_at: Instant | None
    first_seen_at: Instant
    changed_at: Instant
    known: tuple[str | int | None, ...]


_BEFORE_KNOWN = len(Member._fields) - 1


@dataclass(frozen=True)
class Rows:
    """The catalog's rows of performers with trusted faces.

    `owners`: the performer of each record, live or not. `aliases` and `urls`: (source, source id, text).
    `merged_upstream`: records that a stash-box merged, with the id of the record that replaces them and the time.
    `created`: when each performer was made.
    """

    faces: tuple[ReleasedFace, ...]
    members: Sequence[Member]
    owners: Mapping[RecordKey, int]
    aliases: Sequence[tuple[str, str, str]]
    urls: Sequence[tuple[str, str, str]]
    merged_upstream: Mapping[RecordKey, tuple[str, Instant | None]]
    created: Mapping[int, Instant]


def read_rows(connection: sa.Connection, hosts: Mapping[str, str], *, with_urls: bool) -> Rows:
    """Reads all rows in the caller's transaction. `hosts` names the stash-boxes.

    Raises ReleaseError when the catalog has no trusted faces, or when one of them has no image.
    """
    return Rows(
        faces=_read_faces(connection),
        members=_read_members(connection),
        owners=_read_owners(connection),
        aliases=_read_strings(connection, performer_aliases.c.alias),
        urls=_read_strings(connection, performer_urls.c.url) if with_urls else (),
        merged_upstream=_read_merged_upstream(connection, hosts),
        created=_read_created(connection),
    )


def _read_faces(connection: sa.Connection) -> tuple[ReleasedFace, ...]:
    query = (
        sa.select(
            trusted_faces.c.face_id,
            trusted_faces.c.performer_id,
            trusted_faces.c.source,
            trusted_faces.c.source_id,
            source_images.c.url,
            faces.c.quality,
            faces.c.yaw,
            _instant(faces.c.created_at),
        )
        .join(faces, faces.c.face_id == trusted_faces.c.face_id)
        .join(
            source_images,
            (source_images.c.source == faces.c.source) & (source_images.c.image_id == faces.c.image_id),
        )
        .order_by(trusted_faces.c.performer_id, trusted_faces.c.rank, trusted_faces.c.face_id)
    )
    released = tuple(map(ReleasedFace._make, streamed(connection, query)))
    if not released:
        # Raises the error for a catalog without trusted faces.
        read_face_order(connection)
    if (
        len(released)
        != connection.execute(sa.select(sa.func.count()).select_from(trusted_faces)).scalar_one()
    ):
        raise ReleaseError("some trusted faces have lost their image record; run trusted_faces again")
    return released


def _read_created(connection: sa.Connection) -> dict[int, Instant]:
    query = sa.select(identities.c.performer_id, _instant(identities.c.created_at)).where(
        identities.c.performer_id.in_(_trusted_performers())
    )
    return dict(streamed(connection, query))


def _instant(column: sa.Column[Any]) -> sa.Label[Instant]:
    return sa.type_coerce(column, sa.Text).label(column.name)


def _trusted_performers() -> sa.Select[tuple[int]]:
    return sa.select(trusted_faces.c.performer_id).distinct()


def _members_with_faces() -> sa.ColumnElement[bool]:
    return identity_members.c.performer_id.in_(_trusted_performers())


def _read_members(connection: sa.Connection) -> list[Member]:
    """Live records of every performer with faces."""
    columns = source_performers.c
    query = (
        sa.select(
            identity_members.c.performer_id,
            columns.source,
            columns.source_id,
            columns.name,
            _instant(columns.updated_at),
            _instant(columns.first_seen_at),
            _instant(columns.changed_at),
            *(columns[name] for name in PERSONAL_FIELDS),
        )
        .join(
            source_performers,
            (source_performers.c.source == identity_members.c.source)
            & (source_performers.c.source_id == identity_members.c.source_id),
        )
        .where(_members_with_faces(), source_performers.c.deleted_at.is_(None))
    )
    return [
        Member._make((*row[:_BEFORE_KNOWN], tuple(row[_BEFORE_KNOWN:])))
        for row in streamed(connection, query)
    ]


def _read_owners(connection: sa.Connection) -> dict[RecordKey, int]:
    query = sa.select(
        identity_members.c.source, identity_members.c.source_id, identity_members.c.performer_id
    ).where(_members_with_faces())
    return {(source, source_id): number for source, source_id, number in streamed(connection, query)}


def _read_strings(connection: sa.Connection, column: sa.Column[str]) -> list[tuple[str, str, str]]:
    table = column.table
    query = (
        sa.select(table.c.source, table.c.source_id, column)
        .join(
            identity_members,
            (identity_members.c.source == table.c.source)
            & (identity_members.c.source_id == table.c.source_id),
        )
        .where(_members_with_faces())
    )
    return [(source, source_id, text) for source, source_id, text in streamed(connection, query)]


def _read_merged_upstream(
    connection: sa.Connection, hosts: Mapping[str, str]
) -> dict[RecordKey, tuple[str, Instant | None]]:
    columns = source_performers.c
    query = sa.select(
        columns.source, columns.source_id, columns.merged_into, _instant(columns.deleted_at)
    ).where(columns.merged_into.is_not(None), columns.source.in_(sorted(hosts)))
    return {
        (source, source_id): (target, deleted_at)
        for source, source_id, target, deleted_at in streamed(connection, query)
    }


def read_pictures(connection: sa.Connection, records: Collection[RecordKey]) -> dict[RecordKey, str]:
    """The alphabetically first image URL of each record that has images."""
    shown = performer_images.c
    query = (
        sa.select(shown.source, shown.source_id, sa.func.min(source_images.c.url))
        .join(
            source_images,
            (shown.source == source_images.c.source) & (shown.image_id == source_images.c.image_id),
        )
        .group_by(shown.source, shown.source_id)
    )
    return {
        (source, source_id): url
        for some in of_records(shown.source, shown.source_id, records)
        for source, source_id, url in connection.execute(query.where(some))
    }
