"""Writes faces.json and performers.json."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import read_only_sqlite, write_atomically
from stash_sense_pipeline.release.build.shown_names import NAMESAKE_COLUMNS, NamedPerson, shown_names
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.contract import FACES_JSON, PERFORMERS_DB, PERFORMERS_JSON, endpoint_rank
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY

# The page of the sidecar inserts names, countries and addresses into HTML as they are.
_MARKUP = str.maketrans({"<": "\u2039", ">": "\u203a", '"': "\u201d"})
_MARKUP_OF_ADDRESSES = str.maketrans({"<": "%3C", ">": "%3E", '"': "%22", " ": "%20"})


@dataclass(frozen=True)
class JsonReport:
    """The number of entries of each file."""

    faces: int
    performers: int


def universal_ids(
    database: Path, hosts: Mapping[str, str], priority: Sequence[str] = ENDPOINT_PRIORITY
) -> dict[int, str]:
    """The universal id `host:record` of every performer in a performers.db, from its endpoint with the highest priority.

    Raises ReleaseError when a performer has no record in `hosts`, or when two share one id.
    """
    with closing(sqlite3.connect(read_only_sqlite(database), uri=True)) as connection:
        performers = [row[0] for row in connection.execute("SELECT id FROM performers ORDER BY id")]
        records = connection.execute(
            "SELECT performer_id, endpoint, stashbox_performer_id FROM stashbox_ids"
        ).fetchall()
    named: dict[int, str] = {}
    records.sort(key=lambda row: (row[0], endpoint_rank(row[1], hosts, priority), row[2]))
    for performer_id, endpoint, record in records:
        if endpoint in hosts:
            named.setdefault(performer_id, f"{hosts[endpoint]}:{record}")
    nameless = [performer for performer in performers if performer not in named]
    if nameless:
        raise ReleaseError(
            f"performer {nameless[0]} has no record in a configured stash-box, and therefore no universal id"
        )
    owners: dict[str, int] = {}
    for performer_id, uid in named.items():
        other = owners.setdefault(uid, performer_id)
        if other != performer_id:
            raise ReleaseError(
                f"performers {other} and {performer_id} share the universal id {uid}; give their stash-boxes different hosts"
            )
    return named


def write_json_files(
    release: Path,
    hosts: Mapping[str, str],
    priority: Sequence[str] = ENDPOINT_PRIORITY,
    namesakes: Sequence[str] = (),
) -> JsonReport:
    """Writes both files beside the performers.db in `release`, with sorted keys and stable bytes.

    The sidecar shows the names of performers.json: those of people of one name are told apart by the rule `namesakes`.
    performers.db has the plain names.

    The sidecar's page inserts these texts into HTML as they are, so none of them holds markup.

    faces.json: a list, position = id in every index, value = universal id. performers.json: universal id →
    {name, country, image_url, face_count}.
    """
    database = release / PERFORMERS_DB
    try:
        named = universal_ids(database, hosts, priority)
        with closing(sqlite3.connect(read_only_sqlite(database), uri=True)) as connection:
            owners = connection.execute("SELECT performer_id FROM faces ORDER BY facenet_index").fetchall()
            people = connection.execute(
                "SELECT id, canonical_name, country, image_url, face_count FROM performers ORDER BY id"
            ).fetchall()
            shown = shown_names(read_named_people(connection), namesakes)
    except sqlite3.Error as error:
        raise ReleaseError(f"cannot read the staged {PERFORMERS_DB}: {error}") from error
    faces = [named[performer_id] for (performer_id,) in owners]
    performers = {
        named[number]: {
            "name": without_markup(shown.get(number, name)),
            "country": None if country is None else without_markup(country),
            "image_url": None if image_url is None else escaped_address(image_url),
            "face_count": face_count,
        }
        for number, name, country, image_url, face_count in people
    }
    with disk_errors(f"write the JSON files of {release}"):
        write_atomically(release / FACES_JSON, stable_json(faces))
        write_atomically(release / PERFORMERS_JSON, stable_json(performers))
    return JsonReport(len(faces), len(performers))


def without_markup(text: str) -> str:
    """The text with similar signs in place of those that begin or end a tag or the value of an attribute."""
    return text.translate(_MARKUP)


def escaped_address(address: str) -> str:
    """The address with blanks, quotation marks and angle brackets escaped, as a browser does."""
    return address.translate(_MARKUP_OF_ADDRESSES)


def read_named_people(connection: sqlite3.Connection) -> list[NamedPerson]:
    """The people of a performers.db with their names, for shown_names."""
    columns = ", ".join(NAMESAKE_COLUMNS)
    rows = connection.execute(f"SELECT id, canonical_name, {columns} FROM performers ORDER BY id")
    return [
        NamedPerson(number, name, dict(zip(NAMESAKE_COLUMNS, values, strict=True)))
        for number, name, *values in rows
    ]


def stable_json(value: Any) -> str:
    """Compact JSON with sorted keys: equal values give equal bytes. ASCII: sidecars read in the encoding of their system."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n"
