"""Erasure of suppressed people from every table of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import image_key, of_keys, record_key, rows_of
from stash_sense_pipeline.catalog.purge import overwrite_deleted, request_purge, vacuum
from stash_sense_pipeline.catalog.queries.identity.identities import lock_identity_writers
from stash_sense_pipeline.catalog.queries.performers import WithheldRecord, withhold_records
from stash_sense_pipeline.catalog.queries.sense2.ledger import NUMBERED, blank_numbers, lock_ledger
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    claimed_faces,
    embeddings,
    faces,
    identities,
    identity_members,
    metadata,
    performer_aliases,
    performer_urls,
    source_images,
    source_performers,
    tattoo_crops,
    tattoo_embeddings,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.privacy.erased_claims import erase_claims, erase_numbers
from stash_sense_pipeline.privacy.erased_hashes import remember_erased
from stash_sense_pipeline.privacy.erased_mentions import delete_rows, forget_links, forget_mentions
from stash_sense_pipeline.privacy.erasure_plan import (
    covered_images,
    covered_records,
    face_blocked_people,
    images_of_refused_faces,
    images_to_erase,
    person_of,
    shown_awaited,
    sole_owners,
)
from stash_sense_pipeline.privacy.intake.holding import HELD, forget_held, remember_held
from stash_sense_pipeline.privacy.intake.parsed_record import ParsedRecord
from stash_sense_pipeline.privacy.intake.record_evidence import Relatives, read_evidence
from stash_sense_pipeline.privacy.linked_records import LinkedPerson, own_and_shared_images
from stash_sense_pipeline.privacy.namesakes import Namesake, namesakes_of
from stash_sense_pipeline.privacy.suppression.suppressed_faces import (
    BlockedPerson,
    keep_templates,
    load_templates,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions, mark_applied, mark_shown
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

# Columns that identify the person of a row, and the kind of key that they hold. A table without such columns
# refers to one that has them with ON DELETE CASCADE, or holds nothing about single people (see privacy.data_inventory).
BELONGS = {
    ("source", "source_id"): "records",
    ("source_a", "source_id_a"): "records",
    ("source_b", "source_id_b"): "records",
    ("box", "box_id"): "records",
    ("source", "image_id"): "images",
    ("performer_id",): "performers",
    ("nearer_to",): "performers",
    ("face_id",): "faces",
}
# Deleted after the rows that refer to them. identities are kept, without anything personal: a performer id is never
# used again.
_LAST = (source_images.name, source_performers.name, identities.name)


@dataclass(frozen=True)
class ErasureReport:
    """What one erasure deleted from the catalog, in rows.

    `shared_pages` are profile pages that records of other people list too: a new record is not refused for them.
    `rows` counts all rows by table. `traces` are the texts by which the people can be found in files.
    `namesakes` are records of the same name that stay, as only the name links them.
    `held` records wait for review: they show a refused face, or evidence links them to an erased person although the
    last identity run did not.
    `bytes_left` is one line that says why deleted bytes are still in the files of the database. It is None when they
    are not, and on PostgreSQL.
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


@dataclass(frozen=True)
class ErasureScope:
    """How far an erasure searches for the people on the list.

    Only entries that the catalog was not searched for yet are searched for, as records that are stored later are
    compared first. `search_all` searches for all entries. `relatives` finds records that the last identity run had not
    linked; with None they are not looked for.
    """

    search_all: bool = False
    relatives: Relatives | None = None


def erase_suppressed(
    engine: sa.Engine,
    suppressions: Suppressions,
    now: datetime,
    scope: ErasureScope | None = None,
    before: Callable[[ErasureReport, ExitStack], None] = lambda report, until_committed: None,
) -> ErasureReport:
    """Deletes everything that the catalog holds of the people on the list, in one transaction.

    A person is: the records that are covered or list a covered URL; the records merged with them at the source; all
    records of their identities; and records without an identity that list one of their pages. Deleted are their names,
    links, evidence and log, the images that no other person has, the faces on them, and shared images with a face that
    is not another person's. An image that is itself covered is deleted in any case.

    Hashes of the records, pages, URLs and bytes of the images are added to the list, so that no source brings the person
    back; where that was asked for, a template of the face too.

    On SQLite the file is rebuilt when rows were deleted since the
    last rebuild; on PostgreSQL the tables are vacuumed. Running it again changes nothing.

    `before` is called before the commit, and removes the texts of the report from files: after the commit no search
    could find these names any more. What it enters into the stack ends after the commit.
    """
    with ExitStack() as until_committed, writing(engine) as connection:
        _lock(connection)
        _outlast_idleness(connection)
        report = _erase(connection, suppressions.refreshed(connection), now, scope or ErasureScope())
        before(report, until_committed)
    return _overwritten(engine, report)


def _lock(connection: sa.Connection) -> None:
    """Locks what erasures change, the ledger before the suppression list. A publish has the same order."""
    lock_identity_writers(connection)
    lock_ledger(connection)


def _outlast_idleness(connection: sa.Connection) -> None:
    """Turns off PostgreSQL's idle timeout: the transaction stays open while files are redacted, before its commit."""
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

    The caller must remove the `traces` of the report from files before the commit. The next erase_suppressed overwrites
    the bytes of the rows.
    """
    _lock(connection)
    person, in_doubt = person_of(connection, suppressions, set(records), relatives)
    images = images_to_erase(connection, suppressions, person)
    report = _take_out(connection, suppressions, person, images, now)
    return _with_held(connection, suppressions, report, in_doubt, now)


def erase_awaited(
    connection: sa.Connection, suppressions: Suppressions, now: datetime, relatives: Relatives | None = None
) -> tuple[str, ...]:
    """Decides about images that the list awaits and a source shows now, inside a transaction of the caller's.

    When one person alone shows the image, the person is erased; otherwise only the image. For the end of a sync. Returns
    the traces: the caller must remove these texts from files before the commit.
    """
    _lock(connection)
    awaited = shown_awaited(connection, suppressions)
    person, _ = person_of(connection, suppressions, set(awaited.records), relatives)
    images = images_to_erase(connection, suppressions, person) | awaited.images
    report = _take_out(connection, suppressions, person, images, now)
    mark_shown(connection, awaited.digests, now)
    return report.traces


def erase_alone(connection: sa.Connection, records: Collection[RecordKey], now: datetime) -> tuple[str, ...]:
    """Deletes these records and the images that only they have, inside a transaction of the caller's.

    Other records of the same people stay, and no hashes are added to the list. Returns the traces: the caller must
    remove these texts from files before the commit.
    """
    if not records:
        return ()
    _lock(connection)
    theirs, shared = own_and_shared_images(connection, records)
    images = theirs - shared
    traces = _traces(connection, records, images)
    belongings: Mapping[str, Collection[Any]] = {
        "records": records,
        "images": images,
        "performers": (),
        "faces": _faces_on(connection, images),
    }
    _delete_everywhere(connection, belongings)
    forget_mentions(connection, records)
    request_purge(connection, now)
    return traces


def hold_stored(
    connection: sa.Connection,
    suppressions: Suppressions,
    reasons: Mapping[RecordKey, str],
    now: datetime,
) -> tuple[str, ...]:
    """Deletes stored records from the catalog and notes them as held, each with its reason.

    Their evidence is kept as hashes. Their versions are kept too, so that a sync reads them again when they change.
    Returns the traces: the caller must remove these texts from files before the commit.
    """
    if not reasons:
        return ()
    table = source_performers
    evidence = read_evidence(connection, reasons.keys()).values()
    remember_held(connection, suppressions, [ParsedRecord(each, suppressions.key) for each in evidence])
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


def _erase(
    connection: sa.Connection, suppressions: Suppressions, now: datetime, scope: ErasureScope
) -> ErasureReport:
    sought = suppressions if scope.search_all else suppressions.only_pending()
    awaited = shown_awaited(connection, suppressions)
    covered = covered_records(connection, sought) | awaited.records
    person, in_doubt = person_of(connection, suppressions, covered, scope.relatives)
    if suppressions.face_blocks & sought.pending:
        blocked = face_blocked_people(connection, suppressions, covered)
        people = [_blocked(records, scope.relatives) for records in (*blocked, *awaited.face_blocks)]
        keep_templates(connection, suppressions.key, people, now)
    images = covered_images(connection, sought) | images_to_erase(connection, suppressions, person)
    images |= awaited.images
    templates = load_templates(connection, suppressions.key)
    refused = images_of_refused_faces(connection, templates)
    claims = erase_claims(connection, suppressions, templates)
    shown_by = sole_owners(connection, suppressions, refused) - person.records
    # Only here: no operator reads the output of a sync that erases, and its transaction should be short.
    namesakes = namesakes_of(connection, person.records)
    report = _take_out(connection, suppressions, person, images | refused, now)
    apart = {claimed_faces.name: claims, **erase_numbers(connection, sought)}
    rows = _added(connection, report.rows, apart, now)
    report = replace(report, namesakes=namesakes, rows=rows)
    report = _with_held(connection, suppressions, report, shown_by | in_doubt, now)
    mark_applied(connection, now)
    mark_shown(connection, awaited.digests, now)
    return report


def _added(
    connection: sa.Connection, rows: Mapping[str, int], more: Mapping[str, int], now: datetime
) -> Mapping[str, int]:
    """`rows` with more rows by table, which were removed or blanked apart from the records and images."""
    if not any(more.values()):
        return rows
    request_purge(connection, now)
    return {**rows, **{table: rows.get(table, 0) + count for table, count in more.items() if count}}


def _blocked(records: Collection[RecordKey], relatives: Relatives | None) -> BlockedPerson:
    return BlockedPerson(records, () if relatives is None else relatives.disowned(records))


def _with_held(
    connection: sa.Connection,
    suppressions: Suppressions,
    report: ErasureReport,
    records: Collection[RecordKey],
    now: datetime,
) -> ErasureReport:
    traces = hold_stored(connection, suppressions, dict.fromkeys(sorted(records), HELD), now)
    return replace(report, held=len(records), traces=report.traces + traces)


def _faces_on(connection: sa.Connection, images: Collection[ImageKey]) -> set[int]:
    return {
        face_id for (face_id,) in rows_of(connection, sa.select(faces.c.face_id), image_key(faces), images)
    }


def _take_out(
    connection: sa.Connection,
    suppressions: Suppressions,
    person: LinkedPerson,
    images: set[ImageKey],
    now: datetime,
) -> ErasureReport:
    if not person.records and not images:
        return ErasureReport(0, 0, 0, 0)
    remember_erased(connection, suppressions, person, images, now)
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
    forget_mentions(connection, {*person.records, *person.other_ids})
    forget_links(connection, suppressions.key, person)
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


def _performer_ids(connection: sa.Connection, people: Collection[RecordKey]) -> set[int]:
    members = identity_members
    rows = rows_of(connection, sa.select(members.c.performer_id), record_key(members), people)
    return {performer_id for (performer_id,) in rows}


def _delete_everywhere(
    connection: sa.Connection, belongings: Mapping[str, Collection[Any]]
) -> dict[str, int]:
    """Deletes these belongings from every table, and returns the number of rows by table.

    Tables are found by the names of their columns, so that a table which is added later is covered. Permanent numbers
    are blanked and not deleted.
    """
    counts = blank_numbers(connection, belongings["records"], belongings["images"])
    tables = [table for table in reversed(metadata.sorted_tables) if table.name not in (*_LAST, *NUMBERED)]
    for table in (*tables, source_images, source_performers):
        deleted = 0
        for names, kind in BELONGS.items():
            if all(name in table.c for name in names):
                columns = [table.c[name] for name in names]
                key = columns[0] if len(columns) == 1 else sa.tuple_(*columns)
                deleted += delete_rows(connection, table, key, belongings[kind])
        if deleted:
            counts[table.name] = deleted
    return counts


def _traces(
    connection: sa.Connection, records: Collection[RecordKey], images: Collection[ImageKey]
) -> tuple[str, ...]:
    """The texts by which these records can be found in files: names, ids, URLs."""
    performers, aliases, urls, shown = source_performers, performer_aliases, performer_urls, source_images
    names = rows_of(connection, sa.select(performers.c.name), record_key(performers), records)
    others = rows_of(connection, sa.select(aliases.c.alias), record_key(aliases), records)
    links = rows_of(connection, sa.select(urls.c.url), record_key(urls), records)
    pictures = rows_of(connection, sa.select(shown.c.url), image_key(shown), images)
    texts = {text for rows in (names, others, links, pictures) for (text,) in rows if text}
    # A decimal number in a text may be anything: it is searched only with its source before it.
    ids = {each for _, each in (*records, *images) if not each.isdecimal()}
    return tuple(sorted(texts | ids | {f"{source}:{each}" for source, each in (*records, *images)}))


def _overwritten(engine: sa.Engine, report: ErasureReport) -> ErasureReport:
    if report.rows:
        by_cascade = (aligned_crops, embeddings, tattoo_crops, tattoo_embeddings)
        vacuum(engine, [*report.rows, *(table.name for table in by_cascade)])
    # Also without an erasure: a sync may have deleted rows, or an earlier rebuild may be due.
    return replace(report, bytes_left=overwrite_deleted(engine))
