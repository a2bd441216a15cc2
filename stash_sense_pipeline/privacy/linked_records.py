"""All records and images of one person: upstream merges, identities, exclusive pages."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import image_key, record_key, rows_of
from stash_sense_pipeline.catalog.schema import (
    identity_members,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.privacy.record_lookup import records_called, records_listing
from stash_sense_pipeline.privacy.url_forms import ParsedUrl, identifying_pages, parse_url, record_page
from stash_sense_pipeline.records import profile_urls
from stash_sense_pipeline.records.perceptual_hash import is_copy
from stash_sense_pipeline.records.record_key import OTHER_IDS, ImageKey, RecordKey


@dataclass(frozen=True)
class LinkedPerson:
    """The records of one person, the pages that only they list, and other ids of the records at their sources.

    `shared` is the number of pages that records of other people, the `other_listers`, list too.
    """

    records: frozenset[RecordKey]
    pages: tuple[str, ...]
    shared: int
    other_ids: tuple[RecordKey, ...]
    other_listers: frozenset[RecordKey] = frozenset()


def whole_person(connection: sa.Connection, records: Collection[RecordKey]) -> LinkedPerson:
    """All records of the people of these records.

    A record without an identity belongs to them if it lists one of their pages. A record with an identity of its own
    does not: the identity run weighed the evidence and did not link it, so the page is shared.
    """
    people = with_linked(connection, records)
    listers: dict[str, set[RecordKey]] = {}
    parsed: dict[str, ParsedUrl] = {}
    while True:
        urls = dict.fromkeys(_urls_of(connection, people))
        parsed |= {url: parse_url(url) for url in urls if url not in parsed}
        new_pages = [
            page for page in identifying_pages(map(parsed.__getitem__, urls)) if page.url not in listers
        ]
        listers |= records_listing(connection, new_pages) if new_pages else {}
        others = {
            record
            for holders in listers.values()
            if len(holders) <= profile_urls.MAX_PAGE_HOLDERS
            for record in holders
        } - people
        unjudged = others - with_identity(connection, others)
        if not unjudged:
            break
        people = with_linked(connection, people | unjudged)
    alone = [parsed[url] for url, holders in listers.items() if holders <= people]
    of_others = _pages_of_others(connection, alone, people)
    own = tuple(sorted({page.url for page in alone} - of_others))
    other_listers = frozenset(record for holders in listers.values() for record in holders) - people
    return LinkedPerson(
        frozenset(people), own, len(listers) - len(own), _other_ids(connection, people), other_listers
    )


def _pages_of_others(
    connection: sa.Connection, pages: Collection[ParsedUrl], people: set[RecordKey]
) -> set[str]:
    """The URLs of stash-box pages of records in other identities: the identity run did not link those."""
    names = {page.url: name for page in pages if (name := page.stash_box_record) is not None}
    called = records_called(connection, set(names.values()))
    return {url for url, name in names.items() if with_identity(connection, called[name] - people)}


def own_pages(connection: sa.Connection, record: RecordKey, pages: Collection[ParsedUrl]) -> set[str]:
    """The URLs of those pages of a stored record that no record of another identity lists as well."""
    listers = records_listing(connection, pages)
    person = with_linked(connection, {record})
    return {url for url, holders in listers.items() if not with_identity(connection, holders - person)}


def with_linked(connection: sa.Connection, records: Collection[RecordKey]) -> set[RecordKey]:
    """The records, and all others of the same people by merges at the source or by identities."""
    performers, members, others = source_performers, identity_members, identity_members.alias()
    merged_key = sa.tuple_(performers.c.source, performers.c.merged_into)
    merged_away = sa.select(performers.c.source, performers.c.source_id)
    survivors = sa.select(performers.c.source, performers.c.merged_into).where(
        performers.c.merged_into.is_not(None)
    )
    same_identity = sa.select(others.c.source, others.c.source_id).join(
        members, members.c.performer_id == others.c.performer_id
    )
    person: set[RecordKey] = set()
    news = set(records)
    while news:
        person |= news
        found = {
            *rows_of(connection, merged_away, merged_key, news),
            *rows_of(connection, survivors, record_key(performers), news),
            *rows_of(connection, same_identity, record_key(members), news),
        }
        news = {(source, source_id) for source, source_id in found} - person
    return person


def own_and_shared_images(
    connection: sa.Connection, records: Collection[RecordKey]
) -> tuple[set[ImageKey], set[ImageKey]]:
    """The images of these records, and those among them that other records show too."""
    table = performer_images
    theirs: set[ImageKey] = {
        (source, image_id)
        for source, image_id in rows_of(
            connection, sa.select(table.c.source, table.c.image_id), record_key(table), records
        )
    }
    owners = sa.select(table.c.source, table.c.image_id, table.c.source_id)
    shared = {
        (source, image_id)
        for source, image_id, source_id in rows_of(connection, owners, image_key(table), theirs)
        if (source, source_id) not in records
    }
    return theirs, shared


def owners_of(connection: sa.Connection, pictures: Collection[ImageKey]) -> set[RecordKey]:
    """The records that show one of these images, or an image with the same bytes or perceptual hash."""
    images, links = source_images, performer_images
    columns = sa.select(images.c.sha256, images.c.picture_hash)
    digests, picture_hashes = set[str](), set[str]()
    for sha256, picture_hash in rows_of(connection, columns, image_key(images), pictures):
        digests |= {sha256} - {None}
        picture_hashes |= {picture_hash} - {None}
    keys = sa.select(images.c.source, images.c.image_id)
    shown = set(pictures)
    shown |= {(source, image_id) for source, image_id in rows_of(connection, keys, images.c.sha256, digests)}
    if picture_hashes:
        hashed = sa.select(images.c.source, images.c.image_id, images.c.picture_hash)
        rows = connection.execute(hashed.where(images.c.picture_hash.is_not(None))).all()
        others = np.array([int(picture_hash, 16) for _, _, picture_hash in rows], dtype=np.uint64)
        for picture_hash in picture_hashes:
            copies = np.flatnonzero(is_copy(others, picture_hash)).tolist()
            shown |= {(rows[place].source, rows[place].image_id) for place in copies}
    owners = sa.select(links.c.source, links.c.source_id)
    return {(source, source_id) for source, source_id in rows_of(connection, owners, image_key(links), shown)}


def _urls_of(connection: sa.Connection, people: set[RecordKey]) -> Iterator[str]:
    """The URLs that these records list, and their own pages on the public stash-boxes."""
    table = performer_urls
    for (url,) in rows_of(connection, sa.select(table.c.url), record_key(table), people):
        yield url
    yield from filter(None, (record_page(record, {}) for record in sorted(people)))


def with_identity(connection: sa.Connection, records: set[RecordKey]) -> set[RecordKey]:
    """The records among these that are in an identity."""
    members = identity_members
    found = rows_of(
        connection, sa.select(members.c.source, members.c.source_id), record_key(members), records
    )
    return {(source, source_id) for source, source_id in found}


def _other_ids(connection: sa.Connection, people: set[RecordKey]) -> tuple[RecordKey, ...]:
    """Further ids of these records at their sources, such as slugs."""
    table = source_performers
    query = sa.select(table.c.source, *(table.c.raw[name].as_string() for name in OTHER_IDS))
    return tuple(
        sorted(
            (source, other)
            for source, *others in rows_of(connection, query, record_key(table), people)
            for other in others
            if other
        )
    )
