"""Takes back a release: its claims, the faces that came from it, and the records that no source has confirmed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.purge import overwrite_deleted, request_purge, vacuum
from stash_sense_pipeline.catalog.queries.claims import faces as claimed
from stash_sense_pipeline.catalog.queries.claims import releases, use
from stash_sense_pipeline.catalog.queries.claims.releases import ClaimedRelease, ClaimState
from stash_sense_pipeline.catalog.queries.identity.identities import (
    lock_identity_writers,
    retire_empty,
)
from stash_sense_pipeline.catalog.schema import (
    claimed_faces,
    claimed_records,
    claimed_vectors,
    embeddings,
    faces,
    source_performers,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.privacy.erasure import erase_alone

_TABLES = (claimed_faces, claimed_records, claimed_vectors, embeddings, faces, source_performers)


@dataclass(frozen=True)
class UndoReport:
    """What an undo removed. `bytes_left` as in privacy.erasure.ErasureReport."""

    version: str
    claims: int
    faces: int
    records: int
    bytes_left: str | None


def undo_release(engine: sa.Engine, release: ClaimedRelease, now: datetime) -> UndoReport:
    """Removes everything that came from the release only, in one transaction, and overwrites its bytes.

    Records that their source has confirmed stay, and so do faces of pictures that were fetched. The images of removed
    faces wait to be fetched. Performer ids are not used again.
    """
    with writing(engine) as connection:
        lock_identity_writers(connection)
        used = use.take_out_of_use(connection, release.release_id)
        claims = claimed.drop_unused(connection, release.release_id)
        if release.state is ClaimState.RECORDS:
            releases.forget_face_counts(connection, release.release_id)
        records = releases.unconfirmed_records(connection, release.release_id)
        erase_alone(connection, records, now)
        retire_empty(connection, now)
        releases.remove_release(connection, release.release_id)
        request_purge(connection, now)
    vacuum(engine, [table.name for table in _TABLES])
    return UndoReport(release.version, claims, used, len(records), overwrite_deleted(engine))
