"""What an identity run leaves for the next one: what it saw of each record, the keys it found it by, hubs, settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    identity_hubs,
    identity_keys,
    identity_records,
    identity_runs,
    performer_images,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.templates import own_faces
from stash_sense_pipeline.catalog.upsert import batched, insert_many

RecordKey = tuple[str, str]

_BATCH = 5_000
# Below SQLite's bound on parameters, two a record.
_IN_LIST = 400


class State(NamedTuple):
    """Which state of a record identity sees: another text for other content of the record, of its pictures and faces."""

    seen: str
    pictures: str | None


class Run(NamedTuple):
    """The last run that changed something."""

    rules: str
    records: int
    detail: Mapping[str, Any]


def last_run(connection: sa.Connection) -> Run | None:
    """What the last run left, None before the first."""
    table = identity_runs.c
    query = sa.select(table.rules, table.records, table.detail).order_by(table.run.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else Run._make(row)


def store_run(connection: sa.Connection, run: Run, now: datetime) -> None:
    """Appends a run."""
    connection.execute(identity_runs.insert().values(at=now, **run._asdict()))


def states(connection: sa.Connection, models: Mapping[str, str]) -> dict[RecordKey, State]:
    """The state of every record. Faces count with vectors of all `models` (name to digest)."""
    record = source_performers.c
    query = sa.select(record.source, record.source_id, _seen())
    pictures = _pictures(connection, models)
    return {
        (source, source_id): State(seen, pictures.get((source, source_id)))
        for source, source_id, seen in connection.execute(query).all()
    }


def changes(connection: sa.Connection, models: Mapping[str, str]) -> dict[RecordKey, State]:
    """The records that no run has seen in the state they are in, with that state."""
    record, stored = source_performers.c, identity_records.c
    both = (stored.source == record.source) & (stored.source_id == record.source_id)
    query = (
        sa.select(record.source, record.source_id, _seen())
        .outerjoin_from(source_performers, identity_records, both)
        .where(sa.or_(stored.seen.is_(None), stored.seen != _seen()))
    )
    changed = {(source, source_id): seen for source, source_id, seen in connection.execute(query).all()}
    before = sa.select(stored.source, stored.source_id, stored.pictures).where(stored.pictures.is_not(None))
    old = {(source, source_id): text for source, source_id, text in connection.execute(before).all()}
    now = _pictures(connection, models)
    others = {key for key in old.keys() | now.keys() if old.get(key) != now.get(key)} - changed.keys()
    key = sa.tuple_(record.source, record.source_id)
    for batch in batched(sorted(others), _IN_LIST):
        rows = connection.execute(sa.select(record.source, record.source_id, _seen()).where(key.in_(batch)))
        changed.update({(source, source_id): seen for source, source_id, seen in rows.all()})
    return {key: State(seen, now.get(key)) for key, seen in changed.items()}


def count_records(connection: sa.Connection) -> tuple[int, int]:
    """How many records there are, and how many of them a run has seen."""
    count = sa.select(sa.func.count())
    return (
        connection.scalar(count.select_from(source_performers)) or 0,
        connection.scalar(count.select_from(identity_records)) or 0,
    )


def numbers_of(connection: sa.Connection, wanted: Collection[RecordKey] | None) -> dict[RecordKey, int]:
    """The numbers of the wanted records, or of all, that a run has seen."""
    table = identity_records.c
    query = sa.select(table.source, table.source_id, table.number)
    key = sa.tuple_(table.source, table.source_id)
    parts = (
        [query] if wanted is None else [query.where(key.in_(b)) for b in batched(sorted(wanted), _IN_LIST)]
    )
    return {
        (source, source_id): number
        for part in parts
        for source, source_id, number in connection.execute(part).all()
    }


def _seen() -> sa.ColumnElement[str]:
    """`changed_at` is new whenever a sync wrote something else; a removal is told by itself as well."""
    record = source_performers.c
    return (
        _text(record.changed_at)
        + "|"
        + sa.func.coalesce(_text(record.deleted_at), "")
        + "|"
        + sa.func.coalesce(record.merged_into, "")
    )


def _pictures(connection: sa.Connection, models: Mapping[str, str]) -> dict[RecordKey, str]:
    """For each record with pictures that gave a face: how many, when the last was worked off, how many faces, which."""
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
        for source, source_id, count, last in connection.execute(pictures).all()
    }
    if found and models:
        own = own_faces(models).subquery().c
        faces = sa.select(own.source, own.source_id, sa.func.count(), sa.func.sum(own.face_id)).group_by(
            own.source, own.source_id
        )
        for source, source_id, count, total in connection.execute(faces).all():
            found[source, source_id] = f"{found.get((source, source_id))} {count} {total}"
    return found


def holders(connection: sa.Connection, digests: Iterable[int]) -> dict[int, set[RecordKey]]:
    """Records that were found by each of these keys."""
    keys, records = identity_keys.c, identity_records.c
    query = sa.select(keys.digest, records.source, records.source_id).join(
        identity_records, records.number == keys.number
    )
    found: dict[int, set[RecordKey]] = defaultdict(set)
    for batch in batched(sorted(digests), _IN_LIST):
        for digest, source, source_id in connection.execute(query.where(keys.digest.in_(batch))):
            found[digest].add((source, source_id))
    return found


def digests_of(connection: sa.Connection, numbers: Iterable[int]) -> set[int]:
    """The keys that these records were found by."""
    table = identity_keys.c
    found: set[int] = set()
    for batch in batched(sorted(numbers), _IN_LIST):
        found.update(connection.execute(sa.select(table.digest).where(table.number.in_(batch))).scalars())
    return found


def holders_of_hub(connection: sa.Connection, digest: int, most: int) -> list[RecordKey]:
    """Some of the records on a hub, in order."""
    keys, records = identity_keys.c, identity_records.c
    query = (
        sa.select(records.source, records.source_id)
        .join(identity_keys, records.number == keys.number)
        .where(keys.digest == digest)
        .order_by(records.source, records.source_id)
        .limit(most)
    )
    return [(source, source_id) for source, source_id in connection.execute(query)]


def read_hubs(connection: sa.Connection) -> list[tuple[int, str, int]]:
    """(digest, key, holders) of all hubs, those with most holders first."""
    table = identity_hubs.c
    query = sa.select(table.digest, table.key, table.holders).order_by(table.holders.desc(), table.key)
    return [(digest, key, count) for digest, key, count in connection.execute(query)]


def count_hubs(connection: sa.Connection) -> int:
    """How many hubs there are."""
    return connection.scalar(sa.select(sa.func.count()).select_from(identity_hubs)) or 0


def store_hubs(
    connection: sa.Connection, found: Mapping[int, tuple[str, int]], asked: Collection[int] | None
) -> int:
    """Makes the stored hubs among the keys `asked` (all of them for None) equal to `found`: digest to key and holders.

    Gives the rows written.
    """
    table = identity_hubs
    stored = {digest: (key, count) for digest, key, count in read_hubs(connection)}
    if asked is not None:
        stored = {digest: stored[digest] for digest in asked if digest in stored}
    gone = sorted(digest for digest, row in stored.items() if found.get(digest) != row)
    for batch in batched(gone, _IN_LIST):
        connection.execute(table.delete().where(table.c.digest.in_(batch)))
    rows = [
        (digest, key, count)
        for digest, (key, count) in sorted(found.items())
        if stored.get(digest) != (key, count)
    ]
    insert_many(connection, table, ("digest", "key", "holders"), rows)
    return len(gone) + len(rows)


def store_seen(
    connection: sa.Connection,
    now: Mapping[RecordKey, State],
    keys: Mapping[RecordKey, Collection[int]],
    *,
    everything: bool,
) -> int:
    """Stores what a run saw: states of records, and the keys of the records in `keys`. Gives the records written.

    `everything`: these are all records, and all stored keys are replaced where a state is new. A record in `now`
    that is not in `keys` has none.
    """
    table = identity_records
    columns = ("number", "source", "source_id", "seen", "pictures")
    numbers = numbers_of(connection, None if everything else now.keys() | keys.keys())
    if everything:
        query = sa.select(*(table.c[name] for name in columns[1:]))
        stored = {(row[0], row[1]): State(*row[2:]) for row in connection.execute(query).all()}
        if stored == now:
            return 0
    new = sorted(key for key in now if key not in numbers)
    update = table.update().where(table.c.number == sa.bindparam("which"))
    changed = [{"which": numbers[key], **state._asdict()} for key, state in now.items() if key in numbers]
    for batch in batched(changed, _BATCH):
        connection.execute(update, batch)
    if everything:
        connection.execute(identity_keys.delete())
    else:
        for gone in batched(sorted(numbers.values()), _IN_LIST):
            connection.execute(identity_keys.delete().where(identity_keys.c.number.in_(gone)))
    first = (connection.scalar(sa.select(sa.func.max(table.c.number))) or 0) + 1
    numbers.update({key: first + place for place, key in enumerate(new)})
    insert_many(connection, table, columns, [(numbers[key], *key, *now[key]) for key in new])
    rows = sorted((digest, numbers[key]) for key, held in keys.items() for digest in set(held))
    insert_many(connection, identity_keys, ("digest", "number"), rows)
    return len(now)


def _text(time: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A time as it is stored: turning some hundred thousand into datetime objects would take a second."""
    return sa.type_coerce(time, sa.Text)
