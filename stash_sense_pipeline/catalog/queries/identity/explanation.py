"""Reads for explaining one identity: its members, their evidence, the faces left out, and its history."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    face_collisions,
    face_exclusions,
    faces,
    identity_evidence,
    identity_log,
    identity_members,
    source_performers,
    trusted_faces,
)
from stash_sense_pipeline.records.record_key import RecordKey


class EvidenceRow(NamedTuple):
    """One stored row of evidence."""

    kind: str
    source_a: str
    source_id_a: str
    source_b: str
    source_id_b: str
    key: str
    weight: float
    verdict: str
    reason: str | None


def has_record(connection: sa.Connection, source: str, source_id: str) -> bool:
    """True when the catalog holds this record, live or as a tombstone."""
    table = source_performers.c
    query = sa.select(table.source).where(table.source == source, table.source_id == source_id)
    return connection.execute(query).first() is not None


def identity_of(connection: sa.Connection, source: str, source_id: str) -> int | None:
    """The performer_id of a record, or None when it is in no identity."""
    table = identity_members.c
    query = sa.select(table.performer_id).where(table.source == source, table.source_id == source_id)
    return connection.execute(query).scalar()


def members_of(connection: sa.Connection, performer_id: int) -> list[sa.Row[Any]]:
    """source, source_id, name, gender, birth_date and country of the members of an identity, sorted by record."""
    record, member = source_performers.c, identity_members.c
    query = (
        sa.select(
            record.source, record.source_id, record.name, record.gender, record.birth_date, record.country
        )
        .join(identity_members, (member.source == record.source) & (member.source_id == record.source_id))
        .where(member.performer_id == performer_id)
        .order_by(record.source, record.source_id)
    )
    return list(connection.execute(query))


def evidence_about(connection: sa.Connection, keys: Iterable[RecordKey]) -> list[EvidenceRow]:
    """All rows of evidence that name one of the records, the strongest first."""
    table = identity_evidence.c
    columns = [table[name] for name in EvidenceRow._fields]
    found: set[EvidenceRow] = set()
    for source, source_id in keys:
        for one, other in ((table.source_a, table.source_id_a), (table.source_b, table.source_id_b)):
            query = sa.select(*columns).where(one == source, other == source_id)
            found.update(EvidenceRow._make(row) for row in connection.execute(query))
    return sorted(found, key=lambda row: (-row.weight, row[:6]))


def refused_evidence(connection: sa.Connection) -> list[EvidenceRow]:
    """All rows of evidence of refused pairs, sorted by pair, kind and key."""
    table = identity_evidence.c
    columns = [table[name] for name in EvidenceRow._fields]
    query = (
        sa.select(*columns).where(table.verdict == "refused").order_by(*columns[1:5], table.kind, table.key)
    )
    return [EvidenceRow._make(row) for row in connection.execute(query)]


class LeftOutFace(NamedTuple):
    """A face that is kept out of releases. `number`: of a hub, the people near it; of a collision, the performer."""

    source: str
    image_id: str
    reason: str
    number: int | None


def faces_left_out(connection: sa.Connection, performer_id: int) -> list[LeftOutFace]:
    """The faces of an identity that are kept out of releases, sorted by image."""
    found: list[LeftOutFace] = []
    out, near = face_exclusions.c, face_collisions.c
    for table, reason, number in (
        (face_exclusions, out.reason, out.people),
        (face_collisions, sa.literal("nearer to another performer"), near.nearer_to),
    ):
        query = (
            sa.select(faces.c.source, faces.c.image_id, reason, number)
            .join(table, table.c.face_id == faces.c.face_id)
            .where(table.c.performer_id == performer_id)
        )
        found += [LeftOutFace._make(row) for row in connection.execute(query)]
    return sorted(found, key=lambda row: row[:3])


def faces_in_releases(connection: sa.Connection, performer_id: int) -> list[str]:
    """`source:image_id` of the trusted faces of an identity, the best first."""
    query = (
        sa.select(faces.c.source, faces.c.image_id)
        .join(trusted_faces, trusted_faces.c.face_id == faces.c.face_id)
        .where(trusted_faces.c.performer_id == performer_id)
        .order_by(trusted_faces.c.rank, faces.c.face_id)
    )
    return [f"{source}:{image_id}" for source, image_id in connection.execute(query)]


def history(
    connection: sa.Connection, performer_id: int, latest: int
) -> list[tuple[datetime, str, dict[str, Any]]]:
    """The last `latest` events of an identity, the oldest of them first."""
    table = identity_log.c
    query = (
        sa.select(table.at, table.event, table.detail)
        .where(table.performer_id == performer_id)
        .order_by(table.entry.desc())
        .limit(latest)
    )
    return [(row.at, row.event, row.detail) for row in reversed(connection.execute(query).all())]
