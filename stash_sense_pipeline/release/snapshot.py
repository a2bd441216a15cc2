"""The contents of a performers.db on disk, for comparing two releases."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.foundation.errors import DatabaseFileError, ReleaseError
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.checks.opened_release import open_database
from stash_sense_pipeline.release.contract import PERFORMERS_DB, PERSONAL_FIELDS

COMPARED = ("canonical_name", *PERSONAL_FIELDS, "image_url")


@dataclass(frozen=True)
class Snapshot:
    """The contents of a performers.db: performers, their records and aliases, and the owner of each record and face.

    `people` has the columns of COMPARED by name. A record is (source, id there), a face is (face id, image URL). `owner`
    maps a live record to its performer, `merged` a record that its stash-box merged into one of the performer's records.
    """

    version: str
    people: dict[int, dict[str, object]]
    records: dict[int, set[tuple[str, str]]]
    owner: dict[tuple[str, str], int]
    merged: dict[tuple[str, str], int]
    aliases: dict[int, set[str]]
    faces: dict[tuple[int, str], int]

    def name(self, performer_id: int) -> str:
        """The performer's name."""
        return str(self.people[performer_id]["canonical_name"])

    def current_owner(self, record: tuple[str, str]) -> int | None:
        """The performer of this record, or of the record that its stash-box merged it into."""
        return self.owner.get(record, self.merged.get(record))


@contextmanager
def _opened(release: Path) -> Iterator[sqlite3.Connection]:
    try:
        with open_database(release) as connection:
            connection.row_factory = sqlite3.Row
            yield connection
    except OSError as error:
        raise ReleaseError(f"cannot read {release / PERFORMERS_DB}: {error.strerror}") from error
    except DatabaseFileError as error:
        raise ReleaseError(f"cannot read {release / PERFORMERS_DB}: {error}") from error


def read_face_sources(release: Path) -> dict[int, str]:
    """The source of each face by face id; ReleaseError when the database cannot be read."""
    with _opened(release) as connection:
        return {row[0]: row[1] for row in connection.execute("SELECT id, source_endpoint FROM faces")}


def read_owners(release: Path) -> dict[tuple[str, str], int]:
    """The performer of each stash-box record (source, id there); ReleaseError when the database cannot be read."""
    with _opened(release) as connection:
        return _owners(connection)


def _owners(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    rows = connection.execute("SELECT endpoint, stashbox_performer_id, performer_id FROM stashbox_ids")
    return {(row[0], row[1]): row[2] for row in rows}


def read_snapshot(release: Path) -> Snapshot:
    """Reads a release directory; ReleaseError when its manifest or its database cannot be read."""
    manifest = read_manifest(release)
    with _opened(release) as connection:
        columns = ", ".join(COMPARED)
        people = {row["id"]: dict(row) for row in connection.execute(f"SELECT id, {columns} FROM performers")}
        records: dict[int, set[tuple[str, str]]] = defaultdict(set)
        owner = _owners(connection)
        for record, performer_id in owner.items():
            records[performer_id].add(record)
        merged = {
            (row[0], row[1]): row[2]
            for row in connection.execute("SELECT endpoint, merged_stashbox_id, performer_id FROM merged_ids")
        }
        aliases: dict[int, set[str]] = defaultdict(set)
        for row in connection.execute("SELECT performer_id, alias FROM aliases"):
            aliases[row[0]].add(row[1])
        faces = {
            (row[0], row[1]): row[2]
            for row in connection.execute("SELECT id, coalesce(image_url, ''), performer_id FROM faces")
        }
    return Snapshot(str(manifest.get("version")), people, records, owner, merged, aliases, faces)


def merged_performers(old: Snapshot, new: Snapshot) -> dict[int, set[int]]:
    """Maps each performer of `new` that holds records of several performers of `old` to these.

    With the arguments swapped it finds splits. A record that a stash-box merged belongs to the performer of the
    remaining record.
    """
    into: dict[int, set[int]] = defaultdict(set)
    for record in old.owner.keys() | old.merged.keys():
        before, after = old.current_owner(record), new.current_owner(record)
        if before is not None and after is not None:
            into[after].add(before)
    return {performer: olds for performer, olds in into.items() if len(olds) > 1}
