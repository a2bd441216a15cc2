"""Deletes mentions of erased records from rows about other people: log, evidence, sync states, raw fields, links."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import of_keys, record_key, rows_of
from stash_sense_pipeline.catalog.schema import (
    identity_evidence,
    identity_hubs,
    identity_log,
    performer_urls,
    source_performers,
    sync_state,
)
from stash_sense_pipeline.privacy.linked_records import LinkedPerson
from stash_sense_pipeline.privacy.redaction.mentions import ERASED, mentions_records
from stash_sense_pipeline.privacy.suppression.suppression_hashes import RECORD, record_hash, url_digests
from stash_sense_pipeline.records.record_key import RecordKey

# With more records all evidence is read, as the database would compare each row with each of them.
_NAMED_IN_A_QUERY = 400
# A shorter id may be an ordinary word or number in the raw fields of other records.
_SHORTEST_ID_IN_RAW = 8


def forget_mentions(connection: sa.Connection, records: Collection[RecordKey]) -> None:
    """Deletes mentions of these records in the identity log, evidence, hubs, states of sources and raw fields."""
    if not records:
        return
    names_one = mentions_records(records)
    log = streamed(connection, sa.select(identity_log.c.entry, identity_log.c.detail))
    mentioned = {entry for entry, detail in log if names_one(detail)}
    delete_rows(connection, identity_log, identity_log.c.entry, mentioned)
    _forget_evidence(connection, records, names_one)
    hubs = connection.execute(sa.select(identity_hubs.c.digest, identity_hubs.c.key))
    delete_rows(
        connection, identity_hubs, identity_hubs.c.digest, {digest for digest, key in hubs if names_one(key)}
    )
    _forget_states(connection, records, names_one)
    _forget_raw(connection, records)


def _forget_evidence(
    connection: sa.Connection, records: Collection[RecordKey], names_one: Callable[[Any], bool]
) -> None:
    """Deletes evidence between other records that rests on a page of these, and blanks reasons that name these."""
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
        # The key of a stash-box page is `source:id`.
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
    """Removes the ids of these records from the raw fields of others."""
    table = source_performers
    names_one = mentions_records({record for record in records if len(record[1]) >= _SHORTEST_ID_IN_RAW})
    rows = connection.execute(
        sa.select(table.c.source, table.c.source_id, table.c.raw).where(sa.cast(table.c.raw, sa.Text) != "{}")
    )
    naming = [(source, source_id, raw) for source, source_id, raw in rows if raw and names_one(raw)]
    for source, source_id, raw in naming:
        of_record = (table.c.source == source) & (table.c.source_id == source_id)
        connection.execute(sa.update(table).where(of_record).values(raw=_without(raw, names_one)))


def forget_links(connection: sa.Connection, key: bytes, person: LinkedPerson) -> None:
    """Deletes the links of other people to the stash-box pages of these records, as the links hold the ids."""
    table = performer_urls
    theirs = {record_hash(key, *record) for record in (*person.records, *person.other_ids)}
    columns = sa.select(table.c.source, table.c.source_id, table.c.url)
    links = list(rows_of(connection, columns, record_key(table), person.other_listers))
    for source, source_id, url in links:
        if any(kind == RECORD and digest in theirs for kind, digest in url_digests(key, url)):
            of_other = (table.c.source == source) & (table.c.source_id == source_id) & (table.c.url == url)
            connection.execute(sa.delete(table).where(of_other))


def _without(value: Any, is_one: Callable[[str], bool]) -> Any:
    """A JSON value without the keys, values and list items for which `is_one` is true."""
    if isinstance(value, dict):
        return {
            key: _without(item, is_one)
            for key, item in value.items()
            if not is_one(key) and not (isinstance(item, str) and is_one(item))
        }
    if isinstance(value, list):
        return [_without(item, is_one) for item in value if not (isinstance(item, str) and is_one(item))]
    return value


def delete_rows(
    connection: sa.Connection, table: sa.Table, key: sa.ColumnElement[Any], keys: Collection[Any]
) -> int:
    """Deletes the rows of these keys and returns how many they were."""
    return sum(connection.execute(sa.delete(table).where(chosen)).rowcount for chosen in of_keys(key, keys))
