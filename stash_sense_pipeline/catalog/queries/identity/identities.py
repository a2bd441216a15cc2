"""Identities: their members, evidence and log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import result_rows, rows_of_records, streamed
from stash_sense_pipeline.catalog.key_filters import IN_LIST, of_records
from stash_sense_pipeline.catalog.schema import (
    identities,
    identity_evidence,
    identity_log,
    identity_members,
    source_performers,
)
from stash_sense_pipeline.catalog.upsert import batched, insert_many
from stash_sense_pipeline.records.record_key import RecordKey

_BATCH = 5_000
# The two halves of the key of PostgreSQL's advisory lock.
_WRITERS_LOCK = (7305215, 1)


class EvidenceKey(NamedTuple):
    """The primary key of a row of evidence."""

    source_a: str
    source_id_a: str
    source_b: str
    source_id_b: str
    kind: str
    key: str


class EvidenceState(NamedTuple):
    """The fields of an evidence row that a new run may change."""

    weight: float
    verdict: str
    reason: str | None


@dataclass(frozen=True)
class EvidenceChanges:
    """Rows of evidence that a run removes, changes and adds. `new` is sorted by key."""

    gone: Sequence[EvidenceKey]
    changed: Sequence[tuple[EvidenceKey, EvidenceState]]
    new: Sequence[tuple[EvidenceKey, EvidenceState]]

    @property
    def rows(self) -> int:
        """How many rows are touched."""
        return len(self.gone) + len(self.changed) + len(self.new)


@dataclass(frozen=True)
class MemberChanges:
    """Memberships that a run removes, moves to another performer id and adds. `new` is sorted by key."""

    gone: Sequence[RecordKey]
    moved: Sequence[tuple[RecordKey, int]]
    new: Sequence[tuple[RecordKey, int]]

    @property
    def rows(self) -> int:
        """How many rows are touched."""
        return len(self.gone) + len(self.moved) + len(self.new)


class IdentityRow(NamedTuple):
    """One allocated performer id."""

    performer_id: int
    retired_at: datetime | None
    redirect_to: int | None


class LogEntry(NamedTuple):
    """One event of an identity, to be stored."""

    performer_id: int
    event: str
    detail: Mapping[str, Any]


def lock_identity_writers(connection: sa.Connection) -> None:
    """Takes a lock until the transaction ends; other transactions that call this wait.

    Call it first in each transaction that stores results computed from records, or that erases records. Without it, an
    erasure could commit between the last read and the first write. Does nothing on SQLite, which has one writer.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(*_WRITERS_LOCK)))


def read_members(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, int]:
    """The performer_id of every record in an identity, or of those in `wanted`."""
    table = identity_members.c
    query = sa.select(table.source, table.source_id, table.performer_id)
    rows = rows_of_records(connection, query, table, wanted)
    return {(source, source_id): performer_id for source, source_id, performer_id in rows}


def count_members(connection: sa.Connection, performer_ids: Iterable[int]) -> int:
    """The number of records in these identities."""
    table = identity_members.c
    count = sa.select(sa.func.count()).select_from(identity_members)
    return sum(
        connection.scalar(count.where(table.performer_id.in_(batch))) or 0
        for batch in batched(sorted(performer_ids), IN_LIST)
    )


def redirected_to(connection: sa.Connection, targets: Collection[int]) -> list[IdentityRow]:
    """The retired identities that redirect to one of `targets`."""
    table = identities.c
    query = sa.select(table.performer_id, table.retired_at, table.redirect_to)
    return [
        IdentityRow(*row)
        for batch in batched(sorted(targets), IN_LIST)
        for row in connection.execute(query.where(table.redirect_to.in_(batch)).order_by(table.performer_id))
    ]


def read_last_members(connection: sa.Connection) -> dict[int, tuple[RecordKey, ...]]:
    """The members of each retired identity at the time it was last retired, from the log."""
    table = identity_log.c
    query = (
        sa.select(table.performer_id, table.detail)
        .join(identities, identities.c.performer_id == table.performer_id)
        .where(table.event == "retired", identities.c.retired_at.is_not(None))
        .order_by(table.entry)
    )
    return {
        performer_id: tuple((source, source_id) for source, source_id in detail["members"])
        for performer_id, detail in streamed(connection, query)
    }


def read_evidence(
    connection: sa.Connection, about: Collection[RecordKey] | None = None
) -> dict[EvidenceKey, EvidenceState]:
    """The stored evidence by key: all rows, or those that name one of the records `about`."""
    table = identity_evidence.c
    query = sa.select(*(table[name] for name in (*EvidenceKey._fields, *EvidenceState._fields)))
    if about is None:
        parts = [query]
    else:
        parts = [
            query.where(some)
            for side in "ab"
            for some in of_records(table[f"source_{side}"], table[f"source_id_{side}"], about)
        ]
    return {
        EvidenceKey._make(row[:6]): EvidenceState._make(row[6:])
        for part in parts
        for row in result_rows(connection, part, about)
    }


def count_evidence(connection: sa.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers of rows of evidence by kind, and of refused rows by the part of the reason before its first colon."""
    table = identity_evidence.c
    count = sa.func.count()
    kinds = connection.execute(sa.select(table.kind, count).group_by(table.kind))
    reasons: Counter[str] = Counter()
    refused = sa.select(table.reason, count).where(table.reason.is_not(None)).group_by(table.reason)
    for reason, rows in connection.execute(refused):
        reasons[reason.split(":")[0]] += rows
    by_kind = sorted((kind, int(rows)) for kind, rows in kinds)
    return dict(by_kind), dict(sorted(reasons.items()))


def count_identities(connection: sa.Connection) -> tuple[int, int, int]:
    """The numbers of identities, of records in them, and of identities with two or more records."""
    table = identity_members
    sizes = sa.select(sa.func.count(table.c.source).label("size")).group_by(table.c.performer_id).subquery()
    several = sa.func.sum(sa.case((sizes.c.size > 1, 1), else_=0))
    row = connection.execute(sa.select(sa.func.count(), sa.func.sum(sizes.c.size), several)).one()
    return int(row[0]), int(row[1] or 0), int(row[2] or 0)


def evidence_changes(
    stored: Mapping[EvidenceKey, EvidenceState], wanted: Mapping[EvidenceKey, EvidenceState]
) -> EvidenceChanges:
    """The changes that make the stored evidence equal to `wanted`. Rows that stay keep their first_seen_at."""
    return EvidenceChanges(
        gone=[key for key in stored if key not in wanted],
        changed=[(key, state) for key, state in wanted.items() if key in stored and stored[key] != state],
        new=sorted((key, state) for key, state in wanted.items() if key not in stored),
    )


def write_evidence(connection: sa.Connection, changes: EvidenceChanges, now: datetime) -> None:
    """Stores the changes."""
    names = EvidenceKey._fields
    condition = sa.and_(*(identity_evidence.c[name] == sa.bindparam(f"old_{name}") for name in names))

    def old(key: EvidenceKey) -> dict[str, str]:
        return {f"old_{name}": part for name, part in zip(names, key, strict=True)}

    for gone in batched(changes.gone, _BATCH):
        connection.execute(identity_evidence.delete().where(condition), [old(key) for key in gone])
    values: dict[str, Any] = {name: sa.bindparam(name) for name in EvidenceState._fields}
    update = identity_evidence.update().where(condition).values(values)
    for changed in batched(changes.changed, _BATCH):
        connection.execute(update, [{**old(key), **state._asdict()} for key, state in changed])
    columns = (*EvidenceKey._fields, *EvidenceState._fields, "first_seen_at")
    for new in batched(changes.new, _BATCH):
        insert_many(connection, identity_evidence, columns, [(*key, *state, now) for key, state in new])


def last_id(connection: sa.Connection) -> int:
    """The largest performer id that was ever allocated, or 0."""
    if connection.dialect.name == "postgresql":
        sequence = connection.scalar(sa.select(_sequence()))
        value, is_used = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()
        return int(value) if is_used else 0
    # SQLite has no counter for a table until its first row.
    query = sa.select(_COUNTERS.c.seq).where(_COUNTERS.c.name == identities.name)
    return connection.scalar(query) or 0


def add_ids(connection: sa.Connection, performer_ids: Sequence[int], now: datetime) -> None:
    """Allocates these performer ids. They must be above `last_id`."""
    for batch in batched(performer_ids, _BATCH):
        insert_many(
            connection, identities, ("performer_id", "created_at"), [(number, now) for number in batch]
        )
    _skip_ids(connection, max(performer_ids, default=0))


def import_performer_ids(
    connection: sa.Connection,
    members: Mapping[int, Sequence[RecordKey]],
    used_up_to: int,
    now: datetime,
    because: str,
) -> int:
    """Imports performer ids of a predecessor with their members into a catalog that never allocated any.

    Ids up to `used_up_to` are never allocated afterwards. Members without a live record in the catalog are left out, as
    are ids without members. `because` is the reason in the log. Returns the number of imported ids, 0 for a catalog that
    has allocated ids.
    """
    if last_id(connection) > 0:
        return 0
    table = source_performers.c
    query = sa.select(table.source, table.source_id).where(table.deleted_at.is_(None))
    live = {(source, source_id) for source, source_id in connection.execute(query)}
    kept = {
        performer_id: sorted(live.intersection(keys))
        for performer_id, keys in sorted(members.items())
        if not live.isdisjoint(keys)
    }
    add_ids(connection, list(kept), now)
    wanted = {key: performer_id for performer_id, keys in kept.items() for key in keys}
    write_members(connection, member_changes({}, wanted))
    entries = [
        LogEntry(performer_id, "created", {"members": keys, "because": [because]})
        for performer_id, keys in kept.items()
    ]
    write_log(connection, entries, now)
    _skip_ids(connection, max([used_up_to, *kept], default=0))
    return len(kept)


# SQLite's table of the last id of each AUTOINCREMENT table.
_COUNTERS = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))


def _sequence() -> sa.ColumnElement[Any]:
    return sa.func.pg_get_serial_sequence(identities.name, identities.c.performer_id.name)


def _skip_ids(connection: sa.Connection, up_to: int) -> None:
    """Makes the database allocate only performer ids above `up_to`. No id in use may be above it."""
    if up_to < 1:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.setval(_sequence(), up_to)))
        return
    of_identities = _COUNTERS.c.name == identities.name
    connection.execute(sa.delete(_COUNTERS).where(of_identities))
    connection.execute(sa.insert(_COUNTERS).values(name=identities.name, seq=up_to))


def set_retirement(
    connection: sa.Connection, states: Iterable[tuple[int, datetime | None, int | None]]
) -> None:
    """Sets retired_at and redirect_to of identities, given as (performer_id, retired_at, redirect_to)."""
    table = identities.c
    _many(
        connection,
        identities.update()
        .where(table.performer_id == sa.bindparam("which"))
        .values(retired_at=sa.bindparam("retired"), redirect_to=sa.bindparam("redirect")),
        [{"which": which, "retired": retired, "redirect": redirect} for which, retired, redirect in states],
    )


def retire_empty(connection: sa.Connection, now: datetime) -> None:
    """Retires the identities without a member. Their performer ids are not used again."""
    member = sa.exists().where(identity_members.c.performer_id == identities.c.performer_id)
    empty = sa.update(identities).where(identities.c.retired_at.is_(None), ~member)
    connection.execute(empty.values(retired_at=now))


def member_changes(stored: Mapping[RecordKey, int], wanted: Mapping[RecordKey, int]) -> MemberChanges:
    """The changes that make the stored memberships equal to `wanted`."""
    return MemberChanges(
        gone=[key for key in stored if key not in wanted],
        moved=[(key, number) for key, number in wanted.items() if stored.get(key, number) != number],
        new=sorted((key, number) for key, number in wanted.items() if key not in stored),
    )


def write_members(connection: sa.Connection, changes: MemberChanges) -> None:
    """Stores the changes."""
    table = identity_members.c
    condition = sa.and_(
        table.source == sa.bindparam("old_source"), table.source_id == sa.bindparam("old_source_id")
    )
    for gone in batched(changes.gone, _BATCH):
        rows = [{"old_source": source, "old_source_id": source_id} for source, source_id in gone]
        connection.execute(identity_members.delete().where(condition), rows)
    update = identity_members.update().where(condition).values(performer_id=sa.bindparam("to"))
    for moved in batched(changes.moved, _BATCH):
        to = [{"old_source": key[0], "old_source_id": key[1], "to": number} for key, number in moved]
        connection.execute(update, to)
    columns = ("source", "source_id", "performer_id")
    for new in batched(changes.new, _BATCH):
        insert_many(connection, identity_members, columns, [(*key, number) for key, number in new])


def write_log(connection: sa.Connection, entries: Sequence[LogEntry], now: datetime) -> None:
    """Appends the entries in their order."""
    columns = ("at", *LogEntry._fields)
    for batch in batched(entries, _BATCH):
        insert_many(connection, identity_log, columns, [(now, *entry) for entry in batch])


def _many(connection: sa.Connection, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    for batch in batched(rows, _BATCH):
        connection.execute(statement, [dict(row) for row in batch])
