"""Writes performers.db, and makes the three JSON files of it as the client does after each delta."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import read_only_sqlite, write_atomically
from stash_sense_pipeline.release.contract import PERSONAL_FIELDS
from stash_sense_pipeline.release.sense2.content import Content, plain_text
from stash_sense_pipeline.release.sense2.contract import (
    FACES_JSON,
    INDEXES,
    PERFORMERS_JSON,
    SCHEMA,
    YAW_JSON,
    universal_id,
)

# The order in which the client takes the record of a performer that has several.
_CLIENT_PRIORITY = ("stashdb", "theporndb", "fansdb", "pmvstash", "javstash")
# A performer is shown with these columns in performers.json.
_SHOWN = (
    "name",
    "country",
    "image_url",
    "face_count",
    "gender",
    "inferred_gender",
    "inferred_gender_confidence",
)


class Table(NamedTuple):
    """A table to write: its name, the columns that are filled, and the rows in their order."""

    name: str
    columns: Sequence[str]
    rows: Iterator[tuple[Any, ...]]


def write_database(path: Path, schema: str, indexes: str, tables: Iterator[Table]) -> None:
    """Fills a scratch database beside `path`, and vacuums it into `path`: equal rows give equal bytes."""
    scratch = path.with_name(f"{path.name}.scratch")
    for leftover in (scratch, path):
        leftover.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(scratch, isolation_level=None)) as connection:
            # The scratch file need not survive a crash.
            for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
                connection.execute(f"PRAGMA {setting}")
            connection.executescript(schema)
            connection.execute("BEGIN")
            for table in tables:
                columns, values = ", ".join(table.columns), ", ".join("?" * len(table.columns))
                connection.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({values})", table.rows)
            connection.execute("COMMIT")
            connection.executescript(indexes)
            connection.execute("VACUUM INTO ?", (str(path),))
    except sqlite3.Error as error:
        raise ReleaseError(f"cannot write {path.name}: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def write_performers_db(content: Content, path: Path) -> None:
    """Writes the database of a full release. Columns that are not named here are empty."""
    write_database(path, SCHEMA, INDEXES, _tables(content))


def _tables(content: Content) -> Iterator[Table]:
    people = content.performers
    columns = ("id", "canonical_name", *PERSONAL_FIELDS, "face_count", "image_url")
    rows = ((row.number, row.name, *row.fields, row.face_count, row.image_url) for row in people)
    yield Table("performers", columns, rows)
    records = ((row.number, row.endpoint, row.record) for row in people)
    yield Table("stashbox_ids", ("performer_id", "endpoint", "stashbox_performer_id"), records)
    aliases = ((row.number, alias, row.endpoint) for row in people for alias in row.aliases)
    yield Table("aliases", ("performer_id", "alias", "source_endpoint"), aliases)
    endpoints = {row.number: row.endpoint for row in people}
    faces = (
        (face.embedding_index, face.owner, face.image_url, endpoints[face.owner], face.quality, face.yaw)
        for face in content.faces
    )
    shown = ("embedding_index", "performer_id", "image_url", "source_endpoint", "quality_score", "yaw")
    yield Table("faces", shown, faces)


# --- the client's export ----------------------------------------------------------------------------------------------


class Exported(NamedTuple):
    """What the client makes of a database: faces.json, performers.json and face_yaw.json."""

    faces: list[str | None]
    performers: dict[str, dict[str, Any]]
    yaw: list[float | None]


def write_exported(database: Path, directory: Path) -> Exported:
    """Writes the three JSON files of a performers.db to `directory`, in the client's form."""
    with closing(sqlite3.connect(read_only_sqlite(database), uri=True)) as connection:
        made = exported(connection)
    write_atomically(directory / FACES_JSON, json.dumps(made.faces))
    write_atomically(directory / PERFORMERS_JSON, json.dumps(made.performers, indent=2))
    write_atomically(directory / YAW_JSON, json.dumps(made.yaw))
    return made


def exported(connection: sqlite3.Connection) -> Exported:
    """The three JSON files of an opened performers.db."""
    uids = _universal_ids(connection)
    rows = connection.execute(
        "SELECT embedding_index, performer_id, yaw FROM faces ORDER BY embedding_index"
    ).fetchall()
    length = rows[-1][0] + 1 if rows else 0
    faces: list[str | None] = [None] * length
    yaw: list[float | None] = [None] * length
    for index, owner, angle in rows:
        faces[index], yaw[index] = uids.get(owner), angle
    return Exported(faces, _performers(connection, uids), yaw)


def _performers(connection: sqlite3.Connection, uids: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    links = _catalogue_links(connection)
    columns = ", ".join(("canonical_name", *_SHOWN[1:]))
    found: dict[str, dict[str, Any]] = {}
    for number, *values in connection.execute(
        f"SELECT id, {columns} FROM performers WHERE face_count > 0 ORDER BY id"
    ):
        uid = uids.get(number)
        if uid is None:
            continue
        found[uid] = dict(zip(_SHOWN, values, strict=True)) | {"name": plain_text(values[0])}
        prefix = uid.partition(":")[0]
        if "." not in prefix:
            listed = links.get(number, {})
            found[uid] |= {
                "source": listed.get("source") or prefix,
                "catalogue_url": listed.get("catalogue"),
                "profile_url": listed.get("profile"),
            }
    return found


def _universal_ids(connection: sqlite3.Connection) -> dict[int, str]:
    """The universal id of each performer: of its first stash-box record, else of a catalogue, else of its faces' source."""
    records = connection.execute(
        "SELECT performer_id, endpoint, stashbox_performer_id FROM stashbox_ids"
    ).fetchall()
    records.sort(key=lambda row: _CLIENT_PRIORITY.index(row[1]) if row[1] in _CLIENT_PRIORITY else 9)
    found: dict[int, str] = {}
    for number, endpoint, record in records:
        found.setdefault(number, universal_id(endpoint, record))
    queries = (
        "SELECT performer_id, source_endpoint FROM performer_urls WHERE url_type = 'catalogue' ORDER BY id",
        "SELECT performer_id, min(source_endpoint) FROM faces GROUP BY performer_id",
    )
    for query in queries:
        for number, source in connection.execute(query):
            found.setdefault(number, f"{source}:{number}")
    return found


def _catalogue_links(connection: sqlite3.Connection) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    query = "SELECT performer_id, url, url_type, source_endpoint FROM performer_urls ORDER BY id"
    for number, url, kind, source in connection.execute(query):
        entry = found.setdefault(number, {})
        entry[kind] = url
        if kind == "catalogue":
            entry["source"] = source
    return found
