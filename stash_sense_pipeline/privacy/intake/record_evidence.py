"""The evidence of a record: ids, names, dates and URLs, by which it is recognised later."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import record_key, rows_of
from stash_sense_pipeline.catalog.schema import performer_aliases, performer_urls, source_performers
from stash_sense_pipeline.records.record_key import OTHER_IDS, ImageKey, RecordKey


@dataclass(frozen=True)
class RecordEvidence:
    """The evidence of a record. `other_ids` are further ids of it at its source, such as a slug or a number."""

    source: str
    source_id: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    birth_date: str | None = None
    gender: str | None = None
    country: str | None = None
    urls: tuple[str, ...] = ()
    merged_ids: tuple[str, ...] = ()
    other_ids: tuple[str, ...] = ()

    @property
    def record(self) -> RecordKey:
        """(source, source_id)."""
        return self.source, self.source_id


class Relatives(Protocol):
    """Finds records of the same person by the rules of identity, a package that this one must not import."""

    @property
    def hosts(self) -> Mapping[str, str]:
        """The hosts of the stash-boxes by source name."""
        ...

    def of(
        self,
        connection: sa.Connection,
        stored: Collection[RecordKey],
        unstored: Collection[RecordEvidence],
        is_other: Callable[[RecordKey], bool],
    ) -> set[RecordKey]:
        """The stored live records that link, directly or through others, to stored ones or to records in memory.

        `is_other` is true for a record that the operator has declared another person: it is linked to none.
        """
        ...

    def disowned(self, records: Collection[RecordKey]) -> set[ImageKey]:
        """The images that show no face of the person with these records, by the verdicts of the operator."""
        ...


def read_evidence(
    connection: sa.Connection, records: Collection[RecordKey] | None = None
) -> dict[RecordKey, RecordEvidence]:
    """The evidence of these stored records, or of all. Ids that were merged away are those of the survivor."""
    table, others, links = source_performers, performer_aliases, performer_urls
    aliases = _texts(connection, others, others.c.alias, records)
    urls = _texts(connection, links, links.c.url, records)
    merged: dict[RecordKey, list[str]] = {}
    into = sa.select(table.c.source, table.c.merged_into, table.c.source_id).where(
        table.c.merged_into.is_not(None)
    )
    for source, survivor, source_id in connection.execute(into):
        merged.setdefault((source, survivor), []).append(source_id)
    columns = sa.select(
        table.c.source,
        table.c.source_id,
        table.c.name,
        table.c.birth_date,
        table.c.gender,
        table.c.country,
        *(table.c.raw[name].as_string() for name in OTHER_IDS),
    )
    rows = (
        connection.execute(columns)
        if records is None
        else rows_of(connection, columns, record_key(table), records)
    )
    found: dict[RecordKey, RecordEvidence] = {}
    for source, source_id, name, birth_date, gender, country, *called in rows:
        record = (source, source_id)
        found[record] = RecordEvidence(
            source,
            source_id,
            name or "",
            tuple(sorted(aliases.get(record, ()))),
            birth_date,
            gender,
            country,
            tuple(sorted(urls.get(record, ()))),
            tuple(sorted(merged.get(record, ()))),
            tuple(each for each in called if each),
        )
    return found


def _texts(
    connection: sa.Connection, table: sa.Table, column: sa.Column[str], records: Collection[RecordKey] | None
) -> Mapping[RecordKey, list[str]]:
    query = sa.select(table.c.source, table.c.source_id, column)
    rows = (
        connection.execute(query)
        if records is None
        else rows_of(connection, query, record_key(table), records)
    )
    found: dict[RecordKey, list[str]] = {}
    for source, source_id, text in rows:
        found.setdefault((source, source_id), []).append(text)
    return found
