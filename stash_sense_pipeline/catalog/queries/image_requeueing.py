"""Outcomes of images, and their requeueing: rejected, given up, by another detector, or without crop."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.queries.images import ImageState, waits_for_look
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    embeddings,
    faces,
    second_verdicts,
    source_images,
)
from stash_sense_pipeline.catalog.upsert import batched

_OF_REFUSAL = ("refusals", "next_attempt_at", "sha256", "picture_hash")


@dataclass(frozen=True)
class RejectionGroup:
    """The number of rejected images of a source with the same rules and the same reason."""

    judged_by: str
    reason: str
    images: int


def rejections(connection: sa.Connection, source: str) -> list[RejectionGroup]:
    """The numbers of rejected images of a source by rules and reason."""
    rows = connection.execute(
        sa.select(source_images.c.judged_by, source_images.c.reason, sa.func.count())
        .where(
            source_images.c.source == source,
            source_images.c.state == ImageState.REJECTED,
            source_images.c.judged_by.is_not(None),
        )
        .group_by(source_images.c.judged_by, source_images.c.reason)
        .order_by(source_images.c.judged_by, source_images.c.reason)
    )
    return [RejectionGroup(*row) for row in rows]


def reopen_rejections(connection: sa.Connection, source: str, group: RejectionGroup) -> int:
    """Makes the images of one group pending again. Returns their number."""
    return _reopen(
        connection,
        source,
        sa.and_(
            source_images.c.state == ImageState.REJECTED,
            source_images.c.judged_by == group.judged_by,
            source_images.c.reason == group.reason,
        ),
    )


def reopen_given_up(
    connection: sa.Connection, source: str, max_attempts: int, spoiled: Collection[str], now: datetime
) -> int:
    """Makes images due again that were given up after fewer than `max_attempts` attempts. Returns their number.

    `spoiled`: reasons of images that were rejected only because every attempt gave unusable bytes.
    """
    given_up = sa.or_(
        source_images.c.state == ImageState.FAILED,
        sa.and_(source_images.c.state == ImageState.REJECTED, source_images.c.reason.in_(spoiled)),
    )
    result = connection.execute(
        sa.update(source_images)
        .where(
            source_images.c.source == source,
            given_up,
            source_images.c.next_attempt_at.is_(None),
            source_images.c.attempts > 0,
            source_images.c.attempts < max_attempts,
        )
        .values(state=ImageState.FAILED, next_attempt_at=now)
    )
    return result.rowcount


def reopen_other_detectors(connection: sa.Connection, source: str, detector_digest: str) -> int:
    """Makes images pending again that another detector has processed. Returns their number."""
    return _reopen(
        connection,
        source,
        sa.and_(
            source_images.c.state.in_([ImageState.DONE, ImageState.REJECTED]),
            source_images.c.detector_digest.is_not(None),
            source_images.c.detector_digest != detector_digest,
        ),
    )


def reopen_without_crop(connection: sa.Connection, source: str, digests: Mapping[str, str]) -> int:
    """Makes images pending again when their face lacks a vector of a model and has no crop to compute it from.

    `digests`: models, name → digest. Returns the number of images.
    """
    done = source_images.c.state == ImageState.DONE
    incomplete = _without_crop(source, digests, ~faces.c.second)
    return _reopen(connection, source, sa.and_(done, source_images.c.image_id.in_(incomplete)))


def _without_crop(
    source: str, digests: Mapping[str, str], which: sa.ColumnElement[bool]
) -> sa.Select[tuple[str]]:
    """Query for the images of faces that lack a vector of a model and have no crop."""
    of_models = (
        sa.and_(embeddings.c.model == model, embeddings.c.model_digest == digest)
        for model, digest in digests.items()
    )
    vectors = (
        sa.select(embeddings.c.face_id, sa.func.count().label("vectors"))
        .where(sa.or_(*of_models))
        .group_by(embeddings.c.face_id)
        .subquery()
    )
    return (
        sa.select(faces.c.image_id)
        .outerjoin(aligned_crops, aligned_crops.c.face_id == faces.c.face_id)
        .outerjoin(vectors, vectors.c.face_id == faces.c.face_id)
        .where(
            faces.c.source == source,
            which,
            aligned_crops.c.face_id.is_(None),
            sa.func.coalesce(vectors.c.vectors, 0) < len(digests),
        )
    )


def seen_by_second(
    connection: sa.Connection, source: str, image_ids: Sequence[str], detector_digest: str
) -> set[str]:
    """Those of the images on which this detector of the second pack has a verdict."""
    table = second_verdicts.c
    query = sa.select(table.image_id).where(table.source == source, table.detector_digest == detector_digest)
    return {
        image_id
        for ids in batched(image_ids, IN_LIST)
        for image_id in connection.scalars(query.where(table.image_id.in_(ids)))
    }


def second_rejections(connection: sa.Connection, source: str, detector_digest: str) -> list[RejectionGroup]:
    """The numbers of images of a source that this detector, of the second pack, rejected, by rules and reason."""
    table = second_verdicts.c
    rows = connection.execute(
        sa.select(table.judged_by, table.reason, sa.func.count())
        .where(
            table.source == source,
            table.detector_digest == detector_digest,
            table.state == ImageState.REJECTED,
        )
        .group_by(table.judged_by, table.reason)
        .order_by(table.judged_by, table.reason)
    )
    return [RejectionGroup(*row) for row in rows]


def drop_second_rejections(connection: sa.Connection, source: str, group: RejectionGroup) -> None:
    """Removes the second pack's verdicts of one group, so that it looks at these images again."""
    table = second_verdicts.c
    connection.execute(
        sa.delete(second_verdicts).where(
            table.source == source,
            table.state == ImageState.REJECTED,
            table.judged_by == group.judged_by,
            table.reason == group.reason,
        )
    )


def drop_second_without_crop(connection: sa.Connection, source: str, digests: Mapping[str, str]) -> None:
    """Removes the second pack's verdicts on images with a face that lacks a vector of a model and has no crop."""
    incomplete = _without_crop(source, digests, faces.c.second)
    table = second_verdicts.c
    connection.execute(
        sa.delete(second_verdicts).where(table.source == source, table.image_id.in_(incomplete))
    )


def _lacks_second(detector_digest: str, seen: Collection[str]) -> sa.ColumnElement[bool]:
    """Condition: the first pack has seen the picture, and this detector of the second pack has not.

    `seen`: the reasons of rejections by a detector. A claimed face, of a picture that was not fetched, does not count.
    """
    table = second_verdicts.c
    image = source_images.c
    return sa.and_(
        sa.or_(
            image.state == ImageState.DONE,
            sa.and_(image.state == ImageState.REJECTED, image.reason.in_(seen)),
        ),
        image.sha256.is_not(None),
        image.detector_digest.is_not(None),
        ~sa.exists().where(
            table.source == image.source,
            table.image_id == image.image_id,
            table.detector_digest == detector_digest,
        ),
    )


def queue_second_looks(
    connection: sa.Connection, source: str, detector_digest: str, seen: Collection[str], now: datetime
) -> int:
    """Makes images due that the second pack's detector has not seen. They keep the first pack's verdict and face.

    `seen`: the reasons of rejections by a detector. Returns the number of images that were not due before.
    """
    result = connection.execute(
        sa.update(source_images)
        .where(
            source_images.c.source == source,
            source_images.c.next_attempt_at.is_(None),
            _lacks_second(detector_digest, seen),
        )
        .values(next_attempt_at=now, attempts=0, refusals=0)
    )
    return result.rowcount


def cancel_second_looks(
    connection: sa.Connection, source: str, but: sa.ColumnElement[bool] | None = None
) -> None:
    """Makes images not due that were due for a second pack only. For a run without one. `but`: images that stay due."""
    connection.execute(
        sa.update(source_images)
        .where(source_images.c.source == source, waits_for_look(), *(() if but is None else (~but,)))
        .values(next_attempt_at=None, attempts=0, refusals=0)
    )


def count_second_backlog(
    connection: sa.Connection, detector_digest: str, seen: Collection[str]
) -> dict[str, int]:
    """By source, the number of images that must be fetched once more for the second pack."""
    rows = connection.execute(
        sa.select(source_images.c.source, sa.func.count())
        .where(_lacks_second(detector_digest, seen))
        .group_by(source_images.c.source)
        .order_by(source_images.c.source)
    )
    return {row[0]: row[1] for row in rows}


def _reopen(connection: sa.Connection, source: str, which: sa.ColumnElement[bool]) -> int:
    result = connection.execute(
        sa.update(source_images)
        .where(source_images.c.source == source, which)
        .values(state=ImageState.PENDING, reason=None, attempts=0, refusals=0, next_attempt_at=None)
    )
    return result.rowcount


def record_outcomes(connection: sa.Connection, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores the outcomes of images. Each row has image_id and the changed columns, the same columns in all rows.

    An image that was removed from the ledger is ignored.
    """
    if not rows:
        return
    columns = [name for name in rows[0] if name != "image_id"]
    statement = (
        sa.update(source_images)
        .where(source_images.c.source == source, source_images.c.image_id == sa.bindparam("of_image"))
        .values({name: sa.bindparam(f"new_{name}") for name in columns})
    )
    connection.execute(
        statement,
        [{"of_image": row["image_id"]} | {f"new_{name}": row[name] for name in columns} for row in rows],
    )


def record_refusals(connection: sa.Connection, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores refusals. Each row has image_id, the reason of the refusal, and the new values of refusals,
    next_attempt_at, sha256 and picture_hash.

    An image with another reason by now, or that was removed from the ledger, is not changed.
    """
    if not rows:
        return
    statement = (
        sa.update(source_images)
        .where(
            source_images.c.source == source,
            source_images.c.image_id == sa.bindparam("of_image"),
            source_images.c.reason == sa.bindparam("for_reason"),
        )
        .values({name: sa.bindparam(f"new_{name}") for name in _OF_REFUSAL})
    )
    connection.execute(
        statement,
        [
            {"of_image": row["image_id"], "for_reason": row["reason"]}
            | {f"new_{name}": row[name] for name in _OF_REFUSAL}
            for row in rows
        ],
    )


def still_listed(connection: sa.Connection, source: str, image_ids: Sequence[str]) -> set[str]:
    """Those of the images that are in the ledger."""
    found: set[str] = set()
    for ids in batched(image_ids, IN_LIST):
        found.update(
            connection.scalars(
                sa.select(source_images.c.image_id).where(
                    source_images.c.source == source, source_images.c.image_id.in_(ids)
                )
            )
        )
    return found
