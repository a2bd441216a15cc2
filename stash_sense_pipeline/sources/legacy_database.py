"""Reads the predecessor's performers.db."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import DatabaseFileError
from stash_sense_pipeline.foundation.sqlite_file import check_objects, open_read_only, run_checks
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.sources.cleaning.addresses import link
from stash_sense_pipeline.sources.cleaning.dates import birth_date, death_date
from stash_sense_pipeline.sources.cleaning.numbers import SHORTEST_CM, TALLEST_CM, whole, year
from stash_sense_pipeline.sources.cleaning.text import (
    clean_texts,
    distinct,
    enumeration,
    label,
    text,
)
from stash_sense_pipeline.sources.legacy_data import (
    FIRST_SCHEMA,
    LAST_SCHEMA,
    MAX_ID,
    LegacyPerson,
    Places,
    count_of,
    refused_file,
)

_TABLES = (
    "schema_version",
    "performers",
    "stashbox_ids",
    "aliases",
    "external_urls",
    "merged_ids",
    "faces",
)
# Rows of one table, all of which are kept in memory.
_MAX_ROWS = 3_000_000
# The predecessor took the fields of a person from the first of these that it read.
_ORDER = ("stashdb", "theporndb", "fansdb", "pmvstash", "javstash")


@dataclass
class _Row:
    """A row of `performers` with its rows of the other tables, by endpoint."""

    fields: Mapping[str, Any]
    records: list[tuple[str, RecordKey]] = field(default_factory=list)
    aliases: defaultdict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    urls: defaultdict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    merged: list[tuple[str, RecordKey]] = field(default_factory=list)
    faces: int | None = None


@dataclass(frozen=True)
class DatabaseContent:
    """The people of a performers.db. `used_up_to` is the highest performer id, `unusable` the number of skipped rows."""

    people: tuple[LegacyPerson, ...]
    used_up_to: int
    unusable: int


def read_database(path: Path, places: Places) -> DatabaseContent:
    """Reads a performers.db. Raises ConfigurationError when it is unreadable, damaged or of another schema version."""
    try:
        with open_read_only(path, log=True) as connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda data: data.decode(errors="replace")
            _check_schema(path, connection)
            rows, unusable = _rows(connection, places)
    except OSError as error:
        raise refused_file(path, f"cannot be read ({error.strerror})") from error
    except DatabaseFileError as error:
        raise refused_file(path, f"cannot be read ({error})") from error
    people = [_person(performer_id, row) for performer_id, row in rows.items()]
    return DatabaseContent(
        people=tuple(person for person in people if person is not None),
        used_up_to=max(rows, default=0),
        unusable=unusable + people.count(None),
    )


def _rows(connection: sqlite3.Connection, places: Places) -> tuple[dict[int, _Row], int]:
    """The performers by id, with their rows of the other tables, and the number of rows without a valid id."""
    rows: dict[int, _Row] = {}
    unusable = 0
    for fields in _table(connection, "performers"):
        performer_id = fields.get("id")
        if not isinstance(performer_id, int) or not 0 < performer_id <= MAX_ID:
            unusable += 1
            continue
        rows[performer_id] = _Row(fields, faces=count_of(fields.get("face_count")))
    for row, fields in _belonging_rows(connection, "stashbox_ids", rows):
        place = text(fields.get("endpoint")) or ""
        key = places.record(place, fields.get("stashbox_performer_id"))
        if key is not None:
            row.records.append((place, key))
    for row, fields in _belonging_rows(connection, "aliases", rows):
        row.aliases[text(fields.get("source_endpoint"))].append(text(fields.get("alias")) or "")
    for row, fields in _belonging_rows(connection, "external_urls", rows):
        row.urls[text(fields.get("source_endpoint"))].append(text(fields.get("url")) or "")
    for row, fields in _belonging_rows(connection, "merged_ids", rows):
        place = text(fields.get("endpoint")) or ""
        key = places.record(place, fields.get("merged_stashbox_id"))
        if key is not None:
            row.merged.append((place, key))
    counts = Counter(
        fields["performer_id"]
        for _, fields in _belonging_rows(connection, "faces", rows)
        if not fields.get("pruned")
    )
    if counts:
        # Not all versions kept the column face_count up to date.
        for performer_id, row in rows.items():
            row.faces = counts[performer_id]
    return rows, unusable


def _person(performer_id: int, row: _Row) -> LegacyPerson | None:
    """None for a performer without a name, or without a record in a configured source."""
    name = text(row.fields.get("canonical_name"))
    if name is None or not row.records:
        return None
    row.records.sort(key=lambda each: (_ORDER.index(each[0]) if each[0] in _ORDER else len(_ORDER), each))
    survivors = {source: source_id for _, (source, source_id) in reversed(row.records)}
    records = {key for _, key in row.records}
    image = text(row.fields.get("image_url"))
    links = [url for urls in row.urls.values() for url in urls]
    return LegacyPerson(
        performer_id=performer_id,
        records={
            key: _record(key[1], name, place, row, main=number == 0)
            for number, (place, key) in enumerate(row.records)
        },
        merged={key: survivors.get(key[0]) for _, key in row.merged if key not in records},
        links=clean_texts([*links, *([image] if image else [])]),
        birth_date=birth_date(row.fields.get("birth_date")),
        career_start_year=year(row.fields.get("career_start_year")),
        faces=row.faces,
    )


def _record(source_id: str, name: str, place: str, row: _Row, *, main: bool) -> PerformerRecord:
    """One record: the values from its own stash-box; for the `main` record also the values without an origin."""
    origins = (place, None) if main else (place,)
    record = PerformerRecord(
        source_id,
        name,
        aliases=clean_texts(alias for origin in origins for alias in row.aliases.get(origin, ())),
        urls=distinct(link(url) for origin in origins for url in row.urls.get(origin, ())),
    )
    if not main:
        return record
    fields = row.fields
    return replace(
        record,
        disambiguation=text(fields.get("disambiguation")),
        gender=enumeration(fields.get("gender")),
        birth_date=birth_date(fields.get("birth_date")),
        death_date=death_date(fields.get("death_date")),
        country=label(fields.get("country")),
        ethnicity=enumeration(fields.get("ethnicity")),
        eye_color=enumeration(fields.get("eye_color")),
        hair_color=enumeration(fields.get("hair_color")),
        height_cm=whole(fields.get("height_cm"), SHORTEST_CM, TALLEST_CM),
        career_start_year=year(fields.get("career_start_year")),
        career_end_year=year(fields.get("career_end_year")),
    )


def _check_schema(path: Path, connection: sqlite3.Connection) -> None:
    # Unknown tables are allowed. Objects that compute values when they are read, such as views, are refused.
    check_objects(connection, None)
    try:
        run_checks(connection, _TABLES, _MAX_ROWS)
    except DatabaseFileError as error:
        raise refused_file(path, f"is damaged ({error})") from error
    versions = [row.get("version") for row in _table(connection, "schema_version")]
    whole = [version for version in versions if isinstance(version, int)]
    if not whole or not FIRST_SCHEMA <= max(whole) <= LAST_SCHEMA:
        raise refused_file(
            path, f"has the schema version {max(whole)}" if whole else "names no schema version"
        )
    if not list(connection.execute("SELECT name FROM sqlite_master WHERE name = 'performers'")):
        raise refused_file(path, "has no table performers")


def _table(connection: sqlite3.Connection, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a table; none when the table is missing."""
    if connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
    ).fetchone():
        for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid"):
            yield dict(row)


def _belonging_rows(
    connection: sqlite3.Connection, name: str, rows: Mapping[int, _Row]
) -> Iterator[tuple[_Row, dict[str, Any]]]:
    """The rows of a table, each with its performer; rows without a known performer are left out."""
    for fields in _table(connection, name):
        row = rows.get(fields.get("performer_id", 0))
        if row is not None:
            yield row, fields
