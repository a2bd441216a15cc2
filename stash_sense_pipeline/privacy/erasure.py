"""Erasure of suppressed people from every table of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import image_key, of_keys, record_key, rows_of
from stash_sense_pipeline.catalog.purge import overwrite_deleted, request_purge, vacuum
from stash_sense_pipeline.catalog.queries.identity.identities import hold_still
from stash_sense_pipeline.catalog.queries.performers import WithheldRecord, withhold_records
from stash_sense_pipeline.catalog.schema import (
    IS_FOUND_SUPPRESSED,
    aligned_crops,
    embeddings,
    faces,
    identities,
    identity_evidence,
    identity_hubs,
    identity_log,
    identity_members,
    metadata,
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
    sync_state,
    trusted_faces,
    withheld_records,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.privacy.intake.holding import HELD, forget_held, remember_held
from stash_sense_pipeline.privacy.intake.record_evidence import (
    Relatives,
    persona_hashes,
    read_told,
    unknown_pages,
)
from stash_sense_pipeline.privacy.linked_records import (
    LinkedPerson,
    judged,
    owners_of,
    theirs_and_shared,
    whole_person,
    with_linked,
)
from stash_sense_pipeline.privacy.namesakes import Namesake, namesakes_of
from stash_sense_pipeline.privacy.record_lookup import records_listing
from stash_sense_pipeline.privacy.redaction.mentions import ERASED, mentions_records
from stash_sense_pipeline.privacy.suppression.suppressed_faces import (
    SuppressedFaces,
    faces_near,
    keep_templates,
    load_templates,
)
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    IMAGE,
    LIKENESS,
    PERSONA,
    RECORD,
    URL,
    image_hash,
    likeness,
    plain_url_hash,
    record_hash,
    url_digests,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    HashRow,
    Suppressions,
    mark_applied,
    mark_shown,
    store_hashes,
)
from stash_sense_pipeline.records.perceptual_hash import is_copy
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

# Compared with the suppressed ones in some tenths of a second.
_IMAGES_AT_ONCE = 10_000
# With more records all evidence is read: the database would compare each row with each of them.
_NAMED_IN_A_QUERY = 400
# A shorter id may be any word or number in the raw fields of other records.
_SHORTEST_ID_IN_RAW = 8

# Columns that say of whom a row is. A table with none of them hangs on one that has by ON DELETE CASCADE, or holds
# nothing about single people (privacy.purposes says which).
BELONGS = {
    ("source", "source_id"): "records",
    ("source_a", "source_id_a"): "records",
    ("source_b", "source_id_b"): "records",
    ("source", "image_id"): "images",
    ("performer_id",): "performers",
    ("nearer_to",): "performers",
    ("face_id",): "faces",
}
# Erased through the rows that others refer to, or kept without anything personal: a performer id is never used again.
_LAST = (source_images.name, source_performers.name, identities.name)


@dataclass(frozen=True)
class ErasureReport:
    """What one erasure took out of the catalog, in rows.

    `shared_pages` are profile pages that records of other people list too: a new record is not refused for them.
    `rows` counts all rows by table. `traces` are the texts by which the people can be found in files. `namesakes`
    are records of the same name that stay: nothing but the name links them. `held` records wait for review: they show
    a refused face, or evidence links them to a person although identities are apart. `bytes_left` is one
    line that says why deleted bytes are still in the files of the database; None when they are not, and on PostgreSQL.
    """

    records: int
    identities: int
    images: int
    faces: int
    shared_pages: int = field(default=0, compare=False)
    rows: Mapping[str, int] = field(default_factory=dict, compare=False)
    bytes_left: str | None = field(default=None, compare=False)
    held: int = field(default=0, compare=False)
    traces: tuple[str, ...] = field(default=(), compare=False, repr=False)
    namesakes: tuple[Namesake, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_empty(self) -> bool:
        """True when there was nothing to erase."""
        return not (self.records or self.images or self.faces or self.held)


def erase_suppressed(
    engine: sa.Engine,
    suppressions: Suppressions,
    now: datetime,
    *,
    search_all: bool = False,
    before: Callable[[ErasureReport, ExitStack], None] = lambda report, until_committed: None,
    relatives: Relatives | None = None,
) -> ErasureReport:
    """Deletes all that the catalog holds of the people whom `suppressions` covers, in one transaction.

    A person is the records that are covered or list a covered URL, the records merged with them upstream, all
    records of their identities, and records without an identity yet that list one of their pages. With these go
    names, links, evidence and log, the images that nobody else has, the faces on them, and the faces on shared
    images that are not somebody else's. An image that is itself covered goes in any case. What the person could
    come back by is suppressed from now on too: records, pages, URLs and bytes of the images, and, where that was
    asked for, the face.

    Only what was never searched for is searched for, as whatever is stored later is compared before it is
    stored; `search_all` searches for everything again. On SQLite the file is rebuilt when something was erased, now or
    in an erasure before that was not followed by a rebuild; on PostgreSQL the tables are vacuumed. Doing it again changes
    nothing.

    `before` is called before the commit: what it removes by the names in the report must be gone first, since
    after the commit, and a kill, no search could find these names any more. What it enters into the stack ends after
    the commit.
    """
    with ExitStack() as until_committed, writing(engine) as connection:
        hold_still(connection)
        _outlast_idleness(connection)
        report = _erase(
            connection, suppressions.refreshed(connection), now, search_all=search_all, relatives=relatives
        )
        before(report, until_committed)
    return _overwritten(engine, report)


def _outlast_idleness(connection: sa.Connection) -> None:
    """Lets PostgreSQL wait while files are redacted: their names must be gone before the rows are, in one transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")


def erase_records(
    connection: sa.Connection,
    suppressions: Suppressions,
    records: Collection[RecordKey],
    now: datetime,
    relatives: Relatives | None = None,
) -> ErasureReport:
    """Erases the people of these records as erase_suppressed does, inside a transaction of the caller's.

    The caller must remove the `traces` of the report from files before the commit. The bytes of the rows are
    overwritten by the next erase_suppressed.
    """
    hold_still(connection)
    person, in_doubt = _person_of(connection, suppressions, set(records), relatives)
    images = _images_to_erase(connection, suppressions, person)
    report = _take_out(connection, suppressions, person, images, now)
    return _with_held(connection, suppressions, report, in_doubt, now)


def erase_awaited(
    connection: sa.Connection, suppressions: Suppressions, now: datetime, relatives: Relatives | None = None
) -> tuple[str, ...]:
    """Erases the people who alone show an image that the list awaits, and of other awaited images the image alone.

    For the end of a sync, inside a transaction of the caller's. Returns the texts by which what was erased can be found
    in files; the caller must remove them before the commit.
    """
    hold_still(connection)
    awaited = _shown_awaited(connection, suppressions)
    person, _ = _person_of(connection, suppressions, set(awaited.records), relatives)
    images = _images_to_erase(connection, suppressions, person) | awaited.images
    report = _take_out(connection, suppressions, person, images, now)
    mark_shown(connection, awaited.digests, now)
    return report.traces


def erase_alone(connection: sa.Connection, records: Collection[RecordKey], now: datetime) -> tuple[str, ...]:
    """Deletes what there is of these records, and nothing of others that may be the same people: with them go images
    that nobody else has. Nothing of it is remembered. Inside a transaction of the caller's.

    Returns the texts by which these records can be found in files; the caller must remove them before the commit.
    """
    if not records:
        return ()
    hold_still(connection)
    theirs, shared = theirs_and_shared(connection, records)
    images = theirs - shared
    traces = _traces(connection, records, images)
    belongings: Mapping[str, Collection[Any]] = {
        "records": records,
        "images": images,
        "performers": (),
        "faces": _faces_on(connection, images),
    }
    _delete_everywhere(connection, belongings)
    _forget_mentions(connection, records)
    request_purge(connection, now)
    return traces


def hold_stored(
    connection: sa.Connection,
    suppressions: Suppressions,
    reasons: Mapping[RecordKey, str],
    now: datetime,
) -> tuple[str, ...]:
    """Takes stored records out of the catalog and has them wait for the operator's review, each for its reason.

    Their evidence is kept as hashes; so is the version, so that they are read again when they change. Returns the texts
    by which the records can be found in files; the caller must remove them before the commit.
    """
    if not reasons:
        return ()
    table = source_performers
    remember_held(connection, suppressions, list(read_told(connection, reasons.keys()).values()))
    versions = sa.select(table.c.source, table.c.source_id, table.c.updated_at)
    rows: dict[str, list[WithheldRecord]] = {}
    for source, source_id, updated in rows_of(connection, versions, record_key(table), reasons.keys()):
        id_hash = suppressions.withheld_hash(source, source_id)
        reason = reasons[source, source_id]
        rows.setdefault(source, []).append(WithheldRecord(id_hash, updated, reason, source_id))
    traces = erase_alone(connection, reasons.keys(), now)
    for source, withheld in rows.items():
        withhold_records(connection, source, withheld, now)
    return traces


def _person_of(
    connection: sa.Connection,
    suppressions: Suppressions,
    records: set[RecordKey],
    relatives: Relatives | None,
) -> tuple[LinkedPerson, set[RecordKey]]:
    """whole_person, with the records that `relatives` links to it, to a fixed point; and those that are in doubt.

    In doubt are records of another identity: the last identity run did not link them, and what says so now may be new, or
    a single wrong link.
    """
    person = whole_person(connection, records) if records else LinkedPerson(frozenset(), (), 0, ())
    while relatives is not None and person.records:
        linked = relatives.of(connection, person.records, (), suppressions.is_other) - person.records
        in_doubt = judged(connection, linked) if judged(connection, set(person.records)) else set[RecordKey]()
        if linked <= in_doubt:
            return person, in_doubt
        person = whole_person(connection, person.records | linked - in_doubt)
    return person, set()


def _erase(
    connection: sa.Connection,
    suppressions: Suppressions,
    now: datetime,
    *,
    search_all: bool,
    relatives: Relatives | None,
) -> ErasureReport:
    sought = suppressions if search_all else suppressions.only_pending()
    awaited = _shown_awaited(connection, suppressions)
    covered = _covered_records(connection, sought) | awaited.records
    person, in_doubt = _person_of(connection, suppressions, covered, relatives)
    if suppressions.face_blocks & sought.pending:
        blocked = _whose_face_is_blocked(connection, suppressions, covered)
        keep_templates(connection, suppressions.key, [*blocked, *awaited.face_blocks], now)
    images = _covered_images(connection, sought) | _images_to_erase(connection, suppressions, person)
    images |= awaited.images
    refused = _images_of_faces(connection, load_templates(connection, suppressions.key))
    shown_by = _only_owners(connection, suppressions, refused) - person.records
    # A sync that erases has no operator to show them to, and its transaction should be short.
    namesakes = namesakes_of(connection, person.records)
    report = _take_out(connection, suppressions, person, images | refused, now)
    report = replace(report, namesakes=namesakes)
    report = _with_held(connection, suppressions, report, shown_by | in_doubt, now)
    mark_applied(connection, now)
    mark_shown(connection, awaited.digests, now)
    return report


def _with_held(
    connection: sa.Connection,
    suppressions: Suppressions,
    report: ErasureReport,
    records: Collection[RecordKey],
    now: datetime,
) -> ErasureReport:
    traces = hold_stored(connection, suppressions, dict.fromkeys(sorted(records), HELD), now)
    return replace(report, held=len(records), traces=report.traces + traces)


def _only_owners(
    connection: sa.Connection, suppressions: Suppressions, images: Collection[ImageKey]
) -> set[RecordKey]:
    """The records that alone show one of these images, but for those that the operator has called other people."""
    table = performer_images
    owners: dict[ImageKey, set[RecordKey]] = {}
    query = sa.select(table.c.source, table.c.image_id, table.c.source_id)
    for source, image_id, source_id in rows_of(connection, query, image_key(table), images):
        owners.setdefault((source, image_id), set()).add((source, source_id))
    alone = {record for records in owners.values() if len(records) == 1 for record in records}
    return {record for record in alone if not suppressions.is_other(record)}


def _whose_face_is_blocked(
    connection: sa.Connection, suppressions: Suppressions, covered: set[RecordKey]
) -> list[set[RecordKey]]:
    """The records of each person whose entry asks for it."""
    people: list[set[RecordKey]] = []
    for record in sorted(covered):
        asked = record_hash(suppressions.key, *record) in suppressions.face_blocks
        if asked and not any(record in known for known in people):
            people.append(with_linked(connection, {record}))
    return people


def _covered_records(connection: sa.Connection, sought: Suppressions) -> set[RecordKey]:
    covered: set[RecordKey] = set()
    table = source_performers
    if sought.records:
        records = sa.select(table.c.source, table.c.source_id, table.c.merged_into)
        for source, source_id, merged_into in streamed(connection, records):
            gone_there = merged_into is not None and sought.covers_record(source, merged_into)
            if gone_there or sought.covers_record(source, source_id):
                covered.add((source, source_id))
        # Who is withheld for a date waits for review by the id.
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
class _ShownAwaited:
    """Awaited images that a source shows now: their hashes, the images, the records of people who alone show one, and
    the people whose face is to be refused too.
    """

    digests: frozenset[str] = frozenset()
    images: frozenset[ImageKey] = frozenset()
    records: frozenset[RecordKey] = frozenset()
    face_blocks: tuple[set[RecordKey], ...] = ()


def _shown_awaited(connection: sa.Connection, suppressions: Suppressions) -> _ShownAwaited:
    if not suppressions.awaited & suppressions.pending:
        return _ShownAwaited()
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
    return _ShownAwaited(frozenset(shown), images_of_all, frozenset(records), tuple(blocks))


def _covered_images(connection: sa.Connection, sought: Suppressions) -> set[ImageKey]:
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


def _images_to_erase(
    connection: sa.Connection, suppressions: Suppressions, person: LinkedPerson
) -> set[ImageKey]:
    """Their images, but for those that are others' too and show nobody but others.

    Whose face is on a shared image is known only if it is trusted for somebody; in doubt it is theirs.
    """
    theirs, shared = theirs_and_shared(connection, person.records)
    trusted = trusted_faces
    on_images = (
        sa.select(faces.c.source, faces.c.image_id, trusted.c.source, trusted.c.source_id)
        .select_from(faces.outerjoin(trusted, trusted.c.face_id == faces.c.face_id))
        .order_by(faces.c.face_id)
    )
    in_doubt = {
        (source, image_id)
        for source, image_id, of_source, of_id in rows_of(connection, on_images, image_key(faces), shared)
        if of_source is None or (of_source, of_id) in person.records
    }
    return theirs - shared | in_doubt


def _faces_on(connection: sa.Connection, images: Collection[ImageKey]) -> set[int]:
    return {
        face_id for (face_id,) in rows_of(connection, sa.select(faces.c.face_id), image_key(faces), images)
    }


def _images_of_faces(connection: sa.Connection, templates: SuppressedFaces) -> set[ImageKey]:
    """The images with a face that is refused."""
    near = faces_near(connection, templates)
    query = sa.select(faces.c.source, faces.c.image_id)
    return {(source, image_id) for source, image_id in rows_of(connection, query, faces.c.face_id, near)}


def _take_out(
    connection: sa.Connection,
    suppressions: Suppressions,
    person: LinkedPerson,
    images: set[ImageKey],
    now: datetime,
) -> ErasureReport:
    if not person.records and not images:
        return ErasureReport(0, 0, 0, 0)
    _remember(connection, suppressions, person, images, now)
    traces = _traces(connection, {*person.records, *person.other_ids}, images)
    performers = _performer_ids(connection, person.records)
    face_ids = _faces_on(connection, images)
    belongings: Mapping[str, Collection[Any]] = {
        "records": person.records,
        "images": images,
        "performers": performers,
        "faces": face_ids,
    }
    rows = _delete_everywhere(connection, belongings)
    _forget_mentions(connection, {*person.records, *person.other_ids})
    _forget_links(connection, suppressions.key, person)
    forget_held(connection, suppressions, person.records)
    for chosen in of_keys(identities.c.performer_id, performers):
        retired = sa.update(identities).where(chosen)
        connection.execute(retired.values(retired_at=now, redirect_to=None))
    request_purge(connection, now)
    return ErasureReport(
        records=len(person.records),
        identities=len(performers),
        images=rows.get(source_images.name, 0),
        faces=rows.get(faces.name, 0),
        shared_pages=person.shared,
        rows=rows,
        traces=traces,
    )


def _remember(
    connection: sa.Connection,
    suppressions: Suppressions,
    person: LinkedPerson,
    images: set[ImageKey],
    now: datetime,
) -> None:
    key = suppressions.key
    rows = [
        HashRow(RECORD, record_hash(key, *record), "a record of a suppressed person", now, applied_at=now)
        for record in (*person.records, *person.other_ids)
    ]
    rows += [
        HashRow(kind, digest, "a page of a suppressed person", now, applied_at=now)
        for url in person.pages
        for kind, digest in url_digests(key, url)
    ]
    told = read_told(connection, person.records)
    alone = _listed_by_no_other(connection, person, {url for each in told.values() for url in each.urls})
    hashes = {plain_url_hash(key, url) for url in alone}.union(
        *(persona_hashes(key, each) for each in told.values())
    )
    rows += [
        HashRow(PERSONA, digest, "what a suppressed person is called", now, applied_at=now)
        for digest in hashes
    ]
    table = source_images
    columns = sa.select(table.c.url, table.c.sha256, table.c.picture_hash)
    urls, digests, looks = set[str](), set[str](), set[str]()
    for url, sha256, picture_hash in rows_of(connection, columns, image_key(table), images):
        urls.add(url)
        digests |= {sha256} - {None}
        looks |= {picture_hash} - {None}
    reason = "an image of a suppressed person"
    rows += [HashRow(URL, plain_url_hash(key, url), reason, now, applied_at=now) for url in urls]
    rows += [
        HashRow(IMAGE, image_hash(key, sha256), reason, now, applied_at=now)
        for sha256 in digests - _digests_of_others(connection, digests, images)
    ]
    rows += [
        HashRow(LIKENESS, likeness(key, look), reason, now, applied_at=now)
        for look in looks - _looks_of_others(connection, looks, images)
    ]
    store_hashes(connection, key, rows)


def _listed_by_no_other(connection: sa.Connection, person: LinkedPerson, urls: set[str]) -> list[str]:
    """Of these URLs, the pages of unknown sites that only this person lists."""
    unknown = unknown_pages(sorted(urls))
    listers = records_listing(connection, unknown) if unknown else {}
    return [url for url, who in listers.items() if who <= person.records]


def _looks_of_others(connection: sa.Connection, looks: set[str], images: set[ImageKey]) -> set[str]:
    """Of these perceptual hashes, those of pictures that other images show as well."""
    table = source_images
    if not looks:
        return set()
    query = sa.select(table.c.source, table.c.image_id, table.c.picture_hash).where(
        table.c.picture_hash.is_not(None)
    )
    rows = streamed(connection, query)
    others = np.array(
        [int(look, 16) for source, image_id, look in rows if (source, image_id) not in images],
        dtype=np.uint64,
    )
    return {look for look in looks if is_copy(others, look).any()}


def _digests_of_others(connection: sa.Connection, digests: set[str], images: set[ImageKey]) -> set[str]:
    """Of these SHA-256, those that other images have as well, such as placeholders."""
    table = source_images
    holders = sa.select(table.c.source, table.c.image_id, table.c.sha256)
    return {
        sha256
        for source, image_id, sha256 in rows_of(connection, holders, table.c.sha256, digests)
        if (source, image_id) not in images
    }


def _performer_ids(connection: sa.Connection, people: Collection[RecordKey]) -> set[int]:
    members = identity_members
    rows = rows_of(connection, sa.select(members.c.performer_id), record_key(members), people)
    return {performer_id for (performer_id,) in rows}


def _delete_everywhere(
    connection: sa.Connection, belongings: Mapping[str, Collection[Any]]
) -> dict[str, int]:
    """Deletes what belongs to them from every table, and returns the number of rows by table.

    By the names of the columns, so that a table which is added later is not forgotten.
    """
    counts: dict[str, int] = {}
    tables = [table for table in reversed(metadata.sorted_tables) if table.name not in _LAST]
    for table in (*tables, source_images, source_performers):
        deleted = 0
        for names, whose in BELONGS.items():
            if all(name in table.c for name in names):
                columns = [table.c[name] for name in names]
                key = columns[0] if len(columns) == 1 else sa.tuple_(*columns)
                deleted += _delete(connection, table, key, belongings[whose])
        if deleted:
            counts[table.name] = deleted
    return counts


def _delete(
    connection: sa.Connection, table: sa.Table, key: sa.ColumnElement[Any], keys: Collection[Any]
) -> int:
    return sum(connection.execute(sa.delete(table).where(chosen)).rowcount for chosen in of_keys(key, keys))


def _forget_mentions(connection: sa.Connection, records: Collection[RecordKey]) -> None:
    """Deletes what rows about others say of these records: identity log, evidence, hubs, states of sources, raw fields."""
    if not records:
        return
    names_one = mentions_records(records)
    log = streamed(connection, sa.select(identity_log.c.entry, identity_log.c.detail))
    mentioned = {entry for entry, detail in log if names_one(detail)}
    _delete(connection, identity_log, identity_log.c.entry, mentioned)
    _forget_evidence(connection, records, names_one)
    hubs = connection.execute(sa.select(identity_hubs.c.digest, identity_hubs.c.key))
    _delete(
        connection, identity_hubs, identity_hubs.c.digest, {digest for digest, key in hubs if names_one(key)}
    )
    _forget_states(connection, records, names_one)
    _forget_raw(connection, records)


def _forget_evidence(
    connection: sa.Connection, records: Collection[RecordKey], names_one: Callable[[Any], bool]
) -> None:
    """Deletes evidence between others that rests on a page of these records, and blanks reasons that name them."""
    table = identity_evidence
    own = [table.c[name] for name in ("source_a", "source_id_a", "source_b", "source_id_b", "kind", "key")]
    resting: list[tuple[Any, ...]] = []
    explained: list[tuple[Any, ...]] = []
    query = sa.select(*own, table.c.reason)
    if len(records) <= _NAMED_IN_A_QUERY:
        pages = {
            form for source, each in records for form in (f"{source}:{each}", f"{source}:{each.casefold()}")
        }
        query = query.where(table.c.key.in_(sorted(pages)) | table.c.reason.is_not(None))
    for *key, reason in connection.execute(query):
        # The key of a page of a stash-box is `source:id`.
        if ":" in key[-1] and names_one(key[-1]):
            resting.append(tuple(key))
        elif reason is not None and names_one(reason):
            explained.append(tuple(key))
    which = sa.and_(*(column == sa.bindparam(f"of_{column.name}") for column in own))
    for keys, statement in (
        (resting, sa.delete(table).where(which)),
        (explained, sa.update(table).where(which).values(reason=ERASED)),
    ):
        if keys:
            names = [f"of_{column.name}" for column in own]
            connection.execute(statement, [dict(zip(names, key, strict=True)) for key in keys])


def _forget_states(
    connection: sa.Connection, records: Collection[RecordKey], names_one: Callable[[Any], bool]
) -> None:
    table = sync_state
    ids = {source_id.casefold() for _, source_id in records}
    for source, detail, message in connection.execute(
        sa.select(table.c.source, table.c.detail, table.c.last_message)
    ).all():
        kept = _without(detail, lambda text: text.casefold() in ids or names_one(text))
        told = ERASED if message is not None and names_one(message) else message
        if (kept, told) != (detail, message):
            of_source = sa.update(table).where(table.c.source == source)
            connection.execute(of_source.values(detail=kept, last_message=told))


def _forget_raw(connection: sa.Connection, records: Collection[RecordKey]) -> None:
    """Takes these records' ids out of the raw fields of others."""
    table = source_performers
    names_one = mentions_records({record for record in records if len(record[1]) >= _SHORTEST_ID_IN_RAW})
    rows = connection.execute(
        sa.select(table.c.source, table.c.source_id, table.c.raw).where(sa.cast(table.c.raw, sa.Text) != "{}")
    )
    naming = [(source, source_id, raw) for source, source_id, raw in rows if raw and names_one(raw)]
    for source, source_id, raw in naming:
        of_record = (table.c.source == source) & (table.c.source_id == source_id)
        connection.execute(sa.update(table).where(of_record).values(raw=_without(raw, names_one)))


def _forget_links(connection: sa.Connection, key: bytes, person: LinkedPerson) -> None:
    """Deletes links of other people to the pages of these records on their stash-boxes: the ids are in them."""
    table = performer_urls
    theirs = {record_hash(key, *record) for record in (*person.records, *person.other_ids)}
    columns = sa.select(table.c.source, table.c.source_id, table.c.url)
    links = list(rows_of(connection, columns, record_key(table), person.other_listers))
    for source, source_id, url in links:
        if any(kind == RECORD and digest in theirs for kind, digest in url_digests(key, url)):
            of_other = (table.c.source == source) & (table.c.source_id == source_id) & (table.c.url == url)
            connection.execute(sa.delete(table).where(of_other))


def _without(value: Any, is_one: Callable[[str], bool]) -> Any:
    """A JSON value without the texts that `is_one` finds: as a key, as a value or in a list."""
    if isinstance(value, dict):
        return {
            key: _without(item, is_one)
            for key, item in value.items()
            if not is_one(key) and not (isinstance(item, str) and is_one(item))
        }
    if isinstance(value, list):
        return [_without(item, is_one) for item in value if not (isinstance(item, str) and is_one(item))]
    return value


def _traces(
    connection: sa.Connection, records: Collection[RecordKey], images: Collection[ImageKey]
) -> tuple[str, ...]:
    """The texts by which these records can be found in what was written about them: names, ids, URLs."""
    performers, aliases, urls, shown = source_performers, performer_aliases, performer_urls, source_images
    names = rows_of(connection, sa.select(performers.c.name), record_key(performers), records)
    others = rows_of(connection, sa.select(aliases.c.alias), record_key(aliases), records)
    links = rows_of(connection, sa.select(urls.c.url), record_key(urls), records)
    pictures = rows_of(connection, sa.select(shown.c.url), image_key(shown), images)
    texts = {text for rows in (names, others, links, pictures) for (text,) in rows if text}
    # A number may be anything: it is an id only with its source before it.
    ids = {each for _, each in (*records, *images) if not each.isdecimal()}
    return tuple(sorted(texts | ids | {f"{source}:{each}" for source, each in (*records, *images)}))


def _overwritten(engine: sa.Engine, report: ErasureReport) -> ErasureReport:
    if report.rows:
        vacuum(engine, [*report.rows, aligned_crops.name, embeddings.name])
    # Also without an erasure: a sync that met somebody suppressed has deleted rows, and an earlier rebuild may be due.
    return replace(report, bytes_left=overwrite_deleted(engine))
