"""Reads the catalog rows that the content of a release is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import trusted_table
from stash_sense_pipeline.catalog.schema import (
    faces,
    identity_members,
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.build.body_places import RecordPlaces, places_of_record
from stash_sense_pipeline.release.build.face_order import read_face_order
from stash_sense_pipeline.release.contract import PERSONAL_FIELDS, PLACE_TABLES

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


class Member(NamedTuple):
    """A live record of a performer. `known` has the values of PERSONAL_FIELDS, in their order.

    Times are those that the source states. Those of the catalog tell when it was filled, which is no content.
    """

    performer_id: int
    source: str
    source_id: str
    name: str | None
    created_at: Instant | None
    updated_at: Instant | None
    known: tuple[str | int | None, ...]


_BEFORE_KNOWN = len(Member._fields) - 1


@dataclass(frozen=True)
class Rows:
    """The catalog's rows of performers with trusted faces.

    `owners`: the performer of each record, live or not. `aliases` and `urls`: (source, source id, text).
    `places`: of records with tattoos or piercings.
    `merged_upstream`: records that a stash-box merged, with the id of the record that replaces them.
    """

    faces: tuple[ReleasedFace, ...]
    members: Sequence[Member]
    owners: Mapping[RecordKey, int]
    aliases: Sequence[tuple[str, str, str]]
    urls: Sequence[tuple[str, str, str]]
    places: Mapping[RecordKey, RecordPlaces]
    merged_upstream: Mapping[RecordKey, str]


def read_rows(
    connection: sa.Connection, hosts: Mapping[str, str], *, with_urls: bool, second: bool = False
) -> Rows:
    """Reads all rows in the caller's transaction. `hosts` names the stash-boxes. `second`: faces of the second pack.

    Raises ReleaseError when the catalog has no trusted faces, or when one of them has no image.
    """
    trusted = trusted_table(second)
    with_faces = sa.select(trusted.c.performer_id).distinct()
    of_them = identity_members.c.performer_id.in_(with_faces)
    return Rows(
        faces=_read_faces(connection, trusted, second),
        members=_read_members(connection, of_them),
        owners=_read_owners(connection, of_them),
        aliases=_read_strings(connection, performer_aliases.c.alias, of_them),
        urls=_read_strings(connection, performer_urls.c.url, of_them) if with_urls else (),
        places=_read_places(connection, of_them),
        merged_upstream=_read_merged_upstream(connection, hosts),
    )


def check_owners(rows: Rows, nameable: Collection[int]) -> None:
    """Raises ReleaseError when a face is of a performer without a live stash-box record, or of another one's record.

    `nameable`: the performers with a live record in a configured stash-box.
    """
    for face in rows.faces:
        if face.performer_id not in nameable:
            raise ReleaseError(
                f"face {face.face_id} belongs to performer {face.performer_id}, who has no live record in a configured "
                "stash-box; run identity_graph and trusted_faces again"
            )
        if rows.owners.get((face.source, face.source_id)) != face.performer_id:
            raise ReleaseError(
                f"face {face.face_id} is trusted for performer {face.performer_id}, but its record "
                f"{face.source}:{face.source_id} is not theirs now; run trusted_faces again"
            )


def _read_faces(connection: sa.Connection, trusted: sa.Table, second: bool) -> tuple[ReleasedFace, ...]:
    query = (
        sa.select(
            trusted.c.face_id,
            trusted.c.performer_id,
            trusted.c.source,
            trusted.c.source_id,
            source_images.c.url,
            faces.c.quality,
            faces.c.yaw,
        )
        .join(faces, faces.c.face_id == trusted.c.face_id)
        .join(
            source_images,
            (source_images.c.source == faces.c.source) & (source_images.c.image_id == faces.c.image_id),
        )
        .order_by(trusted.c.performer_id, trusted.c.rank, trusted.c.face_id)
    )
    released = tuple(map(ReleasedFace._make, streamed(connection, query)))
    if not released:
        # Raises the error for a catalog without trusted faces.
        read_face_order(connection, second)
    if len(released) != connection.execute(sa.select(sa.func.count()).select_from(trusted)).scalar_one():
        raise ReleaseError("some trusted faces have lost their image record; run trusted_faces again")
    return released


def _instant(column: sa.Column[Any]) -> sa.Label[Instant]:
    return sa.type_coerce(column, sa.Text).label(column.name)


def _read_members(connection: sa.Connection, of_them: sa.ColumnElement[bool]) -> list[Member]:
    """Live records of every performer with faces."""
    columns = source_performers.c
    query = (
        sa.select(
            identity_members.c.performer_id,
            columns.source,
            columns.source_id,
            columns.name,
            _instant(columns.created_at),
            _instant(columns.updated_at),
            *(columns[name] for name in PERSONAL_FIELDS),
        )
        .join(
            source_performers,
            (source_performers.c.source == identity_members.c.source)
            & (source_performers.c.source_id == identity_members.c.source_id),
        )
        .where(of_them, source_performers.c.deleted_at.is_(None))
    )
    return [
        Member._make((*row[:_BEFORE_KNOWN], tuple(row[_BEFORE_KNOWN:])))
        for row in streamed(connection, query)
    ]


def _read_owners(connection: sa.Connection, of_them: sa.ColumnElement[bool]) -> dict[RecordKey, int]:
    query = sa.select(
        identity_members.c.source, identity_members.c.source_id, identity_members.c.performer_id
    ).where(of_them)
    return {(source, source_id): number for source, source_id, number in streamed(connection, query)}


def _read_strings(
    connection: sa.Connection, column: sa.Column[str], of_them: sa.ColumnElement[bool]
) -> list[tuple[str, str, str]]:
    table = column.table
    query = (
        sa.select(table.c.source, table.c.source_id, column)
        .join(
            identity_members,
            (identity_members.c.source == table.c.source)
            & (identity_members.c.source_id == table.c.source_id),
        )
        .where(of_them)
    )
    return [(source, source_id, text) for source, source_id, text in streamed(connection, query)]


def _read_places(connection: sa.Connection, of_them: sa.ColumnElement[bool]) -> dict[RecordKey, RecordPlaces]:
    columns = source_performers.c
    query = (
        sa.select(columns.source, columns.source_id, columns.raw)
        .join(
            identity_members,
            (identity_members.c.source == columns.source)
            & (identity_members.c.source_id == columns.source_id),
        )
        .where(
            of_them,
            sa.or_(*(columns.raw[table].as_string().is_not(None) for table in PLACE_TABLES)),
        )
    )
    return {
        (source, source_id): places_of_record(raw) for source, source_id, raw in streamed(connection, query)
    }


def _read_merged_upstream(connection: sa.Connection, hosts: Mapping[str, str]) -> dict[RecordKey, str]:
    columns = source_performers.c
    query = sa.select(columns.source, columns.source_id, columns.merged_into).where(
        columns.merged_into.is_not(None), columns.source.in_(sorted(hosts))
    )
    return {(source, source_id): target for source, source_id, target in streamed(connection, query)}


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
