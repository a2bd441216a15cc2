"""Held records: stores their evidence, releases them, and settles the operator's review."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.schema import held_evidence, sync_state, withheld_records
from stash_sense_pipeline.catalog.upsert import batched, insert_many
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.intake.comparison import Findings
from stash_sense_pipeline.privacy.intake.parsed_record import ParsedRecord
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    OTHER,
    PERSONA,
    RECORD,
    URL,
    record_hash,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    ASSOCIATED,
    NAMED,
    HashRow,
    Suppressions,
    store_hashes,
)
from stash_sense_pipeline.records.record_key import RecordKey

# Reasons of withheld records: the person is suppressed; the record resembles a suppressed person; or it is linked to a
# record that is.
SUPPRESSED: Final = "suppressed"
HELD: Final = "held"
HELD_LINKED: Final = "held_linked"


def reason_of(findings: Findings) -> str:
    """Why a record with these findings is held."""
    return HELD if findings.is_like else HELD_LINKED


def remember_held(
    connection: sa.Connection, suppressions: Suppressions, held: Collection[ParsedRecord]
) -> None:
    """Stores the evidence of held records as hashes, so that records which link to them are held as well."""
    table = held_evidence
    wanted = {
        (suppressions.withheld_hash(*record.evidence.record), digest)
        for record in held
        for digest in record.evidence_hashes
    }
    owners = sorted({owner for owner, _ in wanted})
    for batch in batched(owners, IN_LIST):
        known = sa.select(table.c.owner_hash, table.c.key_hash).where(table.c.owner_hash.in_(batch))
        wanted -= {(owner, digest) for owner, digest in connection.execute(known)}
    insert_many(connection, table, ("owner_hash", "key_hash"), sorted(wanted))


def forget_held(connection: sa.Connection, suppressions: Suppressions, erased: Collection[RecordKey]) -> None:
    """Deletes the evidence of held records that are erased. From now on it is stored as that of suppressed records."""
    owners = sorted(suppressions.withheld_hash(*record) for record in erased)
    for batch in batched(owners, IN_LIST):
        connection.execute(sa.delete(held_evidence).where(held_evidence.c.owner_hash.in_(batch)))


def release_allowed(
    connection: sa.Connection, suppressions: Suppressions, source: str, source_ids: Collection[str]
) -> None:
    """Deletes the notes of held records that are stored now."""
    table = withheld_records
    held = sa.select(table.c.id_hash).where(table.c.source == source, table.c.reason.in_((HELD, HELD_LINKED)))
    known = set(connection.scalars(held))
    if known:
        stored = {suppressions.withheld_hash(source, source_id) for source_id in source_ids}
        _forget(connection, source, known & stored)


def settle(
    connection: sa.Connection, suppressions: Suppressions, record: RecordKey, now: datetime, *, same: bool
) -> None:
    """Ends the review of a held record. With `same` it is the suppressed person, and is suppressed as a named record.

    Otherwise it is another person: the list keeps an exception for it, and the next sync of its source asks for it
    again, and for the records that were held only because of links. Raises ConfigurationError when no such record is
    held.
    """
    source, source_id = record
    table = withheld_records
    owner = suppressions.withheld_hash(source, source_id)
    of_record = (table.c.source == source) & (table.c.id_hash == owner)
    reason = connection.scalar(sa.select(table.c.reason).where(of_record))
    if reason not in (HELD, HELD_LINKED):
        raise ConfigurationError(
            f"{source}:{source_id} is not a held record; list them with: stash-sense suppress review"
        )
    digest = record_hash(suppressions.key, source, source_id)
    if same:
        _suppress(connection, suppressions, owner, digest, now)
        connection.execute(sa.update(table).where(of_record).values(reason=SUPPRESSED, source_id=None))
        return
    exception = HashRow(OTHER, digest, "another person than a suppressed one", now, applied_at=now)
    store_hashes(connection, suppressions.key, [exception])
    _forget(connection, source, [owner])
    _ask_again(connection, source, [source_id])
    linked = sa.select(table.c.source, table.c.source_id, table.c.id_hash).where(
        table.c.reason == HELD_LINKED
    )
    for linked_source, linked_id, linked_owner in connection.execute(linked).all():
        evidence = held_evidence.c.owner_hash == linked_owner
        connection.execute(sa.delete(held_evidence).where(evidence))
        _ask_again(connection, linked_source, [linked_id])


def _suppress(
    connection: sa.Connection, suppressions: Suppressions, owner: str, digest: str, now: datetime
) -> None:
    """Turns the evidence of a held record into that of a suppressed one."""
    reason = "held, then confirmed as a suppressed person"
    own = held_evidence.c.owner_hash == owner
    evidence = connection.scalars(sa.select(held_evidence.c.key_hash).where(own)).all()
    rows = [HashRow(RECORD, digest, reason, now, NAMED)]
    for each in evidence:
        # The kind of a hash is unknown here. It is stored as each kind, and matches only the text that it was made of.
        rows += [HashRow(kind, each, reason, now, ASSOCIATED) for kind in (RECORD, URL)]
        rows.append(HashRow(PERSONA, each, reason, now, applied_at=now))
    store_hashes(connection, suppressions.key, rows)
    connection.execute(sa.delete(held_evidence).where(own))


def _forget(connection: sa.Connection, source: str, owners: Collection[str]) -> None:
    table = withheld_records
    for batch in batched(sorted(owners), IN_LIST):
        connection.execute(sa.delete(held_evidence).where(held_evidence.c.owner_hash.in_(batch)))
        held = table.c.reason.in_((HELD, HELD_LINKED))
        connection.execute(sa.delete(table).where(table.c.source == source, table.c.id_hash.in_(batch), held))


def _ask_again(connection: sa.Connection, source: str, source_ids: Collection[str]) -> None:
    """Makes the next sync of a source ask for these records, whatever versions of them it has read."""
    table = sync_state
    # A reference site is asked for single profiles anyway, when their next visit is due.
    is_box = (table.c.source == source) & table.c.backfilled_at.is_not(None)
    detail = connection.scalar(sa.select(table.c.detail).where(is_box))
    if detail is None:
        return
    note = {"reason": "it was held, and is requested again"}
    unread = {**(detail.get("unread") or {}), **dict.fromkeys(source_ids, note)}
    of_source = sa.update(table).where(table.c.source == source)
    connection.execute(of_source.values(detail={**detail, "unread": unread}))
