"""The releases that records and faces were taken over from, and the state of each claim."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import claimed_records, claimed_releases, source_performers
from stash_sense_pipeline.catalog.upsert import insert_many
from stash_sense_pipeline.records.record_key import RecordKey


class ClaimState(StrEnum):
    """Value of `claimed_releases.state`."""

    IMPORTING = "importing"
    RECORDS = "records"
    CLAIMED = "claimed"
    PROVEN = "proven"
    REFUSED = "refused"


@dataclass(frozen=True)
class ClaimedRelease:
    """A release that was taken over. `models` and `proof` are as in the table."""

    release_id: int
    version: str
    manifest_digest: str
    state: ClaimState
    reason: str | None
    pack: str | None
    detector_digest: str | None
    models: Mapping[str, Any]
    proof: Mapping[str, Any] | None
    taken_at: datetime


_COLUMNS = tuple(claimed_releases.c[name] for name in ClaimedRelease.__dataclass_fields__)


def all_releases(connection: sa.Connection) -> list[ClaimedRelease]:
    """The releases in the order in which they were taken over."""
    query = sa.select(*_COLUMNS).order_by(claimed_releases.c.release_id)
    return [_release(row) for row in connection.execute(query)]


def release_of(connection: sa.Connection, manifest_digest: str) -> ClaimedRelease | None:
    """The release with this manifest, or None."""
    query = sa.select(*_COLUMNS).where(claimed_releases.c.manifest_digest == manifest_digest)
    row = connection.execute(query).first()
    return None if row is None else _release(row)


def _release(row: Any) -> ClaimedRelease:
    values = dict(row._mapping)
    return ClaimedRelease(**{**values, "state": ClaimState(values["state"])})


def add_release(connection: sa.Connection, values: Mapping[str, Any]) -> int:
    """Adds a release with these columns. Returns its id."""
    added = sa.insert(claimed_releases).values(**values).returning(claimed_releases.c.release_id)
    return int(connection.execute(added).scalar_one())


def set_state(connection: sa.Connection, release_id: int, state: ClaimState, **values: Any) -> None:
    """Changes the state, and the columns in `values`."""
    this = claimed_releases.c.release_id == release_id
    connection.execute(sa.update(claimed_releases).where(this).values(state=state, **values))


def remove_release(connection: sa.Connection, release_id: int) -> None:
    """Removes a release with its claimed faces and their vectors."""
    connection.execute(sa.delete(claimed_releases).where(claimed_releases.c.release_id == release_id))


def note_records(
    connection: sa.Connection, release_id: int, added: Collection[RecordKey], noted: Collection[RecordKey]
) -> None:
    """Notes the records and tombstones that the release added, and the others that got its face counts."""
    rows = [(release_id, *key, True) for key in sorted(added)]
    rows += [(release_id, *key, False) for key in sorted(set(noted).difference(added))]
    insert_many(connection, claimed_records, ("release_id", "source", "source_id", "added"), rows)


def unconfirmed_records(connection: sa.Connection, release_id: int) -> set[RecordKey]:
    """The records that the release added and that no source has confirmed since: never read, or never seen alive."""
    noted, record = claimed_records.c, source_performers.c
    live = record.deleted_at.is_(None) & record.content_hash.is_(None)
    never_seen = record.deleted_at.is_not(None) & record.name.is_(None)
    query = (
        sa.select(noted.source, noted.source_id)
        .join(source_performers, (record.source == noted.source) & (record.source_id == noted.source_id))
        .where(noted.release_id == release_id, noted.added, sa.or_(live, never_seen))
    )
    return {(source, source_id) for source, source_id in connection.execute(query)}


def forget_face_counts(connection: sa.Connection, release_id: int) -> None:
    """Removes the face counts that the release noted on records."""
    noted, record = claimed_records.c, source_performers.c
    of_release = sa.exists().where(
        noted.release_id == release_id, noted.source == record.source, noted.source_id == record.source_id
    )
    cleared = sa.update(source_performers).where(of_release, record.legacy_faces.is_not(None))
    connection.execute(cleared.values(legacy_faces=None, legacy_images=None))
