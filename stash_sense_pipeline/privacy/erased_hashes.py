"""Stores keyed hashes of erased people, so that no source brings them back."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import image_key, rows_of
from stash_sense_pipeline.catalog.schema import source_images
from stash_sense_pipeline.privacy.intake.persona_texts import persona_hashes
from stash_sense_pipeline.privacy.intake.record_evidence import read_evidence
from stash_sense_pipeline.privacy.linked_records import LinkedPerson
from stash_sense_pipeline.privacy.record_lookup import records_listing
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    IMAGE,
    LIKENESS,
    PERSONA,
    RECORD,
    URL,
    image_hash,
    kept_digests,
    likeness,
    plain_url_hash,
    record_hash,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import HashRow, Suppressions, store_hashes
from stash_sense_pipeline.privacy.url_forms import parse_url
from stash_sense_pipeline.records.perceptual_hash import is_copy
from stash_sense_pipeline.records.record_key import ImageKey


def remember_erased(
    connection: sa.Connection,
    suppressions: Suppressions,
    person: LinkedPerson,
    images: set[ImageKey],
    now: datetime,
) -> None:
    """Adds the hashes of a person's records, pages, names and images to the list. Call it before they are deleted."""
    key = suppressions.key
    rows = [
        HashRow(RECORD, record_hash(key, *record), "a record of a suppressed person", now, applied_at=now)
        for record in (*person.records, *person.other_ids)
    ]
    rows += [
        HashRow(kind, digest, "a page of a suppressed person", now, applied_at=now)
        for url in person.pages
        for kind, digest in kept_digests(key, parse_url(url))
    ]
    evidence = read_evidence(connection, person.records)
    alone = _listed_by_no_other(connection, person, {url for each in evidence.values() for url in each.urls})
    hashes = {plain_url_hash(key, url) for url in alone}.union(
        *(persona_hashes(key, each) for each in evidence.values())
    )
    rows += [
        HashRow(PERSONA, digest, "a name of a suppressed person", now, applied_at=now) for digest in hashes
    ]
    table = source_images
    columns = sa.select(table.c.url, table.c.sha256, table.c.picture_hash)
    urls, digests, picture_hashes = set[str](), set[str](), set[str]()
    for url, sha256, picture_hash in rows_of(connection, columns, image_key(table), images):
        urls.add(url)
        digests |= {sha256} - {None}
        picture_hashes |= {picture_hash} - {None}
    reason = "an image of a suppressed person"
    rows += [HashRow(URL, plain_url_hash(key, url), reason, now, applied_at=now) for url in urls]
    rows += [
        HashRow(IMAGE, image_hash(key, sha256), reason, now, applied_at=now)
        for sha256 in digests - _digests_of_others(connection, digests, images)
    ]
    rows += [
        HashRow(LIKENESS, likeness(key, picture_hash), reason, now, applied_at=now)
        for picture_hash in picture_hashes - _perceptual_hashes_of_others(connection, picture_hashes, images)
    ]
    store_hashes(connection, key, rows)


def _listed_by_no_other(connection: sa.Connection, person: LinkedPerson, urls: set[str]) -> list[str]:
    """The URLs that are pages of unknown sites and that only this person lists."""
    unknown = [page for page in map(parse_url, sorted(urls)) if page.is_compared_as_written]
    listers = records_listing(connection, unknown) if unknown else {}
    return [url for url, holders in listers.items() if holders <= person.records]


def _perceptual_hashes_of_others(
    connection: sa.Connection, picture_hashes: set[str], images: set[ImageKey]
) -> set[str]:
    """The perceptual hashes of which another image in the catalog is a copy."""
    table = source_images
    if not picture_hashes:
        return set()
    query = sa.select(table.c.source, table.c.image_id, table.c.picture_hash).where(
        table.c.picture_hash.is_not(None)
    )
    rows = streamed(connection, query)
    others = np.array(
        [
            int(picture_hash, 16)
            for source, image_id, picture_hash in rows
            if (source, image_id) not in images
        ],
        dtype=np.uint64,
    )
    return {picture_hash for picture_hash in picture_hashes if is_copy(others, picture_hash).any()}


def _digests_of_others(connection: sa.Connection, digests: set[str], images: set[ImageKey]) -> set[str]:
    """The SHA-256 digests that other images have as well, such as placeholders."""
    table = source_images
    holders = sa.select(table.c.source, table.c.image_id, table.c.sha256)
    return {
        sha256
        for source, image_id, sha256 in rows_of(connection, holders, table.c.sha256, digests)
        if (source, image_id) not in images
    }
