"""Taking suppressed people out of the catalog."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import checkpoint, writing
from stash_sense_pipeline.catalog.schema import (
    faces,
    identities,
    identity_evidence,
    identity_log,
    identity_members,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
    trusted_faces,
)
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.privacy.suppression import (
    IMAGE,
    RECORD,
    HashRow,
    Suppressions,
    image_hash,
    record_hash,
    store_hashes,
)

# (source, source_id) and (source, image_id).
Record = tuple[str, str]
Image = tuple[str, str]

# How many keys a statement names; both databases allow far more.
_BATCH = 400


@dataclass(frozen=True)
class ErasureReport:
    """What one erasure took out of the catalog, in rows."""

    records: int
    identities: int
    images: int
    faces: int


def erase_suppressed(engine: sa.Engine, suppressions: Suppressions, now: datetime) -> ErasureReport:
    """Deletes all that the catalog holds of the people whom `suppressions` covers, in one transaction.

    A person is the records that are covered or list a covered URL, the records merged with them upstream, and
    all records of their identities. With these go names, links, evidence and log, the images that nobody else
    has, and the faces on them. An image that is itself covered goes in any case. What the person could come
    back by, the other records and the bytes of the images, is suppressed from now on too.

    On SQLite the old bytes are overwritten, and the write-ahead log is emptied if no process is reading.
    Doing it again changes nothing.
    """
    with writing(engine) as connection:
        people = _with_kin(connection, _covered_records(connection, suppressions))
        images = _images_of_only(connection, people) | _covered_images(connection, suppressions)
        _remember(connection, suppressions, people, images, now)
        report = ErasureReport(
            records=len(people),
            identities=_erase_identities(connection, people, now),
            images=len(images),
            faces=_count_faces(connection, images),
        )
        _delete(connection, source_images, _image_key(source_images), images)
        _delete(connection, source_performers, _record_key(source_performers), people)
    if report.records or report.images:
        checkpoint(engine)
    return report


def _record_key(table: sa.FromClause) -> sa.ColumnElement[Any]:
    return sa.tuple_(table.c.source, table.c.source_id)


def _image_key(table: sa.FromClause) -> sa.ColumnElement[Any]:
    return sa.tuple_(table.c.source, table.c.image_id)


def _covered_records(connection: sa.Connection, suppressions: Suppressions) -> set[Record]:
    covered: set[Record] = set()
    if suppressions.records:
        records = sa.select(source_performers.c.source, source_performers.c.source_id)
        for source, source_id in connection.execute(records):
            if suppressions.covers_record(source, source_id):
                covered.add((source, source_id))
    if suppressions.urls:
        links = sa.select(performer_urls.c.source, performer_urls.c.source_id, performer_urls.c.url)
        for source, source_id, url in connection.execute(links):
            if suppressions.covers_url(url):
                covered.add((source, source_id))
    return covered


def _covered_images(connection: sa.Connection, suppressions: Suppressions) -> set[Image]:
    if not suppressions.urls and not suppressions.images:
        return set()
    table = source_images
    rows = connection.execute(sa.select(table.c.source, table.c.image_id, table.c.url, table.c.sha256))
    return {
        (source, image_id)
        for source, image_id, url, sha256 in rows
        if suppressions.covers_url(url) or (sha256 is not None and suppressions.covers_image(sha256))
    }


def _with_kin(connection: sa.Connection, records: set[Record]) -> set[Record]:
    """The records and all that are the same person, by upstream merges or by our identities."""
    performers, members, others = source_performers, identity_members, identity_members.alias()
    merged_key = sa.tuple_(performers.c.source, performers.c.merged_into)
    merged_away = sa.select(performers.c.source, performers.c.source_id)
    survivors = sa.select(performers.c.source, performers.c.merged_into).where(
        performers.c.merged_into.is_not(None)
    )
    same_identity = sa.select(others.c.source, others.c.source_id).join(
        members, members.c.performer_id == others.c.performer_id
    )
    kin: set[Record] = set()
    news = records
    while news:
        kin |= news
        found = {
            *_rows(connection, merged_away, merged_key, news),
            *_rows(connection, survivors, _record_key(performers), news),
            *_rows(connection, same_identity, _record_key(members), news),
        }
        news = {(source, source_id) for source, source_id in found} - kin
    return kin


def _images_of_only(connection: sa.Connection, people: set[Record]) -> set[Image]:
    """The images of these records that no other record has."""
    table = performer_images
    theirs: set[Image] = {
        (source, image_id)
        for source, image_id in _rows(
            connection, sa.select(table.c.source, table.c.image_id), _record_key(table), people
        )
    }
    owners = sa.select(table.c.source, table.c.image_id, table.c.source_id)
    shared = {
        (source, image_id)
        for source, image_id, source_id in _rows(connection, owners, _image_key(table), theirs)
        if (source, source_id) not in people
    }
    return theirs - shared


def _remember(
    connection: sa.Connection,
    suppressions: Suppressions,
    people: set[Record],
    images: set[Image],
    now: datetime,
) -> None:
    key = suppressions.key
    rows = [
        HashRow(RECORD, record_hash(key, source, source_id), "a record of a suppressed person", now)
        for source, source_id in people
    ]
    rows += [
        HashRow(IMAGE, image_hash(key, sha256), "an image of a suppressed person", now)
        for sha256 in _digests_of_only(connection, images)
    ]
    store_hashes(connection, key, rows)


def _digests_of_only(connection: sa.Connection, images: set[Image]) -> set[str]:
    """The SHA-256 of these images, but for those that other images have as well, such as placeholders."""
    table = source_images
    rows = _rows(connection, sa.select(table.c.sha256), _image_key(table), images)
    digests = {sha256 for (sha256,) in rows if sha256 is not None}
    holders = sa.select(table.c.source, table.c.image_id, table.c.sha256)
    shared = {
        sha256
        for source, image_id, sha256 in _rows(connection, holders, table.c.sha256, digests)
        if (source, image_id) not in images
    }
    return digests - shared


def _erase_identities(connection: sa.Connection, people: set[Record], now: datetime) -> int:
    """Removes all that hangs on the identities of these records, and retires them. Returns their number."""
    members, evidence = identity_members, identity_evidence
    rows = _rows(connection, sa.select(members.c.performer_id), _record_key(members), people)
    performer_ids = {performer_id for (performer_id,) in rows}
    _delete(connection, evidence, sa.tuple_(evidence.c.source_a, evidence.c.source_id_a), people)
    _delete(connection, evidence, sa.tuple_(evidence.c.source_b, evidence.c.source_id_b), people)
    for table in (trusted_faces, identity_log, members):
        _delete(connection, table, table.c.performer_id, performer_ids)
    for batch in _batches(performer_ids):
        retired = sa.update(identities).where(identities.c.performer_id.in_(batch))
        connection.execute(retired.values(retired_at=now, redirect_to=None))
    return len(performer_ids)


def _count_faces(connection: sa.Connection, images: set[Image]) -> int:
    return sum(
        connection.scalar(sa.select(sa.func.count()).select_from(faces).where(_image_key(faces).in_(batch)))
        or 0
        for batch in _batches(images)
    )


def _batches(keys: Collection[Any]) -> Iterator[Sequence[Any]]:
    return batched(sorted(keys), _BATCH)


def _rows(
    connection: sa.Connection, query: sa.Select[Any], key: sa.ColumnElement[Any], keys: Collection[Any]
) -> Iterator[tuple[Any, ...]]:
    """The rows of `query` whose `key` is one of `keys`."""
    for batch in _batches(keys):
        yield from (tuple(row) for row in connection.execute(query.where(key.in_(batch))))


def _delete(
    connection: sa.Connection, table: sa.Table, key: sa.ColumnElement[Any], keys: Collection[Any]
) -> None:
    for batch in _batches(keys):
        connection.execute(sa.delete(table).where(key.in_(batch)))
