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
from stash_sense_pipeline.privacy.url_forms import identifying_pages
from stash_sense_pipeline.records import profile_sites, profile_urls
from stash_sense_pipeline.records.perceptual_hash import is_copy
from stash_sense_pipeline.records.record_key import OTHER_IDS, ImageKey, RecordKey


@dataclass(frozen=True)
class LinkedPerson:
    """Records that belong together, the pages that lead to them and to nobody else, and other ids of theirs.

    `shared` pages are left out of `pages`: records of other people, the `other_listers`, list them too.
    """

    records: frozenset[RecordKey]
    pages: tuple[str, ...]
    shared: int
    other_ids: tuple[RecordKey, ...]
    other_listers: frozenset[RecordKey] = frozenset()


def whole_person(connection: sa.Connection, records: Collection[RecordKey]) -> LinkedPerson:
    """All that belongs to the people of these records.

    A record that no identity was computed for yet belongs to them if it lists one of their pages. One that
    has an identity of its own does not: the evidence was weighed and was not enough, and the page is shared.
    """
    people = with_linked(connection, records)
    listers: dict[str, set[RecordKey]] = {}
    while True:
        pages = identifying_pages(_urls_of(connection, people)).values()
        new_pages = [url for url in pages if url not in listers]
        listers |= records_listing(connection, new_pages) if new_pages else {}
        others = {
            record for who in listers.values() if len(who) <= profile_urls.MAX_PAGE_HOLDERS for record in who
        } - people
        unjudged = others - judged(connection, others)
        if not unjudged:
            break
        people = with_linked(connection, people | unjudged)
    alone = {url for url, who in listers.items() if who <= people}
    own = tuple(sorted(alone - _pages_of_others(connection, alone, people)))
    strangers = frozenset(record for who in listers.values() for record in who) - people
    return LinkedPerson(
        frozenset(people), own, len(listers) - len(own), _other_ids(connection, people), strangers
    )


def _pages_of_others(connection: sa.Connection, urls: Collection[str], people: set[RecordKey]) -> set[str]:
    """Of these URLs, the stash-box pages of stored records that are in an identity of others: the link was weighed."""
    names: dict[str, RecordKey] = {}
    for url in urls:
        profile = profile_urls.canonical_profile(url)
        site = profile_sites.site(profile.site) if profile is not None else None
        if profile is not None and site is not None and site.stash_box_host is not None:
            names[url] = (profile.site, profile.key)
    called = records_called(connection, set(names.values()))
    return {url for url, name in names.items() if judged(connection, called[name] - people)}


def own_pages(connection: sa.Connection, record: RecordKey, urls: Collection[str]) -> list[str]:
    """Of what a stored record lists, the pages that no record of another identity lists as well."""
    listers = records_listing(connection, list(identifying_pages(urls).values()))
    kin = with_linked(connection, {record})
    return [url for url, who in listers.items() if not judged(connection, who - kin)]


def with_linked(connection: sa.Connection, records: Collection[RecordKey]) -> set[RecordKey]:
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
    kin: set[RecordKey] = set()
    news = set(records)
    while news:
        kin |= news
        found = {
            *rows_of(connection, merged_away, merged_key, news),
            *rows_of(connection, survivors, record_key(performers), news),
            *rows_of(connection, same_identity, record_key(members), news),
        }
        news = {(source, source_id) for source, source_id in found} - kin
    return kin


def theirs_and_shared(
    connection: sa.Connection, records: Collection[RecordKey]
) -> tuple[set[ImageKey], set[ImageKey]]:
    """The images of these records, and those of them that others have too."""
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
    """The records that show one of these pictures, or an image of the same bytes or looks."""
    images, links = source_images, performer_images
    columns = sa.select(images.c.sha256, images.c.picture_hash)
    digests, looks = set[str](), set[str]()
    for sha256, look in rows_of(connection, columns, image_key(images), pictures):
        digests |= {sha256} - {None}
        looks |= {look} - {None}
    keys = sa.select(images.c.source, images.c.image_id)
    shown = set(pictures)
    shown |= {(source, image_id) for source, image_id in rows_of(connection, keys, images.c.sha256, digests)}
    if looks:
        hashed = sa.select(images.c.source, images.c.image_id, images.c.picture_hash)
        rows = connection.execute(hashed.where(images.c.picture_hash.is_not(None))).all()
        others = np.array([int(look, 16) for _, _, look in rows], dtype=np.uint64)
        for look in looks:
            copies = np.flatnonzero(is_copy(others, look)).tolist()
            shown |= {(rows[place].source, rows[place].image_id) for place in copies}
    owners = sa.select(links.c.source, links.c.source_id)
    return {(source, source_id) for source, source_id in rows_of(connection, owners, image_key(links), shown)}


def _urls_of(connection: sa.Connection, people: set[RecordKey]) -> Iterator[str]:
    """What they list, and the pages of their own records on the public stash-boxes."""
    table = performer_urls
    for (url,) in rows_of(connection, sa.select(table.c.url), record_key(table), people):
        yield url
    for source, source_id in sorted(people):
        site = profile_sites.site(source)
        if site is not None and site.stash_box_host is not None:
            yield f"https://{site.stash_box_host}/performers/{source_id}"


def judged(connection: sa.Connection, records: set[RecordKey]) -> set[RecordKey]:
    """Of these records, those that are in an identity."""
    members = identity_members
    found = rows_of(
        connection, sa.select(members.c.source, members.c.source_id), record_key(members), records
    )
    return {(source, source_id) for source, source_id in found}


def _other_ids(connection: sa.Connection, people: set[RecordKey]) -> tuple[RecordKey, ...]:
    """What else the source calls these records."""
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
