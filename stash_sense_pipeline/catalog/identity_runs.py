"""What an identity run leaves for the next one: what it saw of each record, the keys it found it by, hubs, settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    identity_hubs,
    identity_keys,
    identity_records,
    identity_runs,
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.templates import own_faces
from stash_sense_pipeline.catalog.upsert import batched

RecordKey = tuple[str, str]

_BATCH = 5_000
# Below SQLite's bound on parameters, two a record.
_IN_LIST = 400


class Seen(NamedTuple):
    """A record as the last run saw it."""

    number: int
    fingerprint: int


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


def fingerprints(connection: sa.Connection, models: Mapping[str, str]) -> dict[RecordKey, int]:
    """A fingerprint of each record that changes when identity would see it otherwise.

    It covers the record, how many aliases and links it has and how long they are, its pictures and its faces with
    vectors of all `models` (name to digest). What a sync writes changes `changed_at` in any case.
    """
    record, alias, url = source_performers.c, performer_aliases.c, performer_urls.c
    shown, image = performer_images.c, source_images.c
    pictures = (
        sa.select(shown.source, shown.source_id, sa.func.count(), sa.func.max(_text(image.processed_at)))
        .select_from(performer_images)
        .join(source_images, (image.source == shown.source) & (image.image_id == shown.image_id))
        .where(image.state == "done", image.sha256.is_not(None))
        .group_by(shown.source, shown.source_id)
    )
    faces = own_faces(models).subquery()
    parts: dict[RecordKey, str] = defaultdict(str)
    for number, query in enumerate((
        _lengths(alias.source, alias.source_id, alias.alias),
        _lengths(url.source, url.source_id, url.url),
        pictures,
        sa.select(faces.c.source, faces.c.source_id, sa.func.count(), sa.func.sum(faces.c.face_id)).group_by(
            faces.c.source, faces.c.source_id
        ),
    )):  # fmt: skip
        for source, source_id, *facts in connection.execute(query):
            parts[source, source_id] += f"{number}{facts}"
    columns = (record.name, record.gender, record.birth_date, record.country, record.merged_into)
    query = sa.select(
        record.source, record.source_id, *columns, _text(record.deleted_at), _text(record.changed_at)
    )
    return {
        (source, source_id): _digest(f"{facts}{parts.get((source, source_id))}")
        for source, source_id, *facts in connection.execute(query)
    }


def seen(connection: sa.Connection) -> dict[RecordKey, Seen]:
    """Every record that a run has seen and that is still there."""
    table = identity_records.c
    query = sa.select(table.source, table.source_id, table.number, table.fingerprint)
    return {
        (source, source_id): Seen(number, fingerprint)
        for source, source_id, number, fingerprint in connection.execute(query)
    }


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
        {"digest": digest, "key": key, "holders": count}
        for digest, (key, count) in sorted(found.items())
        if stored.get(digest) != (key, count)
    ]
    _insert(connection, table, rows)
    return len(gone) + len(rows)


def store_seen(
    connection: sa.Connection,
    before: Mapping[RecordKey, Seen],
    fingerprints: Mapping[RecordKey, int],
    keys: Mapping[RecordKey, Collection[int]],
    *,
    everything: bool,
) -> int:
    """Stores what a run saw: fingerprints, and the keys of the records in `keys`. Gives the rows written.

    `everything`: `keys` holds all live records, and all stored keys are replaced. A record in `fingerprints` that is
    not in `keys` has none.
    """
    table = identity_records
    new = sorted(key for key in fingerprints if key not in before)
    changed = [
        {"which": before[key].number, "now": fingerprint}
        for key, fingerprint in fingerprints.items()
        if key in before and before[key].fingerprint != fingerprint
    ]
    numbers = {key: row.number for key, row in before.items()}
    first = (connection.scalar(sa.select(sa.func.max(table.c.number))) or 0) + 1
    numbers.update({key: first + place for place, key in enumerate(new)})
    _insert(
        connection,
        table,
        [
            {
                "number": numbers[source, source_id],
                "source": source,
                "source_id": source_id,
                "fingerprint": fingerprints[source, source_id],
            }
            for source, source_id in new
        ],
    )
    if changed:
        update = table.update().where(table.c.number == sa.bindparam("which"))
        for batch in batched(changed, _BATCH):
            connection.execute(update.values(fingerprint=sa.bindparam("now")), batch)
    if everything and not new and not changed:
        return 0
    if everything:
        connection.execute(identity_keys.delete())
    else:
        gone = sorted(numbers[key] for key in fingerprints.keys() | keys.keys() if key in before)
        for numbers_gone in batched(gone, _IN_LIST):
            connection.execute(identity_keys.delete().where(identity_keys.c.number.in_(numbers_gone)))
    rows = sorted((digest, numbers[key]) for key, held in keys.items() for digest in set(held))
    _insert(connection, identity_keys, [{"digest": digest, "number": number} for digest, number in rows])
    return len(new) + len(changed) + len(rows)


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    for batch in batched(rows, _BATCH):
        connection.execute(table.insert(), batch)


def _lengths(
    source: sa.ColumnElement[str], source_id: sa.ColumnElement[str], text: sa.ColumnElement[str]
) -> sa.Select[Any]:
    """How many there are of each record, and how long they are together."""
    facts: tuple[Any, ...] = (source, source_id, sa.func.count(), sa.func.sum(sa.func.length(text)))
    return sa.select(*facts).group_by(source, source_id)


def _text(time: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A time as it is stored: turning some hundred thousand into datetime objects would take a second."""
    return sa.type_coerce(time, sa.Text)


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
