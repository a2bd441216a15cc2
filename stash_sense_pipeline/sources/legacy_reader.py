"""Reads the predecessor's files: progress.json, performers.json, performers.db.

Their shapes:

- progress.json, version 1: `{"processed_ids": [id, ...]}`; version 2: `{"schema_version": 2, "performers": {id:
  {"faces_indexed", "images_processed", "images_available", "last_synced"}}}`. An id is that of a performer on StashDB,
  or has the host of its stash-box before it (`fansdb.cc:<id>`).
- performers.json: `{"<host>:<id>": {"name", "country", "image_url", "face_count"}}`.
- performers.db: SQLite, schema versions 3 to 9. Only the table `performers` must be there.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ConfigurationError, DatabaseFileError
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.foundation.sqlite_file import check_objects, open_read_only, run_checks
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.settings.known_sources import KNOWN_STASH_BOXES
from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources.cleaning.addresses import link
from stash_sense_pipeline.sources.cleaning.dates import birth_date, death_date
from stash_sense_pipeline.sources.cleaning.numbers import SHORTEST_CM, TALLEST_CM, whole, year
from stash_sense_pipeline.sources.cleaning.text import (
    clean_text,
    clean_texts,
    distinct,
    enumeration,
    label,
    text,
)

PROGRESS, PERFORMERS, DATABASE = "progress.json", "performers.json", "performers.db"


_FIRST_SCHEMA, _LAST_SCHEMA = 3, 9
_MAX_ID = 2**31 - 1
_TABLES = (
    "schema_version",
    "performers",
    "stashbox_ids",
    "aliases",
    "external_urls",
    "merged_ids",
    "faces",
)
# Rows of one table; they are held in memory.
_MAX_ROWS = 3_000_000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OTHER_ID = re.compile(r"[\w.-]{1,100}")
# The predecessor made a person of the first of these that it met.
_ORDER = ("stashdb", "theporndb", "fansdb", "pmvstash", "javstash")
# Whose performers an id without a host is of.
_BARE_IDS = "stashdb"
_SHAPES = {
    PROGRESS: "version 1 with a list `processed_ids`, or version 2 with an object `performers`",
    PERFORMERS: 'an object {"<host>:<id>": {"name", "country", "image_url", "face_count"}}',
    DATABASE: f"an SQLite database of schema version {_FIRST_SCHEMA} to {_LAST_SCHEMA}",
}


@dataclass(frozen=True)
class LegacyPerson:
    """One person of the predecessor.

    `performer_id`: its id in performers.db. `records`: what it says of each stash-box record, the fields of the
    person in the first one, and only the name in others. `merged`: records that were merged into this person's, each
    with the id of the survivor in the same source, if there is one. `links`: all URLs of the person, the image's too.
    `birth_date` is as it was written. `faces`: how many it had, None unknown.
    """

    performer_id: int | None
    records: Mapping[RecordKey, PerformerRecord]
    merged: Mapping[RecordKey, str | None]
    links: tuple[str, ...]
    birth_date: str | None
    career_start_year: int | None
    faces: int | None


@dataclass(frozen=True)
class Legacy:
    """All that was found. `faces_and_images` of a record: faces the predecessor had, and images that it had looked at
    (None unknown). `used_up_to`: highest performer id. `unusable`: entries without a name or without a real id, and
    those that are of another form than a performer.
    `elsewhere`: entries by stash-box that is none of ours.
    """

    files: tuple[str, ...]
    people: tuple[LegacyPerson, ...]
    faces_and_images: Mapping[RecordKey, tuple[int, int | None]]
    used_up_to: int
    unusable: int
    elsewhere: Mapping[str, int]


def read_legacy(directory: Path, boxes: Collection[StashBoxSettings]) -> Legacy:
    """Reads the files of a predecessor that are in `directory`. Records of stash-boxes that are not in `boxes` do not
    count.

    Raises ConfigurationError, naming the file and what was expected, when one cannot be read, is damaged or of an
    unknown version, or when there is none at all.
    """
    present = tuple(name for name in _SHAPES if (directory / name).exists())
    if not present:
        names = ", ".join(_SHAPES)
        raise ConfigurationError(f"{directory}: nothing to take over; expected at least one of {names} in it")
    reader = _Reader(_Places(boxes))
    if DATABASE in present:
        reader.read_database(directory / DATABASE)
    if PERFORMERS in present:
        reader.read_performers(directory / PERFORMERS)
    if PROGRESS in present:
        reader.read_progress(directory / PROGRESS)
    return reader.result(present)


class _Places:
    """Which of our sources an endpoint's short name or a host of the predecessor means."""

    def __init__(self, boxes: Collection[StashBoxSettings]) -> None:
        self._boxes = {box.name: box for box in boxes}
        by_host = {box.host: box.name for box in reversed(tuple(boxes))}
        known = {name: by_host.get(str(values["host"])) for name, values in KNOWN_STASH_BOXES.items()}
        self._sources = {**known, **by_host, **{name: name for name in self._boxes}}
        self.elsewhere: Counter[str] = Counter()

    def record(self, place: str, source_id: Any) -> RecordKey | None:
        """The key of a record of ours; None for another stash-box, and for what is no id."""
        source = self._sources.get(place)
        if source is None:
            self.elsewhere[label(place) or "an unreadable place"] += 1
            return None
        stated = clean_text(str(source_id))
        if self._boxes[source].connector == "stash_box":
            stated = stated.lower()
            return (source, stated) if _UUID.fullmatch(stated) else None
        return (source, stated) if _OTHER_ID.fullmatch(stated) else None

    def universal(self, text: str) -> RecordKey | None:
        """The key of a universal id, `<host>:<id>`, or of a bare one."""
        place, _, source_id = text.rpartition(":")
        return self.record(place or _BARE_IDS, source_id)


@dataclass
class _Row:
    """A row of `performers` with what the other tables hang on it, by endpoint."""

    fields: Mapping[str, Any]
    records: list[tuple[str, RecordKey]] = field(default_factory=list)
    aliases: defaultdict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    urls: defaultdict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    merged: list[tuple[str, RecordKey]] = field(default_factory=list)
    faces: int | None = None


class _Reader:
    def __init__(self, places: _Places) -> None:
        self._places = places
        self._people: list[LegacyPerson] = []
        self._known: dict[RecordKey, tuple[int, int | None]] = {}
        self._named: set[RecordKey] = set()
        self._used_up_to = 0
        self._unusable = 0

    def result(self, files: tuple[str, ...]) -> Legacy:
        return Legacy(
            files=files,
            people=tuple(self._people),
            faces_and_images=self._known,
            used_up_to=self._used_up_to,
            unusable=self._unusable,
            elsewhere=dict(sorted(self._places.elsewhere.items())),
        )

    # --- performers.db ----------------------------------------------------------------------------

    def read_database(self, path: Path) -> None:
        try:
            with open_read_only(path, log=True) as connection:
                connection.row_factory = sqlite3.Row
                connection.text_factory = lambda data: data.decode(errors="replace")
                _check_schema(path, connection)
                rows = self._rows(path, connection)
        except OSError as error:
            raise _refused(path, f"cannot be read ({error.strerror})") from error
        except DatabaseFileError as error:
            raise _refused(path, f"cannot be read ({error})") from error
        for performer_id, row in rows.items():
            self._add_row(performer_id, row)

    def _rows(self, path: Path, connection: sqlite3.Connection) -> dict[int, _Row]:
        rows: dict[int, _Row] = {}
        for fields in _table(connection, "performers"):
            performer_id = fields.get("id")
            if not isinstance(performer_id, int) or not 0 < performer_id <= _MAX_ID:
                self._unusable += 1
                continue
            rows[performer_id] = _Row(fields, faces=_count(fields.get("face_count")))
        for row, fields in _hanging(connection, "stashbox_ids", rows):
            place = text(fields.get("endpoint")) or ""
            key = self._places.record(place, fields.get("stashbox_performer_id"))
            if key is not None:
                row.records.append((place, key))
        for row, fields in _hanging(connection, "aliases", rows):
            row.aliases[text(fields.get("source_endpoint"))].append(text(fields.get("alias")) or "")
        for row, fields in _hanging(connection, "external_urls", rows):
            row.urls[text(fields.get("source_endpoint"))].append(text(fields.get("url")) or "")
        for row, fields in _hanging(connection, "merged_ids", rows):
            place = text(fields.get("endpoint")) or ""
            key = self._places.record(place, fields.get("merged_stashbox_id"))
            if key is not None:
                row.merged.append((place, key))
        counts = Counter(
            fields["performer_id"]
            for _, fields in _hanging(connection, "faces", rows)
            if not fields.get("pruned")
        )
        if counts:
            # The column was not kept up to date by all versions.
            for performer_id, row in rows.items():
                row.faces = counts[performer_id]
        return rows

    def _add_row(self, performer_id: int, row: _Row) -> None:
        self._used_up_to = max(self._used_up_to, performer_id)
        name = text(row.fields.get("canonical_name"))
        if name is None or not row.records:
            self._unusable += 1
            return
        row.records.sort(key=lambda each: (_ORDER.index(each[0]) if each[0] in _ORDER else len(_ORDER), each))
        survivors = {source: source_id for _, (source, source_id) in reversed(row.records)}
        records = {key for _, key in row.records}
        image = text(row.fields.get("image_url"))
        links = [url for urls in row.urls.values() for url in urls]
        self._add(
            LegacyPerson(
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
        )

    # --- the JSON files ---------------------------------------------------------------------------

    def read_performers(self, path: Path) -> None:
        for universal_id, entry in self._entries(path, _json(path)):
            key = self._places.universal(universal_id)
            faces = _count(entry.get("face_count"))
            if key is None:
                continue
            if key in self._named:
                if faces is not None:
                    self._raise_faces(key, faces)
                continue
            name, image = text(entry.get("name")), text(entry.get("image_url"))
            if name is None:
                self._unusable += 1
                continue
            self._add(
                LegacyPerson(
                    performer_id=None,
                    records={key: PerformerRecord(key[1], name, country=label(entry.get("country")))},
                    merged={},
                    links=(image,) if image else (),
                    birth_date=None,
                    career_start_year=None,
                    faces=faces,
                )
            )

    def read_progress(self, path: Path) -> None:
        data = _json(path)
        version = _progress_version(path, data)
        if version == 1:
            for stated in data["processed_ids"]:
                key = self._places.universal(stated) if isinstance(stated, str) else None
                if not isinstance(stated, str):
                    self._unusable += 1
                if key is not None:
                    self._raise_faces(key, 0)
            return
        for stated, entry in self._entries(path, data["performers"]):
            key = self._places.universal(stated)
            faces, images = (_count(entry.get(name)) or 0 for name in ("faces_indexed", "images_processed"))
            if key is not None:
                self._raise_faces(key, faces)
                self._known[key] = (self._known[key][0], images)

    def _entries(self, path: Path, data: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The entries of an object that are objects themselves."""
        if not isinstance(data, dict):
            raise _refused(path, "does not hold an object of performers")
        for key, entry in data.items():
            if isinstance(entry, dict):
                yield key, entry
            else:
                self._unusable += 1

    def _add(self, person: LegacyPerson) -> None:
        self._people.append(person)
        self._named.update(person.records)
        if person.faces is not None:
            for key in person.records:
                self._raise_faces(key, person.faces)

    def _raise_faces(self, key: RecordKey, faces: int) -> None:
        known, images = self._known.get(key, (0, None))
        self._known[key] = (max(known, faces), images)


def _record(source_id: str, name: str, place: str, row: _Row, *, main: bool) -> PerformerRecord:
    """What is said of one record: what came from its own stash-box, and for the main one what has no origin."""
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


# --- SQLite -------------------------------------------------------------------------------------------------------


def _check_schema(path: Path, connection: sqlite3.Connection) -> None:
    # Other tables than ours may be there; what is computed while it is read may not.
    check_objects(connection, None)
    try:
        run_checks(connection, _TABLES, _MAX_ROWS)
    except DatabaseFileError as error:
        raise _refused(path, f"is damaged ({error})") from error
    versions = [row.get("version") for row in _table(connection, "schema_version")]
    whole = [version for version in versions if isinstance(version, int)]
    if not whole or not _FIRST_SCHEMA <= max(whole) <= _LAST_SCHEMA:
        raise _refused(path, f"has the schema version {max(whole)}" if whole else "names no schema version")
    if not list(connection.execute("SELECT name FROM sqlite_master WHERE name = 'performers'")):
        raise _refused(path, "has no table performers")


def _table(connection: sqlite3.Connection, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a table, or none if there is no such table."""
    if connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
    ).fetchone():
        for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid"):
            yield dict(row)


def _hanging(
    connection: sqlite3.Connection, name: str, rows: Mapping[int, _Row]
) -> Iterator[tuple[_Row, dict[str, Any]]]:
    """The rows of a table with the performer that each belongs to; rows of nobody are left out."""
    for fields in _table(connection, name):
        row = rows.get(fields.get("performer_id", 0))
        if row is not None:
            yield row, fields


def _count(value: Any) -> int | None:
    return whole(value, 0, _MAX_ID)


# --- JSON ---------------------------------------------------------------------------------------------------------


def _json(path: Path) -> Any:
    try:
        return read_json(path, LARGE)
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _refused(path, f"is not JSON, or is cut off ({error})") from error


def _progress_version(path: Path, data: Any) -> int:
    if not isinstance(data, dict):
        raise _refused(path, "is not an object")
    implied = 2 if "performers" in data else 1
    version = data.get("schema_version", data.get("version", implied))
    if version not in (1, 2) or isinstance(version, bool):
        raise _refused(path, f"is of version {version!r}")
    name, kind = ("processed_ids", list) if version == 1 else ("performers", dict)
    if not isinstance(data.get(name), kind):
        raise _refused(path, f"is of version {version} without {name}")
    return int(version)


def _refused(path: Path, problem: str) -> ConfigurationError:
    shape = _SHAPES[path.name]
    return ConfigurationError(
        f"{path}: {' '.join(problem.split())}; expected {shape}. Nothing was taken over"
    )
