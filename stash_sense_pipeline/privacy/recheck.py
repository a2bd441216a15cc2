"""Compares every stored person with the suppression list after an identity run, and erases or holds the matches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import record_key, rows_of
from stash_sense_pipeline.catalog.queries.identity.identities import lock_identity_writers
from stash_sense_pipeline.catalog.schema import identity_members, source_performers
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.privacy.erasure import erase_records, hold_stored
from stash_sense_pipeline.privacy.intake.comparison import Findings, compare
from stash_sense_pipeline.privacy.intake.holding import HELD, HELD_LINKED
from stash_sense_pipeline.privacy.intake.parsed_record import ParsedRecord
from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence, Relatives, read_evidence
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class RecheckReport:
    """How many records were erased, and how many are held for review now. `traces` as in ErasureReport."""

    erased: int = 0
    held: int = 0
    traces: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Matches:
    """Stored records with evidence on the list; `held` maps those to be held to their reasons."""

    suppressed: frozenset[RecordKey]
    held: Mapping[RecordKey, str]


def recheck_people(
    engine: sa.Engine,
    suppressions: Suppressions,
    now: datetime,
    before: Callable[[tuple[str, ...], ExitStack], None],
    relatives: Relatives | None = None,
) -> RecheckReport:
    """Compares all stored records with the list, and erases or holds whole identities.

    A person is erased when a record is on the list by id or page. A person is held when a record has the name and birth
    date of a suppressed one, or links to a held record. This finds records that were stored before the list knew them
    and were linked to others only by the last identity run.

    `before` is called inside the transaction with the texts that must be removed from files before its commit.
    """
    with ExitStack() as until_committed, writing(engine) as connection:
        lock_identity_writers(connection)
        report = _recheck(connection, suppressions.refreshed(connection), now, relatives)
        if report.traces:
            before(report.traces, until_committed)
    return report


def matching_records(engine: sa.Engine, suppressions: Suppressions) -> int:
    """How many live records of the catalog recheck_people would erase or hold."""
    if not suppressions.knows_evidence:
        return 0
    with reading(engine) as connection:
        found = _matches(connection, suppressions.refreshed(connection), _live_records(connection))
    return len(found.suppressed) + len(found.held)


def _recheck(
    connection: sa.Connection, suppressions: Suppressions, now: datetime, relatives: Relatives | None
) -> RecheckReport:
    report = RecheckReport()
    while suppressions.knows_evidence:
        live = _live_records(connection)
        found = _matches(connection, suppressions, live)
        if not (found.suppressed or found.held):
            return report
        # Erase first: records that are erased must not be held, and their hashes may hold others in the next round.
        if found.suppressed:
            erased = erase_records(connection, suppressions, found.suppressed, now, relatives)
            report = RecheckReport(report.erased + erased.records, report.held, report.traces + erased.traces)
        else:
            traces = hold_stored(connection, suppressions, found.held, now)
            report = RecheckReport(report.erased, report.held + len(found.held), report.traces + traces)
        suppressions = suppressions.refreshed(connection)
    return report


def _live_records(connection: sa.Connection) -> dict[RecordKey, RecordEvidence]:
    table = source_performers
    keys = connection.execute(
        sa.select(table.c.source, table.c.source_id).where(table.c.deleted_at.is_(None))
    )
    live = {(source, source_id) for source, source_id in keys}
    return {record: each for record, each in read_evidence(connection).items() if record in live}


def _matches(
    connection: sa.Connection, suppressions: Suppressions, live: Mapping[RecordKey, RecordEvidence]
) -> _Matches:
    compared = (
        (record, compare(suppressions, ParsedRecord(evidence, suppressions.key)))
        for record, evidence in live.items()
    )
    findings = {record: found for record, found in compared if found != Findings()}
    suppressed = frozenset(record for record, found in findings.items() if found.degree is not None)
    held = {
        record: HELD if found.is_like else HELD_LINKED for record, found in findings.items() if found.is_held
    }
    return _Matches(suppressed, _with_their_identities(connection, suppressions, held))


def _with_their_identities(
    connection: sa.Connection, suppressions: Suppressions, held: Mapping[RecordKey, str]
) -> dict[RecordKey, str]:
    """The held records with all others of their identities.

    An identity is left out when it has a record that the operator has declared another person.
    """
    members, others = identity_members, identity_members.alias()
    columns = sa.select(members.c.source, members.c.source_id, others.c.source, others.c.source_id)
    joined = columns.join(others, members.c.performer_id == others.c.performer_id)
    people: dict[RecordKey, set[RecordKey]] = {record: {record} for record in held}
    for source, source_id, of_source, of_id in rows_of(connection, joined, record_key(members), held.keys()):
        people[source, source_id].add((of_source, of_id))
    found: dict[RecordKey, str] = {}
    for record, person in people.items():
        if not any(map(suppressions.is_other, person)):
            found |= {each: held.get(each, HELD_LINKED) for each in person} | {record: held[record]}
    return found
