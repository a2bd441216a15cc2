"""State that an identity run leaves for the next one: record states, blocking keys, hubs."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import IN_LIST, of_records
from stash_sense_pipeline.catalog.queries.face_templates import own_faces
from stash_sense_pipeline.catalog.schema import (
    identity_hubs,
    identity_records,
    identity_runs,
    performer_images,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.upsert import batched, insert_many
from stash_sense_pipeline.records.record_key import RecordKey

Digests = NDArray[np.int64]

_BATCH = 5_000


class State(NamedTuple):
    """The state of a record, as two texts that differ when its content, or its images and faces, differ."""

    seen: str
    pictures: str | None


@dataclass(frozen=True)
class KeyIndex:
    """The blocking keys of all records. It is small enough to be read for every run.

    `digests`, ascending, and `owners`, positions in `records`, have one entry for each key of each record.
    """

    records: Sequence[RecordKey]
    digests: Digests
    owners: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, bytes]]) -> KeyIndex:
        """Makes an index from (source, source_id, packed digests), sorted by record."""
        records = [(source, source_id) for source, source_id, _ in rows]
        digests = np.frombuffer(b"".join(keys for _, _, keys in rows), dtype="<i8").astype(np.int64)
        owners = np.repeat(np.arange(len(rows)), [len(keys) // digests.itemsize for _, _, keys in rows])
        order = np.argsort(digests, kind="stable")
        return cls(records, digests[order], owners[order])

    def holders(self, digests: Iterable[int]) -> dict[int, set[RecordKey]]:
        """The records with each of these keys. A key without records is left out."""
        asked = np.array(sorted(set(digests)), dtype=np.int64)
        first, last = (np.searchsorted(self.digests, asked, side=side) for side in ("left", "right"))
        rows = zip(asked.tolist(), first.tolist(), last.tolist(), strict=True)
        return {
            digest: {self.records[owner] for owner in self.owners[begin:end].tolist()}
            for digest, begin, end in rows
            if begin < end
        }

    def digests_of(self, wanted: Collection[RecordKey]) -> set[int]:
        """The keys of these records."""
        places = [place for place, key in enumerate(self.records) if key in wanted]
        return set(self.digests[np.isin(self.owners, places)].tolist())


@dataclass(frozen=True)
class SeenChanges:
    """Rows of identity_records that a run writes, sorted by record, and the keys of those that replace a stored row."""

    rows: Sequence[tuple[str, str, str, str | None, bytes]]
    replaced: Collection[RecordKey]


@dataclass(frozen=True)
class HubChanges:
    """Digests of hubs that a run removes, and the rows (digest, key, holders) that it adds."""

    gone: Sequence[int]
    new: Sequence[tuple[int, str, int]]

    @property
    def rows(self) -> int:
        """The number of rows that are removed or added."""
        return len(self.gone) + len(self.new)


class Run(NamedTuple):
    """The stored facts of a run that changed something."""

    rules: str
    records: int
    detail: Mapping[str, Any]


def last_run(connection: sa.Connection) -> Run | None:
    """The last run that changed something, or None before the first."""
    table = identity_runs.c
    query = sa.select(table.rules, table.records, table.detail).order_by(table.run.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else Run._make(row)


def last_number(connection: sa.Connection) -> int:
    """The number of the last stored run, 0 before the first. A different number means that another run was stored."""
    return connection.scalar(sa.select(sa.func.max(identity_runs.c.run))) or 0


def store_run(connection: sa.Connection, run: Run, now: datetime) -> None:
    """Stores a run."""
    connection.execute(identity_runs.insert().values(at=now, **run._asdict()))


def states(
    connection: sa.Connection, models: Mapping[str, str], shared: Mapping[RecordKey, str]
) -> dict[RecordKey, State]:
    """The state of every record. Only faces with vectors of all `models` (name to digest) count.

    `shared`: for each record with images that are also on records of other performers, a text for these images.
    """
    record = source_performers.c
    query = sa.select(record.source, record.source_id, _seen())
    pictures = _pictures(connection, models, shared)
    return {
        (source, source_id): State(seen, pictures.get((source, source_id)))
        for source, source_id, seen in streamed(connection, query)
    }


def changes(
    connection: sa.Connection, models: Mapping[str, str], shared: Mapping[RecordKey, str]
) -> dict[RecordKey, State]:
    """The records with a state that no run has seen, with that state. Arguments as for `states`."""
    record, stored = source_performers.c, identity_records.c
    both = (stored.source == record.source) & (stored.source_id == record.source_id)
    query = (
        sa.select(record.source, record.source_id, _seen())
        .outerjoin_from(source_performers, identity_records, both)
        .where(sa.or_(stored.seen.is_(None), stored.seen != _seen()))
    )
    changed = {(source, source_id): seen for source, source_id, seen in streamed(connection, query)}
    before = sa.select(stored.source, stored.source_id, stored.pictures).where(stored.pictures.is_not(None))
    old = {(source, source_id): text for source, source_id, text in streamed(connection, before)}
    now = _pictures(connection, models, shared)
    others = {key for key in old.keys() | now.keys() if old.get(key) != now.get(key)} - changed.keys()
    states = sa.select(record.source, record.source_id, _seen())
    for some in of_records(record.source, record.source_id, others):
        rows = connection.execute(states.where(some))
        changed.update({(source, source_id): seen for source, source_id, seen in rows.all()})
    return {key: State(seen, now.get(key)) for key, seen in changed.items()}


def count_records(connection: sa.Connection) -> tuple[int, int]:
    """The number of records, and the number of records that a run has seen."""
    count = sa.select(sa.func.count())
    return (
        connection.scalar(count.select_from(source_performers)) or 0,
        connection.scalar(count.select_from(identity_records)) or 0,
    )


def _seen() -> sa.ColumnElement[str]:
    """The text of a record's state. A sync sets `changed_at` when it writes other content."""
    record = source_performers.c
    return (
        _text(record.changed_at)
        + "|"
        + sa.func.coalesce(_text(record.deleted_at), "")
        + "|"
        + sa.func.coalesce(record.merged_into, "")
    )


def _pictures(
    connection: sa.Connection, models: Mapping[str, str], shared: Mapping[RecordKey, str]
) -> dict[RecordKey, str]:
    """The text of the images and faces of each record with images that gave a face.

    It has the number of images, the time the last one was processed, the number of own faces, the sum of their ids, and
    the text of `shared`.
    """
    shown, image = performer_images.c, source_images.c
    pictures = (
        sa.select(shown.source, shown.source_id, sa.func.count(), sa.func.max(_text(image.processed_at)))
        .select_from(performer_images)
        .join(source_images, (image.source == shown.source) & (image.image_id == shown.image_id))
        .where(image.state == "done", image.sha256.is_not(None))
        .group_by(shown.source, shown.source_id)
    )
    found = {
        (source, source_id): f"{count} {last}"
        for source, source_id, count, last in streamed(connection, pictures)
    }
    if found and models:
        own = own_faces(models).subquery().c
        faces = sa.select(own.source, own.source_id, sa.func.count(), sa.func.sum(own.face_id)).group_by(
            own.source, own.source_id
        )
        for source, source_id, count, total in streamed(connection, faces):
            found[source, source_id] = f"{found.get((source, source_id))} {count} {total}"
    for key in found.keys() & shared.keys():
        found[key] += f" {shared[key]}"
    return found


def read_keys(connection: sa.Connection) -> list[tuple[str, str, bytes]]:
    """The rows for KeyIndex.of: the keys of all records that a run has seen, sorted by record."""
    table = identity_records.c
    query = sa.select(table.source, table.source_id, table.key_digests).order_by(
        table.source, table.source_id
    )
    return [(source, source_id, keys) for source, source_id, keys in streamed(connection, query)]


def read_hubs(connection: sa.Connection) -> list[tuple[int, str, int]]:
    """(digest, key, holders) of all hubs, sorted by holders, the most first."""
    table = identity_hubs.c
    query = sa.select(table.digest, table.key, table.holders).order_by(table.holders.desc(), table.key)
    return [(digest, key, count) for digest, key, count in connection.execute(query)]


def count_hubs(connection: sa.Connection) -> int:
    """The number of hubs."""
    return connection.scalar(sa.select(sa.func.count()).select_from(identity_hubs)) or 0


def hub_changes(
    stored: Iterable[tuple[int, str, int]],
    found: Mapping[int, tuple[str, int]],
    asked: Collection[int] | None,
) -> HubChanges:
    """The changes that make the stored hubs among the keys `asked` (None for all) equal to `found`.

    `found`: digest to key and number of holders.
    """
    before = {digest: (key, count) for digest, key, count in stored if asked is None or digest in asked}
    return HubChanges(
        sorted(digest for digest, row in before.items() if found.get(digest) != row),
        [
            (digest, key, count)
            for digest, (key, count) in sorted(found.items())
            if before.get(digest) != (key, count)
        ],
    )


def write_hubs(connection: sa.Connection, changes: HubChanges) -> None:
    """Stores the changes."""
    table = identity_hubs
    for batch in batched(changes.gone, IN_LIST):
        connection.execute(table.delete().where(table.c.digest.in_(batch)))
    for rows in batched(changes.new, _BATCH):
        insert_many(connection, table, ("digest", "key", "holders"), rows)


def read_seen(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, tuple[str, str | None, bytes]]:
    """The two parts of the state that runs saw, and the packed keys, of all records or those in `wanted`."""
    table = identity_records.c
    query = sa.select(table.source, table.source_id, table.seen, table.pictures, table.key_digests)
    if wanted is None:
        return {(row[0], row[1]): (row[2], row[3], row[4]) for row in streamed(connection, query)}
    return {
        (row[0], row[1]): (row[2], row[3], row[4])
        for some in of_records(table.source, table.source_id, wanted)
        for row in connection.execute(query.where(some))
    }


def seen_changes(
    stored: Mapping[RecordKey, tuple[str, str | None, bytes]],
    states: Mapping[RecordKey, State],
    keys: Mapping[RecordKey, Iterable[int]],
) -> SeenChanges:
    """The rows that a run writes for the states of records and the digests of their keys.

    A record that is only in `states` has no keys. A record that is only in `keys` keeps its state in `stored`.
    """
    rows = []
    for key in sorted(states.keys() | keys.keys()):
        seen, pictures = states.get(key) or stored[key][:2]
        row = (*key, seen, pictures, _packed(keys.get(key, ())))
        if stored.get(key) != row[2:]:
            rows.append(row)
    return SeenChanges(rows, [(row[0], row[1]) for row in rows if (row[0], row[1]) in stored])


def write_seen(connection: sa.Connection, changes: SeenChanges) -> None:
    """Stores the changes."""
    table = identity_records
    for some in of_records(table.c.source, table.c.source_id, changes.replaced):
        connection.execute(table.delete().where(some))
    columns = ("source", "source_id", *State._fields, "key_digests")
    for rows in batched(changes.rows, _BATCH):
        insert_many(connection, table, columns, rows)


def _packed(digests: Iterable[int]) -> bytes:
    ordered = sorted(set(digests))
    return struct.pack(f"<{len(ordered)}q", *ordered)


def _text(time: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A time as stored text: converting some hundred thousand to datetime objects would take a second."""
    return sa.type_coerce(time, sa.Text)
