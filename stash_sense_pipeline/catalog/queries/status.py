"""Counts of each source for `stash-sense status` and checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.claims.faces import FaceCounts
from stash_sense_pipeline.catalog.queries.claims.faces import face_counts as face_origins
from stash_sense_pipeline.catalog.queries.performers import count_records
from stash_sense_pipeline.catalog.queries.sync_state import MASS_REFUSAL, SyncState, load_states
from stash_sense_pipeline.catalog.schema import (
    embeddings,
    faces,
    identity_members,
    performer_images,
    source_images,
)
from stash_sense_pipeline.catalog.transactions import reading


@dataclass(frozen=True)
class SourceStatus:
    """The status of one source.

    `complete`: live records of people with enough faces. `unread`: records that could not be read or stored.
    `refused_images`: of a last run that refused too many at once, else 0. `left_alone_until`: the source refused
    requests and gets no more before that time. `faces_claimed`: faces of a release that are not in use; `faces_proven`:
    those in use, their picture not seen; `faces_seen`: faces of fetched pictures.
    """

    source: str
    live: int
    complete: int
    merged: int
    deleted: int
    unread: int
    images_pending: int
    images_done: int
    images_rejected: int
    images_failed: int
    images_gone: int
    faces: int
    embedded: int
    last_sync: datetime | None
    last_sweep: datetime | None
    last_outcome: str | None
    last_message: str | None
    refused_images: int
    left_alone_until: datetime | None
    faces_claimed: int
    faces_proven: int
    faces_seen: int

    @property
    def backlog(self) -> int:
        """The number of images that wait to be fetched and of faces that wait for an embedding."""
        return self.images_pending + self.faces - self.embedded


def source_status(engine: sa.Engine, sources: Sequence[str], threshold: int) -> list[SourceStatus]:
    """The status of each of `sources`, in that order. A source that was never read has zeros.

    `threshold`: a person with so many faces is complete.
    """
    with reading(engine) as connection:
        states = load_states(connection)
        images: dict[str, dict[str, int]] = defaultdict(dict)
        per_state = sa.select(source_images.c.source, source_images.c.state, sa.func.count()).group_by(
            source_images.c.source, source_images.c.state
        )
        for source, state, count in connection.execute(per_state):
            images[source][state] = count
        complete = _complete_by_source(connection, threshold)
        found = _count_by_source(
            connection, sa.select(faces.c.source, sa.func.count()).where(~faces.c.second)
        )
        embedded = _count_by_source(
            connection,
            sa.select(faces.c.source, sa.func.count(embeddings.c.face_id.distinct()))
            .join(embeddings, embeddings.c.face_id == faces.c.face_id)
            .where(~faces.c.second),
        )
        claims = face_origins(connection)
        rows = []
        for source in sources:
            origins = claims.get(source, FaceCounts())
            records, state = count_records(connection, source), states.get(source)
            rows.append(
                SourceStatus(
                    source=source,
                    live=records.live,
                    complete=complete.get(source, 0),
                    merged=records.merged,
                    deleted=records.removed,
                    unread=len(state.detail.get("unread", ())) if state else 0,
                    images_pending=images[source].get("pending", 0),
                    images_done=images[source].get("done", 0),
                    images_rejected=images[source].get("rejected", 0),
                    images_failed=images[source].get("failed", 0),
                    images_gone=images[source].get("gone", 0),
                    faces=found.get(source, 0),
                    embedded=embedded.get(source, 0),
                    last_sync=state.last_sync_at if state else None,
                    last_sweep=state.last_sweep_at if state else None,
                    last_outcome=state.last_outcome if state else None,
                    last_message=state.last_message if state else None,
                    refused_images=int(state.detail.get(MASS_REFUSAL, {}).get("refused", 0)) if state else 0,
                    left_alone_until=_left_alone_until(state),
                    faces_claimed=origins.claimed,
                    faces_proven=origins.proven,
                    faces_seen=origins.seen,
                )
            )
    return rows


def face_counts(engine: sa.Engine, source: str) -> tuple[int, int]:
    """The number of faces that the first pack has of a source, and of those that have an embedding."""
    embedded = (
        sa.select(sa.func.count(embeddings.c.face_id.distinct()))
        .join(faces, faces.c.face_id == embeddings.c.face_id)
        .where(faces.c.source == source, ~faces.c.second)
    )
    with reading(engine) as connection:
        every = connection.scalar(
            sa.select(sa.func.count()).select_from(faces).where(faces.c.source == source, ~faces.c.second)
        )
        return every or 0, connection.scalar(embedded) or 0


def completeness(engine: sa.Engine, threshold: int) -> tuple[int, int]:
    """The number of performers with at least `threshold` faces from all sources, and of those with fewer."""
    of_performer = _faces_of_performers()
    complete = sa.func.coalesce(sa.func.sum(sa.case((of_performer.c.faces >= threshold, 1), else_=0)), 0)
    with reading(engine) as connection:
        enough, everyone = connection.execute(
            sa.select(complete, sa.func.count()).select_from(of_performer)
        ).one()
    return enough, everyone - enough


def _complete_by_source(connection: sa.Connection, threshold: int) -> dict[str, int]:
    """The number of records by source of performers with at least `threshold` faces from all sources."""
    of_performer = _faces_of_performers()
    query = (
        sa.select(identity_members.c.source, sa.func.count())
        .join(of_performer, of_performer.c.performer_id == identity_members.c.performer_id)
        .where(of_performer.c.faces >= threshold)
        .group_by(identity_members.c.source)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _faces_of_performers() -> sa.Subquery:
    """performer_id, and `faces`: the number of faces from all sources."""
    member, image = identity_members.c, performer_images.c
    return (
        sa.select(member.performer_id, sa.func.count(faces.c.face_id.distinct()).label("faces"))
        .select_from(identity_members)
        .outerjoin(
            performer_images, sa.and_(image.source == member.source, image.source_id == member.source_id)
        )
        .outerjoin(
            faces,
            sa.and_(faces.c.source == image.source, faces.c.image_id == image.image_id, ~faces.c.second),
        )
        .group_by(member.performer_id)
        .subquery()
    )


def _left_alone_until(state: SyncState | None) -> datetime | None:
    until = state.detail.get("left_alone_until") if state else None
    return datetime.fromisoformat(until) if isinstance(until, str) else None


def _count_by_source(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(query.group_by(faces.c.source))}


@dataclass(frozen=True)
class UnreadStatus:
    """A record that could not be read or stored. `record` is its id, or a hash for a reference site."""

    source: str
    record: str
    reason: str


def unread_status(engine: sa.Engine, sources: Sequence[str]) -> list[UnreadStatus]:
    """The unread records of `sources`, in the order of the sources and sorted by id."""
    with reading(engine) as connection:
        states = load_states(connection)
    found = []
    for source in sources:
        notes = states[source].detail.get("unread", {}) if source in states else {}
        if isinstance(notes, dict):
            found += [
                UnreadStatus(source, record, str(notes[record].get("reason"))) for record in sorted(notes)
            ]
    return found
