"""Identities in the catalog: reading what they are computed from, and storing only what changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.chosen import RecordKey, of_records
from stash_sense_pipeline.catalog.schema import (
    identities,
    identity_evidence,
    identity_log,
    identity_members,
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.upsert import batched, insert_many

_BATCH = 5_000
# Below SQLite's bound on parameters.
_IN_LIST = 800


class RecordRow(NamedTuple):
    """What identity reads of a source record. `slug` and `number`: its source's other identifiers for it, if kept."""

    source: str
    source_id: str
    name: str | None
    gender: str | None
    birth_date: str | None
    country: str | None
    live: bool
    merged_into: str | None
    slug: str | None
    number: str | None


class EvidenceKey(NamedTuple):
    """What makes a row of evidence that row."""

    source_a: str
    source_id_a: str
    source_b: str
    source_id_b: str
    kind: str
    key: str


class EvidenceState(NamedTuple):
    """The part of an evidence row that a new run may change."""

    weight: float
    verdict: str
    reason: str | None


class EvidenceRow(NamedTuple):
    """One stored row of evidence."""

    kind: str
    source_a: str
    source_id_a: str
    source_b: str
    source_id_b: str
    key: str
    weight: float
    verdict: str
    reason: str | None


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


def read_records(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> Iterator[RecordRow]:
    """All records of all sources, tombstones too; or those of them that are `wanted`."""
    table = source_performers.c
    query = sa.select(
        table.source,
        table.source_id,
        table.name,
        table.gender,
        table.birth_date,
        table.country,
        sa.and_(table.deleted_at.is_(None), table.merged_into.is_(None)),
        table.merged_into,
        table.raw["slug"].as_string(),
        table.raw["_id"].as_string(),
    )
    return map(RecordRow._make, _of_records(connection, query, table, wanted))


def read_merged_into(connection: sa.Connection, survivors: Collection[RecordKey]) -> list[RecordKey]:
    """Records that their source has merged into one of these, directly."""
    table = source_performers.c
    query = sa.select(table.source, table.source_id)
    return [
        (source, source_id)
        for some in of_records(table.source, table.merged_into, survivors)
        for source, source_id in connection.execute(query.where(some))
    ]


def population_state(connection: sa.Connection) -> tuple[Any, ...]:
    """Something that differs when records were added, removed or changed since, or images were worked off."""
    table, image = source_performers.c, source_images.c
    latest = sa.select(sa.func.max(table.changed_at)).scalar_subquery()
    query = sa.select(
        sa.select(sa.func.count()).select_from(source_performers).scalar_subquery(),
        latest,
        sa.select(sa.func.count()).where(table.changed_at == latest).scalar_subquery(),
        sa.select(sa.func.max(image.processed_at)).scalar_subquery(),
    )
    return tuple(connection.execute(query).one())


def read_aliases(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, list[str]]:
    """Aliases of each record that has some."""
    table = performer_aliases.c
    query = sa.select(table.source, table.source_id, table.alias)
    return _grouped(_of_records(connection, query, table, wanted))


def read_urls(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, list[str]]:
    """URLs of each record that has some."""
    table = performer_urls.c
    query = sa.select(table.source, table.source_id, table.url)
    return _grouped(_of_records(connection, query, table, wanted))


def read_images(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, list[str]]:
    """SHA-256 of each record's images that gave a face."""
    image, shown = source_images.c, performer_images.c
    query = (
        sa.select(shown.source, shown.source_id, image.sha256)
        .join(source_images, (image.source == shown.source) & (image.image_id == shown.image_id))
        .where(image.state == "done", image.sha256.is_not(None))
    )
    return _grouped(_of_records(connection, query, shown, wanted))


def read_members(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, int]:
    """performer_id of every record that is in an identity, or of those of them that are `wanted`."""
    table = identity_members.c
    query = sa.select(table.source, table.source_id, table.performer_id)
    rows = _of_records(connection, query, table, wanted)
    return {(source, source_id): performer_id for source, source_id, performer_id in rows}


def count_members(connection: sa.Connection, performer_ids: Iterable[int]) -> int:
    """How many records are in these identities."""
    table = identity_members.c
    count = sa.select(sa.func.count()).select_from(identity_members)
    return sum(
        connection.scalar(count.where(table.performer_id.in_(batch))) or 0
        for batch in batched(sorted(performer_ids), _IN_LIST)
    )


def redirected_to(connection: sa.Connection, targets: Collection[int]) -> list[IdentityRow]:
    """Retired ids that lead to one of these, in order."""
    table = identities.c
    query = sa.select(table.performer_id, table.retired_at, table.redirect_to)
    return [
        IdentityRow(*row)
        for batch in batched(sorted(targets), _IN_LIST)
        for row in connection.execute(query.where(table.redirect_to.in_(batch)).order_by(table.performer_id))
    ]


def read_last_members(connection: sa.Connection) -> dict[int, tuple[RecordKey, ...]]:
    """Members that each retired identity had when it was last retired, from the log."""
    table = identity_log.c
    query = (
        sa.select(table.performer_id, table.detail)
        .join(identities, identities.c.performer_id == table.performer_id)
        .where(table.event == "retired", identities.c.retired_at.is_not(None))
        .order_by(table.entry)
    )
    return {
        performer_id: tuple((source, source_id) for source, source_id in detail["members"])
        for performer_id, detail in connection.execute(query)
    }


def read_evidence(
    connection: sa.Connection, about: Collection[RecordKey] | None = None
) -> dict[EvidenceKey, EvidenceState]:
    """Stored evidence, all of it or what names one of the records, by its key."""
    table = identity_evidence.c
    query = sa.select(*(table[name] for name in (*EvidenceKey._fields, *EvidenceState._fields)))
    if about is None:
        rows = list(connection.execute(query))
    else:
        rows = [
            row
            for side in "ab"
            for some in of_records(table[f"source_{side}"], table[f"source_id_{side}"], about)
            for row in connection.execute(query.where(some))
        ]
    return {EvidenceKey(*row[:6]): EvidenceState(*row[6:]) for row in rows}


def count_evidence(connection: sa.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """How many rows of evidence there are by kind, and refused ones by the first words of the reason."""
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
    """How many identities, records in them, and identities of two records or more there are."""
    table = identity_members
    sizes = sa.select(sa.func.count(table.c.source).label("size")).group_by(table.c.performer_id).subquery()
    several = sa.func.sum(sa.case((sizes.c.size > 1, 1), else_=0))
    row = connection.execute(sa.select(sa.func.count(), sa.func.sum(sizes.c.size), several)).one()
    return int(row[0]), int(row[1] or 0), int(row[2] or 0)


def has_record(connection: sa.Connection, source: str, source_id: str) -> bool:
    """Does the catalog hold this record, live or as a tombstone?"""
    table = source_performers.c
    query = sa.select(table.source).where(table.source == source, table.source_id == source_id)
    return connection.execute(query).first() is not None


def identity_of(connection: sa.Connection, source: str, source_id: str) -> int | None:
    """performer_id of a record."""
    table = identity_members.c
    query = sa.select(table.performer_id).where(table.source == source, table.source_id == source_id)
    return connection.execute(query).scalar()


def members_of(connection: sa.Connection, performer_id: int) -> list[sa.Row[Any]]:
    """source, source_id, name, gender, birth_date, country of the members of an identity, in order."""
    record, member = source_performers.c, identity_members.c
    query = (
        sa.select(
            record.source, record.source_id, record.name, record.gender, record.birth_date, record.country
        )
        .join(identity_members, (member.source == record.source) & (member.source_id == record.source_id))
        .where(member.performer_id == performer_id)
        .order_by(record.source, record.source_id)
    )
    return list(connection.execute(query))


def evidence_about(connection: sa.Connection, keys: Iterable[RecordKey]) -> list[EvidenceRow]:
    """Every row that names one of the records, strongest first."""
    table = identity_evidence.c
    columns = [table[name] for name in EvidenceRow._fields]
    found: set[EvidenceRow] = set()
    for source, source_id in keys:
        for one, other in ((table.source_a, table.source_id_a), (table.source_b, table.source_id_b)):
            query = sa.select(*columns).where(one == source, other == source_id)
            found.update(EvidenceRow._make(row) for row in connection.execute(query))
    return sorted(found, key=lambda row: (-row.weight, row[:6]))


def history(
    connection: sa.Connection, performer_id: int, latest: int
) -> list[tuple[datetime, str, dict[str, Any]]]:
    """The latest events of an identity, oldest of them first."""
    table = identity_log.c
    query = (
        sa.select(table.at, table.event, table.detail)
        .where(table.performer_id == performer_id)
        .order_by(table.entry.desc())
        .limit(latest)
    )
    return [(row.at, row.event, row.detail) for row in reversed(connection.execute(query).all())]


def store_evidence(
    connection: sa.Connection,
    stored: Mapping[EvidenceKey, EvidenceState],
    wanted: Mapping[EvidenceKey, EvidenceState],
    now: datetime,
) -> int:
    """Makes the stored evidence equal to `wanted`; first_seen_at of rows that stay is kept. Gives the rows touched."""
    names = EvidenceKey._fields
    gone = [dict(zip(names, key, strict=True)) for key in stored if key not in wanted]
    changed = [
        {f"old_{name}": part for name, part in zip(names, key, strict=True)} | state._asdict()
        for key, state in wanted.items()
        if key in stored and stored[key] != state
    ]
    condition = sa.and_(*(identity_evidence.c[name] == sa.bindparam(f"old_{name}") for name in names))
    _many(
        connection,
        identity_evidence.delete().where(condition),
        [{f"old_{name}": value for name, value in row.items()} for row in gone],
    )
    _many(
        connection,
        identity_evidence.update()
        .where(condition)
        .values(
            weight=sa.bindparam("weight"), verdict=sa.bindparam("verdict"), reason=sa.bindparam("reason")
        ),
        changed,
    )
    new = [(*key, *state, now) for key, state in sorted(wanted.items()) if key not in stored]
    columns = (*EvidenceKey._fields, *EvidenceState._fields, "first_seen_at")
    insert_many(connection, identity_evidence, columns, new)
    return len(gone) + len(new) + len(changed)


def allocate(connection: sa.Connection, count: int, now: datetime) -> list[int]:
    """`count` performer ids that were never used before, ascending."""
    found: list[int] = []
    statement = identities.insert().returning(identities.c.performer_id)
    for batch in batched(range(count), _BATCH):
        rows = connection.execute(statement, [{"created_at": now} for _ in batch])
        found += rows.scalars().all()
    return sorted(found)


def adopt(
    connection: sa.Connection, members: Mapping[int, Sequence[RecordKey]], used_up_to: int, now: datetime
) -> int:
    """Takes over performer ids of somebody else's with their members, into a catalog that has allocated none.

    Ids up to `used_up_to` are never allocated afterwards. Members that are in no live record of the catalog are
    left out, and so are ids without any. Returns how many ids were taken over, 0 where there are ids already.
    """
    if connection.execute(sa.select(identities.c.performer_id).limit(1)).first() is not None:
        return 0
    table = source_performers.c
    query = sa.select(table.source, table.source_id).where(table.deleted_at.is_(None))
    live = {(source, source_id) for source, source_id in connection.execute(query)}
    kept = {
        performer_id: sorted(live.intersection(keys))
        for performer_id, keys in sorted(members.items())
        if not live.isdisjoint(keys)
    }
    _many(
        connection,
        identities.insert(),
        [{"performer_id": performer_id, "created_at": now} for performer_id in kept],
    )
    store_members(connection, {}, {key: performer_id for performer_id, keys in kept.items() for key in keys})
    entries = [
        LogEntry(performer_id, "created", {"members": keys, "because": ["import-legacy"]})
        for performer_id, keys in kept.items()
    ]
    write_log(connection, entries, now)
    _skip_ids(connection, max([used_up_to, *kept], default=0))
    return len(kept)


def _skip_ids(connection: sa.Connection, up_to: int) -> None:
    """Makes the database allocate only performer ids above `up_to`, to which all ids in use belong."""
    if up_to < 1:
        return
    if connection.dialect.name == "postgresql":
        sequence = sa.func.pg_get_serial_sequence(identities.name, identities.c.performer_id.name)
        connection.execute(sa.select(sa.func.setval(sequence, up_to)))
        return
    # SQLite keeps the last id of each AUTOINCREMENT table in a table of its own, once there was a row.
    counters = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))
    of_identities = counters.c.name == identities.name
    connection.execute(sa.delete(counters).where(of_identities))
    connection.execute(sa.insert(counters).values(name=identities.name, seq=up_to))


def set_state(connection: sa.Connection, states: Iterable[tuple[int, datetime | None, int | None]]) -> None:
    """Sets (performer_id, retired_at, redirect_to)."""
    table = identities.c
    _many(
        connection,
        identities.update()
        .where(table.performer_id == sa.bindparam("which"))
        .values(retired_at=sa.bindparam("retired"), redirect_to=sa.bindparam("redirect")),
        [{"which": which, "retired": retired, "redirect": redirect} for which, retired, redirect in states],
    )


def store_members(
    connection: sa.Connection, stored: Mapping[RecordKey, int], wanted: Mapping[RecordKey, int]
) -> int:
    """Makes the stored memberships equal to `wanted`. Gives the rows touched."""
    table = identity_members.c
    condition = sa.and_(
        table.source == sa.bindparam("old_source"), table.source_id == sa.bindparam("old_source_id")
    )
    gone = [
        {"old_source": source, "old_source_id": source_id}
        for source, source_id in stored
        if (source, source_id) not in wanted
    ]
    new = [(*key, performer_id) for key, performer_id in sorted(wanted.items()) if key not in stored]
    moved = [
        {"old_source": source, "old_source_id": source_id, "to": performer_id}
        for (source, source_id), performer_id in wanted.items()
        if stored.get((source, source_id), performer_id) != performer_id
    ]
    _many(connection, identity_members.delete().where(condition), gone)
    _many(
        connection,
        identity_members.update().where(condition).values(performer_id=sa.bindparam("to")),
        moved,
    )
    insert_many(connection, identity_members, ("source", "source_id", "performer_id"), new)
    return len(gone) + len(new) + len(moved)


def write_log(connection: sa.Connection, entries: Sequence[LogEntry], now: datetime) -> None:
    """Appends the entries in their order."""
    columns = ("at", *LogEntry._fields)
    insert_many(connection, identity_log, columns, [(now, *entry) for entry in entries])


def _many(connection: sa.Connection, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    for batch in batched(rows, _BATCH):
        connection.execute(statement, [dict(row) for row in batch])


def _of_records(
    connection: sa.Connection,
    query: sa.Select[Any],
    columns: sa.ColumnCollection[str, Any],
    wanted: Collection[RecordKey] | None,
) -> Iterator[Any]:
    """Rows of the query whose (source, source_id) is wanted; all of them for None."""
    if wanted is None:
        yield from connection.execute(query)
        return
    for some in of_records(columns["source"], columns["source_id"], wanted):
        yield from connection.execute(query.where(some))


def _grouped(rows: Iterable[Any]) -> dict[RecordKey, list[str]]:
    found: dict[RecordKey, list[str]] = defaultdict(list)
    for source, source_id, value in rows:
        found[source, source_id].append(value)
    return found
