"""The image ledger: images to fetch, outcomes, retries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.schema import (
    identity_members,
    performer_images,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.upsert import batched

# Equal for copies of one picture.
_PICTURE = sa.func.coalesce(
    source_images.c.picture_hash, source_images.c.source + "/" + source_images.c.image_id
)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class ImageState(StrEnum):
    """Value of `source_images.state`."""

    PENDING = "pending"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True)
class WaitingPerformer:
    """A live record of one source with images to fetch.

    `faces`: its images with a face. `elsewhere`: images with a face of records of the same identity in other sources,
    where copies of one picture count once. `complete_since`: when the performer got the face that made it complete, or
    None for a performer with too few faces. `looks`: a picture of a claimed face is due.
    """

    source_id: str
    faces: int
    elsewhere: int
    complete_since: datetime | None = None
    looks: bool = False


@dataclass(frozen=True)
class LedgerImage:
    """One image of a source. `due`: it may be fetched now. `owners`: the live records that list it.

    `picture_hash` and `sha256`: the perceptual hash and the digest of the bytes, once it is done. `refusals`: the number
    of days on which it was refused. `looks_again`: it is due for the second pack or for tattoos only.
    """

    image_id: str
    url: str
    width: int | None
    height: int | None
    state: ImageState
    attempts: int
    due: bool
    owners: tuple[str, ...]
    picture_hash: str | None
    sha256: str | None = None
    refusals: int = 0
    looks_again: bool = False


def _due(now: datetime) -> sa.ColumnElement[bool]:
    """Condition: the image may be fetched now. One that is done is due only to be seen, or to be searched for tattoos."""
    return sa.or_(source_images.c.state == ImageState.PENDING, source_images.c.next_attempt_at <= now)


def waits_for_look() -> sa.ColumnElement[bool]:
    """Condition: the first pack has judged the image by its bytes, and it has a next attempt for something else."""
    known = (source_images.c.sha256, source_images.c.detector_digest, source_images.c.next_attempt_at)
    judged = source_images.c.state.in_([ImageState.DONE, ImageState.REJECTED])
    return sa.and_(judged, *(column.is_not(None) for column in known))


def _of_image() -> sa.ColumnElement[bool]:
    return sa.and_(
        source_images.c.source == performer_images.c.source,
        source_images.c.image_id == performer_images.c.image_id,
    )


def _of_performer() -> sa.ColumnElement[bool]:
    return sa.and_(
        source_performers.c.source == performer_images.c.source,
        source_performers.c.source_id == performer_images.c.source_id,
    )


def waiting_performers(
    connection: sa.Connection, source: str, now: datetime, complete_at: int
) -> list[WaitingPerformer]:
    """Live records of `source` with an image to fetch, sorted by number of faces, the fewest first.

    A performer with `complete_at` faces in all sources is complete; it waits only for its new images, see
    `completed_performers`.

    Records without an image that was never tried come last, so that retries do not delay first attempts. Records with
    equal numbers are sorted by their rank in a predecessor's database (see `_legacy_rank`; `complete_at` faces are
    enough), then by id.
    """
    # Two aggregates, joined in Python, take a second. As one statement they take minutes in SQLite.
    done = sa.func.sum(sa.case((source_images.c.state == ImageState.DONE, 1), else_=0))
    due = sa.func.sum(sa.case((_due(now), 1), else_=0))
    never_asked = sa.func.max(sa.case((source_images.c.state == ImageState.PENDING, 1), else_=0))
    looks = sa.func.max(sa.case((sa.and_(source_images.c.state == ImageState.DONE, _due(now)), 1), else_=0))
    legacy = source_performers.c.legacy_faces, source_performers.c.legacy_images
    rows = connection.execute(
        sa.select(
            performer_images.c.source_id,
            done,
            sa.func.count(),
            never_asked,
            looks,
            *map(sa.func.max, legacy),
        )
        .join(source_images, _of_image())
        .join(source_performers, _of_performer())
        .where(performer_images.c.source == source, source_performers.c.deleted_at.is_(None))
        .group_by(performer_images.c.source_id)
        .having(due > 0)
    ).all()
    elsewhere = _faces_elsewhere(connection, source)
    enough = [row[0] for row in rows if row[1] + elsewhere.get(row[0], 0) >= complete_at]
    since = completed_performers(connection, source, enough, complete_at)
    with_news = _with_new_images(connection, source, since, now)
    waiting = [
        (
            not never,
            _legacy_rank(images, legacy_faces, legacy_images, complete_at),
            WaitingPerformer(
                source_id, faces, elsewhere.get(source_id, 0), since.get(source_id), bool(due_looks)
            ),
        )
        for source_id, faces, images, never, due_looks, legacy_faces, legacy_images in rows
        if source_id not in since or source_id in with_news
    ]
    waiting.sort(key=lambda each: (each[0], each[2].faces + each[2].elsewhere, each[1], each[2].source_id))
    return [performer for _, _, performer in waiting]


def completed_performers(
    connection: sa.Connection, source: str, source_ids: Sequence[str], complete_at: int
) -> dict[str, datetime]:
    """Of these records, those of a performer with `complete_at` faces in all sources, `source` included, and since when.

    Copies of one picture count once. The time is that of the face that reached the number; it does not move when more
    faces follow, so that a run that ends early leaves the same images to the next one.
    """
    times: dict[str, dict[str, datetime]] = {source_id: {} for source_id in source_ids}
    for ids in batched(source_ids, IN_LIST):
        own = (
            sa.select(performer_images.c.source_id, _PICTURE, source_images.c.processed_at)
            .join(source_images, _of_image())
            .where(
                performer_images.c.source == source,
                performer_images.c.source_id.in_(ids),
                source_images.c.state == ImageState.DONE,
            )
        )
        elsewhere = _done_elsewhere(source, _PICTURE, source_images.c.processed_at).where(
            identity_members.c.source_id.in_(ids)
        )
        for query in (own, elsewhere):
            for source_id, shown, processed_at in connection.execute(query):
                of_performer = times[source_id]
                of_performer[shown] = min(of_performer.get(shown, _LAST), processed_at or _FIRST)
    return {
        source_id: sorted(pictures.values())[complete_at - 1]
        for source_id, pictures in times.items()
        if len(pictures) >= complete_at
    }


def _with_new_images(
    connection: sa.Connection, source: str, since: Mapping[str, datetime], now: datetime
) -> set[str]:
    """Those of the complete records that have an image to fetch now. `since` is as in `completed_performers`."""
    found: set[str] = set()
    for ids in batched(list(since), IN_LIST):
        due = (
            sa.select(
                performer_images.c.source_id,
                source_images.c.state,
                source_images.c.processed_at,
                source_images.c.first_seen_at,
            )
            .join(source_images, _of_image())
            .where(performer_images.c.source == source, performer_images.c.source_id.in_(ids), _due(now))
        )
        found.update(row.source_id for row in connection.execute(due) if not _is_left(row, since))
    return found


def _is_left(image: Any, since: Mapping[str, datetime]) -> bool:
    """True for a row of an image that a complete performer does not need: never tried, and not listed after it was complete.

    An image that was tried before goes on: a verdict was due, or another model pack or looser rules want it again.
    """
    complete_since = since.get(image.source_id)
    if complete_since is None or image.state != ImageState.PENDING or image.processed_at is not None:
        return False
    return image.first_seen_at is None or image.first_seen_at <= complete_since


def _legacy_rank(images: int, legacy_faces: int | None, legacy_images: int | None, complete_at: int) -> int:
    """The rank of a record by a predecessor's database; small ranks go first.

    0: the predecessor had enough faces. The images are known to show faces, and a release without them would be worse
    than the predecessor's. 2: it had too few faces and had looked at all of the images. 1: it did not know the record,
    or there are new images.
    """
    if legacy_faces is None:
        return 1
    if legacy_faces >= complete_at:
        return 0
    return 2 if legacy_images is not None and images <= legacy_images else 1


def _faces_elsewhere(connection: sa.Connection, source: str) -> dict[str, int]:
    """By source_id, the number of pictures with a face that records of the same identity have in other sources."""
    elsewhere = _done_elsewhere(source, sa.func.count(_PICTURE.distinct())).group_by(
        identity_members.c.source_id
    )
    return {row[0]: row[1] for row in connection.execute(elsewhere)}


def _done_elsewhere(source: str, *what: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Query for (source_id, *`what`) of images with a face that records of the same identity have in other sources."""
    other = identity_members.alias()
    return (
        sa.select(identity_members.c.source_id, *what)
        .join(other, other.c.performer_id == identity_members.c.performer_id)
        .join(
            performer_images,
            sa.and_(
                performer_images.c.source == other.c.source, performer_images.c.source_id == other.c.source_id
            ),
        )
        .join(source_images, _of_image())
        .where(
            identity_members.c.source == source,
            other.c.source != source,
            source_images.c.state == ImageState.DONE,
        )
    )


def images_of(
    connection: sa.Connection,
    source: str,
    source_ids: Sequence[str],
    now: datetime,
    complete_since: Mapping[str, datetime] | None = None,
) -> dict[str, list[LedgerImage]]:
    """All images of the given records, by record: the largest first, images of unknown or equal size by id.

    Of a record in `complete_since` the images are left out that a complete performer does not need.
    """
    since = complete_since or {}
    owners = _owners(connection, source, source_ids)
    listed: dict[str, list[LedgerImage]] = {source_id: [] for source_id in source_ids}
    known: dict[str, LedgerImage] = {}
    for ids in batched(source_ids, IN_LIST):
        rows = connection.execute(
            sa.select(
                performer_images.c.source_id,
                source_images.c.image_id,
                source_images.c.url,
                source_images.c.width,
                source_images.c.height,
                source_images.c.state,
                source_images.c.attempts,
                source_images.c.picture_hash,
                source_images.c.sha256,
                source_images.c.refusals,
                source_images.c.processed_at,
                source_images.c.first_seen_at,
                _due(now).label("due"),
                waits_for_look().label("looks_again"),
            )
            .join(source_images, _of_image())
            .where(performer_images.c.source == source, performer_images.c.source_id.in_(ids))
        )
        for row in rows:
            if _is_left(row, since):
                continue
            if row.image_id not in known:
                known[row.image_id] = LedgerImage(
                    image_id=row.image_id,
                    url=row.url,
                    width=row.width,
                    height=row.height,
                    state=ImageState(row.state),
                    attempts=row.attempts,
                    due=bool(row.due),
                    owners=owners[row.image_id],
                    picture_hash=row.picture_hash,
                    sha256=row.sha256,
                    refusals=row.refusals,
                    looks_again=bool(row.looks_again),
                )
            listed[row.source_id].append(known[row.image_id])
    for images in listed.values():
        images.sort(key=lambda image: (-(image.width or 0) * (image.height or 0), image.image_id))
    return listed


def shared_urls(connection: sa.Connection, source: str, now: datetime) -> set[str]:
    """The URLs that several of the images have that are due now."""
    return set(
        connection.scalars(
            sa.select(source_images.c.url)
            .where(source_images.c.source == source, _due(now))
            .group_by(source_images.c.url)
            .having(sa.func.count() > 1)
        )
    )


def urls_fetched_before(
    connection: sa.Connection,
    source: str,
    origins: Collection[str],
    limit: int,
    *,
    elsewhere: bool = False,
) -> list[tuple[str, str | None]]:
    """(url, sha256) of images with a face at one of `origins` (prefixes of URLs), the last fetched first.

    With `elsewhere`, of images at none of them.
    """
    return [
        (row.url, row.sha256)
        for row in connection.execute(
            sa.select(source_images.c.url, source_images.c.sha256)
            .where(
                source_images.c.source == source,
                source_images.c.state == ImageState.DONE,
                source_images.c.sha256.is_not(None),
                sa.not_(_at(origins)) if elsewhere else _at(origins),
            )
            .order_by(source_images.c.processed_at.desc(), source_images.c.image_id)
            .limit(limit)
        )
    ]


def waits_elsewhere(connection: sa.Connection, source: str, origins: Collection[str], now: datetime) -> bool:
    """True when an image of a live record is due and its URL begins with none of `origins`."""
    due = (
        sa.select(sa.literal(1))
        .join(performer_images, _of_image())
        .join(source_performers, _of_performer())
        .where(
            source_images.c.source == source,
            source_performers.c.deleted_at.is_(None),
            _due(now),
            sa.not_(_at(origins)),
        )
    )
    return connection.execute(due.limit(1)).first() is not None


def _at(origins: Collection[str]) -> sa.ColumnElement[bool]:
    return sa.or_(
        sa.false(), *(source_images.c.url.startswith(origin, autoescape=True) for origin in origins)
    )


def _owners(connection: sa.Connection, source: str, source_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    wanted = performer_images.alias()
    owners: dict[str, list[str]] = {}
    for ids in batched(source_ids, IN_LIST):
        images = sa.select(wanted.c.image_id).where(wanted.c.source == source, wanted.c.source_id.in_(ids))
        rows = connection.execute(
            sa.select(performer_images.c.image_id, performer_images.c.source_id)
            .join(source_performers, _of_performer())
            .where(
                performer_images.c.source == source,
                performer_images.c.image_id.in_(images),
                source_performers.c.deleted_at.is_(None),
            )
        )
        for image_id, source_id in rows:
            owners.setdefault(image_id, []).append(source_id)
    return {image_id: tuple(sorted(set(ids))) for image_id, ids in owners.items()}
