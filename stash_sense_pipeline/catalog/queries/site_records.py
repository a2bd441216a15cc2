"""Records of reference sites without a proven link, and those rejected because of their faces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.performers import remove_orphaned_images, tombstone_records
from stash_sense_pipeline.catalog.schema import site_rejections, source_performers
from stash_sense_pipeline.catalog.upsert import upsert
from stash_sense_pipeline.records.profile_sites import site as site_of
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class Rejection:
    """A record with no face that matches the reference faces of its identity.

    `faces` and `reference_faces` are numbers of faces. `distance` is the mean cosine distance over the models of the
    nearest pair; it is above `agreement`.
    """

    source: str
    source_id: str
    performer_id: int
    faces: int
    reference_faces: int
    distance: float
    agreement: float


def unproven_records(connection: sa.Connection, sites: Collection[str]) -> frozenset[RecordKey]:
    """Live records of these sites that were found by name, or that are on a site without identity-grade pages."""
    if not sites:
        return frozenset()
    shared = [name for name in sites if (place := site_of(name)) is not None and not place.identity_grade]
    table = source_performers.c
    query = sa.select(table.source, table.source_id).where(
        table.source.in_(sites),
        table.deleted_at.is_(None),
        sa.or_(table.source.in_(shared), table.raw["found_by"].as_string() == "name"),
    )
    return frozenset((source, source_id) for source, source_id in connection.execute(query))


def reject_records(connection: sa.Connection, rejections: Sequence[Rejection], now: datetime) -> None:
    """Tombstones the records, removes their images, and stores the rejections."""
    by_source: dict[str, list[str]] = defaultdict(list)
    for rejection in rejections:
        by_source[rejection.source].append(rejection.source_id)
    for source, source_ids in by_source.items():
        tombstone_records(connection, source, dict.fromkeys(source_ids), now)
        remove_orphaned_images(connection, source)
    upsert(connection, site_rejections, [{**vars(rejection), "rejected_at": now} for rejection in rejections])


def rejected_since(connection: sa.Connection, source: str, since: datetime) -> frozenset[str]:
    """The records of a site that were rejected at `since` or later."""
    columns = site_rejections.c
    query = sa.select(columns.source_id).where(columns.source == source, columns.rejected_at >= since)
    return frozenset(connection.scalars(query))
