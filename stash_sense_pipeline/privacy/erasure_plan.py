"""Erasure plan: which people and which images of the catalog an erasure must delete."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import image_key, rows_of
from stash_sense_pipeline.catalog.schema import (
    IS_FOUND_SUPPRESSED,
    faces,
    performer_images,
    performer_urls,
    second_trusted_faces,
    source_images,
    source_performers,
    trusted_faces,
    withheld_records,
)
from stash_sense_pipeline.privacy.intake.record_evidence import Relatives
from stash_sense_pipeline.privacy.linked_records import (
    LinkedPerson,
    own_and_shared_images,
    owners_of,
    whole_person,
    with_identity,
    with_linked,
)
from stash_sense_pipeline.privacy.suppression.suppressed_faces import SuppressedFaces, faces_near
from stash_sense_pipeline.privacy.suppression.suppression_hashes import plain_url_hash, record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.privacy.url_forms import record_page
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

# Images that are compared with the suppressed ones in one step, which takes some tenths of a second.
_IMAGES_AT_ONCE = 10_000


def person_of(
    connection: sa.Connection,
    suppressions: Suppressions,
    records: set[RecordKey],
    relatives: Relatives | None,
) -> tuple[LinkedPerson, set[RecordKey]]:
    """The whole person with the records that `relatives` links to it, to a fixed point; and the records in doubt.

    In doubt are records of another identity: the last identity run did not link them, and the evidence now may be new, or
    a single wrong link. The person's pages include those of the records on their own stash-boxes, whatever form the ids
    have: another record that links to one of them is refused.
    """
    person = whole_person(connection, records) if records else LinkedPerson(frozenset(), (), 0, ())
    while relatives is not None and person.records:
        linked = relatives.of(connection, person.records, (), suppressions.is_other) - person.records
        in_doubt = (
            with_identity(connection, linked)
            if with_identity(connection, set(person.records))
            else set[RecordKey]()
        )
        if linked <= in_doubt:
            own = (record_page(record, relatives.hosts) for record in person.records)
            pages = tuple(sorted({*person.pages, *filter(None, own)}))
            return replace(person, pages=pages), in_doubt
        person = whole_person(connection, person.records | linked - in_doubt)
    return person, set()


def sole_owners(
    connection: sa.Connection, suppressions: Suppressions, images: Collection[ImageKey]
) -> set[RecordKey]:
    """The records that alone show one of these images, without those that the operator has declared other people."""
    table = performer_images
    owners: dict[ImageKey, set[RecordKey]] = {}
    query = sa.select(table.c.source, table.c.image_id, table.c.source_id)
    for source, image_id, source_id in rows_of(connection, query, image_key(table), images):
        owners.setdefault((source, image_id), set()).add((source, source_id))
    alone = {record for records in owners.values() if len(records) == 1 for record in records}
    return {record for record in alone if not suppressions.is_other(record)}


def face_blocked_people(
    connection: sa.Connection, suppressions: Suppressions, covered: set[RecordKey]
) -> list[set[RecordKey]]:
    """The records of each person with an entry that asks to refuse the face too."""
    people: list[set[RecordKey]] = []
    for record in sorted(covered):
        asked = record_hash(suppressions.key, *record) in suppressions.face_blocks
        if asked and not any(record in known for known in people):
            people.append(with_linked(connection, {record}))
    return people


def covered_records(connection: sa.Connection, sought: Suppressions) -> set[RecordKey]:
    covered: set[RecordKey] = set()
    table = source_performers
    if sought.records:
        records = sa.select(table.c.source, table.c.source_id, table.c.merged_into)
        for source, source_id, merged_into in streamed(connection, records):
            gone_there = merged_into is not None and sought.covers_record(source, merged_into)
            if gone_there or sought.covers_record(source, source_id):
                covered.add((source, source_id))
        # A record that is withheld for its dates is listed for review with its id.
        withheld = sa.select(withheld_records.c.source, withheld_records.c.source_id)
        covered |= {
            (source, source_id)
            for source, source_id in streamed(
                connection, withheld.where(withheld_records.c.source_id.is_not(None))
            )
            if sought.covers_record(source, source_id)
        }
    if sought.urls:
        links = sa.select(performer_urls.c.source, performer_urls.c.source_id, performer_urls.c.url)
        for source, source_id, url in streamed(connection, links):
            if sought.covers_url(url):
                covered.add((source, source_id))
    return covered


@dataclass(frozen=True)
class ShownAwaited:
    """Awaited images that a source shows now.

    `digests` are the hashes of their URLs, `records` those of people who alone show one of them, and `face_blocks` the
    people with an entry that asks to refuse the face too.
    """

    digests: frozenset[str] = frozenset()
    images: frozenset[ImageKey] = frozenset()
    records: frozenset[RecordKey] = frozenset()
    face_blocks: tuple[set[RecordKey], ...] = ()


def shown_awaited(connection: sa.Connection, suppressions: Suppressions) -> ShownAwaited:
    if not suppressions.awaited & suppressions.pending:
        return ShownAwaited()
    table = source_images
    shown: dict[str, set[ImageKey]] = {}
    for source, image_id, url in streamed(
        connection, sa.select(table.c.source, table.c.image_id, table.c.url)
    ):
        if suppressions.awaits_image(url):
            shown.setdefault(plain_url_hash(suppressions.key, url), set()).add((source, image_id))
    records: set[RecordKey] = set()
    blocks: list[set[RecordKey]] = []
    for digest, images in shown.items():
        owners = owners_of(connection, images)
        person = with_linked(connection, {min(owners)}) if owners else set[RecordKey]()
        if owners <= person:
            records |= owners
            if digest in suppressions.face_blocks and owners:
                blocks.append(person)
    images_of_all = frozenset[ImageKey]().union(*shown.values())
    return ShownAwaited(frozenset(shown), images_of_all, frozenset(records), tuple(blocks))


def covered_images(connection: sa.Connection, sought: Suppressions) -> set[ImageKey]:
    table = source_images
    found = {
        (source, image_id)
        for source, image_id in connection.execute(
            sa.select(table.c.source, table.c.image_id).where(IS_FOUND_SUPPRESSED)
        )
    }
    if not (sought.urls or sought.images or sought.pictures or sought.likenesses):
        return found
    columns = (table.c.source, table.c.image_id, table.c.url, table.c.sha256, table.c.picture_hash)
    rows = streamed(connection, sa.select(*columns))
    while images := list(islice(rows, _IMAGES_AT_ONCE)):
        copies = sought.covers_likenesses([image.picture_hash for image in images])
        found |= {
            (source, image_id)
            for (source, image_id, url, sha256, _), is_a_copy in zip(images, copies.tolist(), strict=True)
            if is_a_copy
            or sought.covers_picture(source, image_id, url)
            or (sha256 is not None and sought.covers_image(sha256))
        }
    return found


def images_to_erase(
    connection: sa.Connection, suppressions: Suppressions, person: LinkedPerson
) -> set[ImageKey]:
    """The images of this person. A shared image stays when every face on it is trusted for another person.

    A face that is trusted for no record may be the person's, so that the image is deleted. Faces of both packs count.
    """
    theirs, shared = own_and_shared_images(connection, person.records)
    first, second = trusted_faces, second_trusted_faces
    joined = faces.outerjoin(first, first.c.face_id == faces.c.face_id)
    owner = (sa.func.coalesce(first.c[name], second.c[name]) for name in ("source", "source_id"))
    on_images = (
        sa.select(faces.c.source, faces.c.image_id, *owner)
        .select_from(joined.outerjoin(second, second.c.face_id == faces.c.face_id))
        .order_by(faces.c.face_id)
    )
    in_doubt = {
        (source, image_id)
        for source, image_id, of_source, of_id in rows_of(connection, on_images, image_key(faces), shared)
        if of_source is None or (of_source, of_id) in person.records
    }
    return theirs - shared | in_doubt


def images_of_refused_faces(connection: sa.Connection, templates: SuppressedFaces) -> set[ImageKey]:
    """The images with a refused face."""
    near = faces_near(connection, templates)
    query = sa.select(faces.c.source, faces.c.image_id)
    return {(source, image_id) for source, image_id in rows_of(connection, query, faces.c.face_id, near)}
