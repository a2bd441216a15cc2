"""The contents of a performers.db on disk, for comparing two releases."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stash_sense_pipeline.foundation.errors import DatabaseFileError, ReleaseError
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.checks.opened_release import open_database
from stash_sense_pipeline.release.contract import PERFORMERS_DB, PERSONAL_FIELDS

_PICTURE = "source_endpoint, coalesce(image_url, '')"
COMPARED = ("canonical_name", *PERSONAL_FIELDS, "image_url")


@dataclass(frozen=True)
class Snapshot:
    """The contents of a performers.db: performers, their records and aliases, and the owner of each record and face.

    `people` has the columns of COMPARED by name. A record is (source, id there). `owner` maps a live record to its
    performer, `merged` a record that its stash-box merged into one of the performer's records.

    `faces` maps the URL of a picture to the (performer, source) of its faces. The faces of two releases are compared by
    their pictures: `faces.id` numbers the faces of one release, and means something else in releases of other programs
    and versions.
    """

    version: str
    people: dict[int, dict[str, object]]
    records: dict[int, set[tuple[str, str]]]
    owner: dict[tuple[str, str], int]
    merged: dict[tuple[str, str], int]
    aliases: dict[int, set[str]]
    faces: dict[str, list[tuple[int, str]]]

    @property
    def face_count(self) -> int:
        """The number of all faces."""
        return sum(map(len, self.faces.values()))

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


def read_face_pictures(release: Path) -> list[tuple[str, str]]:
    """(source, URL) of the picture of each face; ReleaseError when the database cannot be read."""
    with _opened(release) as connection:
        return [(row[0], row[1]) for row in connection.execute(f"SELECT {_PICTURE} FROM faces")]


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
        faces: dict[str, list[tuple[int, str]]] = {}
        # SQLite returns a new string for each row.
        sources: dict[str, str] = {}
        for source, url, performer_id in connection.execute(f"SELECT {_PICTURE}, performer_id FROM faces"):
            faces.setdefault(url, []).append((performer_id, sources.setdefault(source, source)))
    return Snapshot(str(manifest.get("version")), people, records, owner, merged, aliases, faces)


class LostFace(NamedTuple):
    """A face of the first of two snapshots that the second one lacks."""

    source: str
    url: str
    performer_id: int


@dataclass
class FaceChanges:
    """The faces that two snapshots do not share. `moved` counts those that have another performer in the second one."""

    lost: list[LostFace] = field(default_factory=list)
    added: int = 0
    moved: int = 0


def face_changes(old: Snapshot, new: Snapshot) -> FaceChanges:
    """Compares the faces of each picture. The faces of one picture are told apart by their performers."""
    changes = FaceChanges()
    for url in old.faces.keys() | new.faces.keys():
        shown = old.faces.get(url, [])
        if shown == new.faces.get(url):
            continue
        before = Counter(owner for owner, _ in shown)
        after = Counter(owner for owner, _ in new.faces.get(url, ()))
        left, come = sorted((before - after).elements()), sorted((after - before).elements())
        moved = min(len(left), len(come))
        changes.moved += moved
        changes.added += len(come) - moved
        sources = dict(shown)
        changes.lost += [LostFace(sources[owner], url, owner) for owner in left[moved:]]
    return changes


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
