"""Proven claims become faces of the images that their sources list, and their pictures are looked at again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.queries.claims.releases import ClaimState, all_releases
from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.catalog.schema import (
    claimed_faces,
    claimed_releases,
    claimed_vectors,
    embeddings,
    faces,
    performer_images,
    source_images,
    source_performers,
    sync_state,
)
from stash_sense_pipeline.catalog.upsert import batched

# What a face needs and a release does not state.
_UNKNOWN = {
    "face_index": 0,
    "detection_confidence": 0.0,
    "x1": 0.0,
    "y1": 0.0,
    "x2": 0.0,
    "y2": 0.0,
    "landmarks": b"",
    "roll": 0.0,
    "blur": 0.0,
}
_A_NIGHT = timedelta(hours=20)


@dataclass(frozen=True)
class PackKey:
    """The pack that faces must be of: its name, the digest of its detector, and the digests of its embedders by name."""

    name: str
    detector_digest: str
    digests: Mapping[str, str]


class Listed(NamedTuple):
    """A proven claim with the image that its source lists under the same address."""

    claim_id: int
    image_id: str
    url: str
    quality: float
    yaw: float


def usable_releases(connection: sa.Connection, source: str, pack: PackKey) -> list[int]:
    """The releases with a proof for this source and this pack."""
    return [
        each.release_id
        for each in all_releases(connection)
        if each.state is ClaimState.PROVEN
        and source in ((each.proof or {}).get("proven_sources") or ())
        and each.detector_digest == pack.detector_digest
        and all(
            (each.models.get(name) or {}).get("digest") == digest for name, digest in pack.digests.items()
        )
    ]


def listed_claims(
    connection: sa.Connection, source: str, releases: Collection[int], limit: int
) -> list[Listed]:
    """The next proven claims with a picture that a live record of the source lists and no run has judged."""
    this, image, shown, record = (
        claimed_faces.c,
        source_images.c,
        performer_images.c,
        source_performers.c,
    )
    owned = sa.exists().where(
        shown.source == image.source,
        shown.image_id == image.image_id,
        record.source == shown.source,
        record.source_id == shown.source_id,
        record.deleted_at.is_(None),
    )
    query = (
        sa.select(this.claim_id, sa.func.min(image.image_id), this.url, this.quality, this.yaw)
        .join(source_images, (image.source == this.source) & (image.url == this.url))
        .where(
            this.source == source,
            this.face_id.is_(None),
            this.release_id.in_(sorted(releases)),
            image.state.in_([ImageState.PENDING, ImageState.FAILED]),
            image.detector_digest.is_(None),
            owned,
        )
        .group_by(this.claim_id, this.url, this.quality, this.yaw)
        .order_by(this.claim_id)
        .limit(limit)
    )
    return [Listed(*row) for row in connection.execute(query)]


def use_claims(
    connection: sa.Connection, source: str, pack: PackKey, claims: Sequence[Listed], now: datetime
) -> None:
    """Makes faces of proven claims: their vectors move to the embeddings, and their images count as done."""
    if not claims:
        return
    rows = [
        {
            **_UNKNOWN,
            "source": source,
            "image_id": claim.image_id,
            "yaw": claim.yaw,
            "quality": claim.quality,
            "pack": pack.name,
            "detector_digest": pack.detector_digest,
            "created_at": now,
        }
        for claim in claims
    ]
    face_ids = connection.scalars(
        sa.insert(faces).returning(faces.c.face_id, sort_by_parameter_order=True), rows
    ).all()
    this = claimed_faces.c.claim_id == sa.bindparam("which")
    connection.execute(
        sa.update(claimed_faces).where(this).values(face_id=sa.bindparam("of_face"), used_at=now),
        [
            {"which": claim.claim_id, "of_face": face_id}
            for claim, face_id in zip(claims, face_ids, strict=True)
        ],
    )
    for ids in batched([claim.claim_id for claim in claims], IN_LIST):
        _move_vectors(connection, pack, ids, now)
    connection.execute(
        sa.update(source_images)
        .where(source_images.c.source == source, source_images.c.image_id == sa.bindparam("of_image"))
        .values(
            state=ImageState.DONE,
            reason=None,
            attempts=0,
            refusals=0,
            next_attempt_at=None,
            detector_digest=pack.detector_digest,
            processed_at=now,
        ),
        [{"of_image": claim.image_id} for claim in claims],
    )


def _move_vectors(connection: sa.Connection, pack: PackKey, claim_ids: Sequence[int], now: datetime) -> None:
    of_claims = claimed_vectors.c.claim_id.in_(claim_ids)
    for model, digest in pack.digests.items():
        values = (
            sa.literal(pack.name),
            sa.literal(digest),
            sa.literal(now, embeddings.c.created_at.type),
        )
        found = (
            sa.select(claimed_faces.c.face_id, claimed_vectors.c.model, claimed_vectors.c.vector, *values)
            .join(claimed_faces, claimed_faces.c.claim_id == claimed_vectors.c.claim_id)
            .where(of_claims, claimed_vectors.c.model == model)
        )
        columns = ["face_id", "model", "vector", "pack", "model_digest", "created_at"]
        connection.execute(sa.insert(embeddings).from_select(columns, found))
    connection.execute(sa.delete(claimed_vectors).where(of_claims))


def drop_settled(connection: sa.Connection, source: str) -> int:
    """Removes claims that the source has answered: of removed records, and of pictures that were judged or are not listed.

    A picture counts as not listed once the source was read in full after the release was taken over. Returns the number.
    """
    this, record, state = claimed_faces.c, source_performers.c, sync_state.c
    removed = sa.exists().where(
        record.source == this.box,
        record.source_id == this.box_id,
        record.deleted_at.is_not(None),
        record.merged_into.is_(None),
    )
    read_in_full = sa.exists().where(
        state.source == this.source,
        claimed_releases.c.release_id == this.release_id,
        sa.or_(
            state.backfilled_at > claimed_releases.c.taken_at,
            state.last_sweep_at > claimed_releases.c.taken_at,
        ),
    )
    of_picture = (source_images.c.source == this.source) & (source_images.c.url == this.url)
    listed = sa.exists().where(of_picture)
    judged = sa.exists().where(
        of_picture, source_images.c.state.in_([ImageState.DONE, ImageState.REJECTED, ImageState.GONE])
    )
    return connection.execute(
        sa.delete(claimed_faces).where(
            this.source == source,
            this.face_id.is_(None),
            sa.or_(removed, judged, sa.and_(read_in_full, ~listed)),
        )
    ).rowcount


def queue_looks(connection: sa.Connection, source: str, budget: int, now: datetime) -> int:
    """Makes the images of some proven faces due, so that their pictures are seen. Returns the number.

    At most `budget` in a night. Faces of people with the fewest claimed faces come first, and none on the day on which
    it came into use.
    """
    this, others = claimed_faces.c, claimed_faces.alias()
    night = now - _A_NIGHT
    asked = sa.select(sa.func.count()).where(this.source == source, this.asked_at > night)
    left = budget - (connection.scalar(asked) or 0)
    if left <= 0:
        return 0
    of_person = (
        sa.select(others.c.box, others.c.box_id, sa.func.count().label("faces"))
        .where(others.c.face_id.is_not(None))
        .group_by(others.c.box, others.c.box_id)
        .subquery()
    )
    query = (
        sa.select(this.claim_id, faces.c.image_id)
        .join(faces, faces.c.face_id == this.face_id)
        .join(of_person, (of_person.c.box == this.box) & (of_person.c.box_id == this.box_id))
        .join(
            source_images,
            (source_images.c.source == faces.c.source) & (source_images.c.image_id == faces.c.image_id),
        )
        .where(
            this.source == source,
            this.used_at <= night,
            source_images.c.state == ImageState.DONE,
            source_images.c.next_attempt_at.is_(None),
        )
        .order_by(sa.func.coalesce(this.asked_at, this.used_at), of_person.c.faces, this.claim_id)
        .limit(left)
    )
    chosen = connection.execute(query).all()
    for batch in batched(chosen, IN_LIST):
        connection.execute(
            sa.update(source_images)
            .where(
                source_images.c.source == source,
                source_images.c.image_id.in_([row.image_id for row in batch]),
            )
            .values(next_attempt_at=now)
        )
        connection.execute(
            sa.update(claimed_faces)
            .where(this.claim_id.in_([row.claim_id for row in batch]))
            .values(asked_at=now)
        )
    return len(chosen)


def take_out_of_use(connection: sa.Connection, release_id: int) -> int:
    """Removes the faces that came from a release; their images wait to be fetched. Returns their number."""
    used = (
        sa.select(faces.c.face_id, faces.c.source, faces.c.image_id)
        .join(claimed_faces, claimed_faces.c.face_id == faces.c.face_id)
        .where(claimed_faces.c.release_id == release_id)
    )
    rows = connection.execute(used).all()
    statement = (
        sa.update(source_images)
        .where(
            source_images.c.source == sa.bindparam("of_source"),
            source_images.c.image_id == sa.bindparam("of_image"),
        )
        .values(
            state=ImageState.PENDING,
            reason=None,
            attempts=0,
            refusals=0,
            next_attempt_at=None,
            detector_digest=None,
            processed_at=None,
        )
    )
    for batch in batched(rows, 5_000):
        connection.execute(statement, [{"of_source": row.source, "of_image": row.image_id} for row in batch])
        for ids in batched([row.face_id for row in batch], IN_LIST):
            connection.execute(sa.delete(faces).where(faces.c.face_id.in_(ids)))
    return len(rows)
