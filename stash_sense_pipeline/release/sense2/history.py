"""Earlier sense2 releases: their versions, people in them who have left since, and the difference between two of them."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.sense2.ledger import Publication, newest_publication
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ArchiveError, DatabaseFileError, ReleaseError
from stash_sense_pipeline.foundation.json_file import SMALL, parse_json, read_json
from stash_sense_pipeline.foundation.zip_file import open_zip
from stash_sense_pipeline.privacy.redaction.mentions import texts_of
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release.checks.opened_release import room_to_unpack
from stash_sense_pipeline.release.checks.suppression_check import HeldKeys, Keys
from stash_sense_pipeline.release.sense2.contract import (
    DELTA_DB,
    INDEX,
    LINKS_JSON,
    PERFORMERS_DB,
    TABLES,
    VERSION_FORM,
    domain,
    full_zip,
    zip_kind,
)
from stash_sense_pipeline.release.sense2.opened import ZIP_LIMITS, OpenedFiles

# Where the databases have the source and the id of a record.
_ID_COLUMNS = (("stashbox_ids", ("endpoint", "stashbox_performer_id")),)
_DELTA_ID_COLUMNS = (
    ("performers", ("endpoint", "stashbox_id")),
    ("performers", ("endpoint", "merged_into_id")),
    ("faces", ("endpoint", "stashbox_id")),
)
# The number of faces follows from the faces.
_COMPARED = tuple(name for name in TABLES["performers"] if name != "face_count")
# The report of a release, in its directory.
REPORT = "report.json"
_DAMAGE = (ArchiveError, DatabaseFileError, sqlite3.Error, ValueError, OSError)


@dataclass(frozen=True)
class RevokedSense2:
    """A version with zips that name suppressed people, and the numbers of their records and addresses.

    `zips`: the file names of these zips. `newest`: it is the newest version here. `removed`: it was deleted here.
    """

    version: str
    zips: tuple[str, ...]
    records: int
    urls: int
    newest: bool
    removed: bool


def sense2_versions(data_dir: Path) -> tuple[str, ...]:
    """The versions under `<data_dir>/sense2`, oldest first."""
    root = data_dir / "sense2"
    found = root.iterdir() if root.is_dir() else ()
    return tuple(sorted(path.name for path in found if VERSION_FORM.fullmatch(path.name) and path.is_dir()))


def list_sense2(data_dir: Path) -> list[dict[str, Any]]:
    """The versions, oldest first, with their counts and the bytes of their zips. ReleaseError when a report is damaged."""
    rows = []
    for version in sense2_versions(data_dir):
        path = data_dir / "sense2" / version / REPORT
        try:
            report = read_json(path, SMALL)
            sizes = {zip_kind(name): size for name, size in report["sizes"].items()}
            rows.append(
                {
                    "version": version,
                    "performers": report["performers"],
                    "faces": report["faces"],
                    "full_bytes": sizes["data"],
                    "delta_bytes": sizes.get("delta"),
                    "links_bytes": sizes["links"],
                }
            )
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise ReleaseError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return rows


def full_zip_of(data_dir: Path, named: str) -> Path:
    """The full zip of a version or of `latest`. ReleaseError when there is none."""
    versions = sense2_versions(data_dir)
    version = versions[-1] if named == "latest" and versions else named
    if version not in versions:
        raise ReleaseError(
            f"there is no sense2 release {named} in {data_dir / 'sense2'}; see stash-sense releases list --format sense2"
        )
    return data_dir / "sense2" / version / full_zip(version)


def foreign_release(engine: sa.Engine, data_dir: Path) -> dict[str, Any]:
    """The report of a release on disk that is later than all that the catalog knows; empty without one.

    Its numbers were given by a catalog that is lost, or by a publish that was killed at the end. They are not used again.
    """
    with reading(engine) as connection:
        known = newest_publication(connection)
    versions = sense2_versions(data_dir)
    if not versions or (known is not None and versions[-1] <= known.version):
        return {}
    path = data_dir / "sense2" / versions[-1] / REPORT
    try:
        report = read_json(path, SMALL)
        stated = {name: report[name] for name in ("version", "next_number", "next_index")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ReleaseError(
            f"cannot read {path}: {error}; without it a number could be used twice: restore the file"
        ) from error
    return stated


def next_version(data_dir: Path, newest: Publication | None, on: date) -> str:
    """The version of a release made on a day: that day, or the day after the newest release, whichever is later."""
    taken = [*sense2_versions(data_dir), *([newest.version] if newest else [])]
    today = on.strftime("%Y.%m.%d")
    if not taken or max(taken) < today:
        return today
    last = datetime.strptime(max(taken), "%Y.%m.%d").date()  # noqa: DTZ007 a day has no zone
    return (last + timedelta(days=1)).strftime("%Y.%m.%d")


def revoked_sense2(
    data_dir: Path, suppressions: Suppressions, endpoints: Mapping[str, str], *, delete: bool = False
) -> tuple[RevokedSense2, ...]:
    """The versions under `<data_dir>/sense2` with a full zip, a delta or links that name a suppressed person.

    A delta names people that it adds or changes, and records that it removes. `endpoints`: the stash-boxes, by
    short name. With `delete` these versions are removed here, except the newest: publish a new one first. Raises
    ReleaseError, before anything is removed, when a zip cannot be read and therefore not searched.
    """
    versions = sense2_versions(data_dir)
    found: dict[str, dict[str, HeldKeys]] = {}
    damaged = []
    for version in versions:
        for path in sorted((data_dir / "sense2" / version).iterdir()):
            if zip_kind(path.name) is None:
                continue
            try:
                held = held_in_zip(path, suppressions, endpoints)
            except _DAMAGE:
                damaged.append(path.name)
                continue
            if held.any:
                found.setdefault(version, {})[path.name] = held
    if damaged:
        raise ReleaseError(
            f"{', '.join(damaged)} in {data_dir / 'sense2'} cannot be read, and may name suppressed people; remove it"
        )
    revoked = []
    for version, zips in found.items():
        is_newest = version == versions[-1]
        removed = delete and not is_newest
        if removed:
            shutil.rmtree(data_dir / "sense2" / version)
        revoked.append(
            RevokedSense2(
                version,
                tuple(zips),
                max(held.records for held in zips.values()),
                max(held.urls for held in zips.values()),
                is_newest,
                removed,
            )
        )
    return tuple(revoked)


def names_suppressed(directory: Path, suppressions: Suppressions, endpoints: Mapping[str, str]) -> bool:
    """Whether a zip of this version names a suppressed person, or cannot be read."""
    zips = [path for path in sorted(directory.iterdir()) if zip_kind(path.name) is not None]
    try:
        return any(held_in_zip(path, suppressions, endpoints).any for path in zips)
    except _DAMAGE:
        return True


def held_in_zip(path: Path, suppressions: Suppressions, endpoints: Mapping[str, str]) -> HeldKeys:
    """Counts suppressed records and addresses in a zip of a sense2 release. Raises an error when it cannot be read."""
    with _unpacked(path, without=(INDEX,)) as opened:
        return held_in_files(opened, suppressions, endpoints)


def held_in_files(opened: OpenedFiles, suppressions: Suppressions, endpoints: Mapping[str, str]) -> HeldKeys:
    """Counts suppressed records and addresses in the files of one zip. Raises an error when one cannot be read."""
    keys = Keys()
    names = {member.name for member in opened.directory.iterdir()}
    if names & {PERFORMERS_DB, DELTA_DB}:
        with opened.database() as connection:
            is_delta = DELTA_DB in names
            keys.add_database(connection, _DELTA_ID_COLUMNS if is_delta else _ID_COLUMNS)
            if is_delta:
                for row in connection.execute("SELECT aliases_json, images_json FROM performers"):
                    for text in row:
                        keys.add_texts(texts_of(parse_json(text or "[]", SMALL)))
    for name in sorted(names):
        if name.endswith(".json"):
            keys.add_texts(texts_of(opened.json(name)))
    return keys.held(suppressions, {endpoint: domain(endpoint) for endpoint in endpoints})


@contextmanager
def _unpacked(path: Path, without: Collection[str] = ()) -> Iterator[OpenedFiles]:
    """The files of a directory, or of a zip except those named in `without`."""
    if path.is_dir():
        yield OpenedFiles(path)
        return
    with open_zip(path, ZIP_LIMITS) as archive, room_to_unpack(archive, path) as directory:
        for name in archive.sizes:
            if name not in without:
                archive.extract(name, directory / name)
        yield OpenedFiles(directory)


# --- the difference between two releases ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sense2Diff:
    """What changed from one full release to another, in universal ids and embedding indices.

    `changed`: performers of which a row or an alias differs. `moved`: faces under another performer. `redone`: faces with
    another vector, image or angle. `links`: groups that are in one of them only.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    new_faces: tuple[int, ...]
    gone_faces: tuple[int, ...]
    moved: tuple[int, ...]
    redone: tuple[int, ...]
    links: int

    @property
    def any(self) -> bool:
        """True when anything differs."""
        people = self.added or self.removed or self.changed or self.links
        return bool(people or self.new_faces or self.gone_faces or self.moved or self.redone)


@dataclass(frozen=True)
class _State:
    people: Mapping[str, bytes]
    faces: Mapping[int, tuple[str, bytes]]
    groups: frozenset[frozenset[str]]


def diff_sense2(a: Path, b: Path) -> Sense2Diff:
    """Compares two full releases, each a zip or a directory with its files. ReleaseError when one cannot be read."""
    before, after = _state(a), _state(b)
    both = before.people.keys() & after.people.keys()
    faces = before.faces.keys() & after.faces.keys()
    return Sense2Diff(
        added=tuple(sorted(after.people.keys() - before.people.keys())),
        removed=tuple(sorted(before.people.keys() - after.people.keys())),
        changed=tuple(sorted(uid for uid in both if before.people[uid] != after.people[uid])),
        new_faces=tuple(sorted(after.faces.keys() - before.faces.keys())),
        gone_faces=tuple(sorted(before.faces.keys() - after.faces.keys())),
        moved=tuple(sorted(each for each in faces if before.faces[each][0] != after.faces[each][0])),
        redone=tuple(sorted(each for each in faces if before.faces[each][1] != after.faces[each][1])),
        links=len(before.groups ^ after.groups),
    )


def _state(path: Path) -> _State:
    try:
        with _unpacked(path) as opened:
            return _read_state(opened)
    except _DAMAGE as error:
        raise ReleaseError(f"{path} cannot be compared: {error}") from error


def _read_state(opened: OpenedFiles) -> _State:
    if not (opened.directory / INDEX).exists():
        raise ValueError("it is no full release")
    with opened.database() as connection:
        records = connection.execute(
            "SELECT performer_id, endpoint, stashbox_performer_id FROM stashbox_ids"
        ).fetchall()
        uids = {number: f"{domain(endpoint)}:{record}" for number, endpoint, record in records}
        aliases: dict[int, list[str]] = {}
        for number, alias in connection.execute("SELECT performer_id, alias FROM aliases ORDER BY alias"):
            aliases.setdefault(number, []).append(alias)
        people = {
            uids.get(row[0], str(row[0])): _digest(row[1:], aliases.get(row[0]))
            for row in connection.execute(f"SELECT {', '.join(_COMPARED)} FROM performers")
        }
        vectors = {
            int(key): hashlib.sha256(vector.tobytes()).digest()
            for keys, rows in opened.index.blocks()
            for key, vector in zip(keys, rows, strict=True)
        }
        query = "SELECT embedding_index, performer_id, image_url, quality_score, yaw FROM faces"
        faces = {
            index: (uids.get(owner, str(owner)), _digest(*shown, vectors.get(index)))
            for index, owner, *shown in connection.execute(query)
        }
    return _State(people, faces, frozenset(frozenset(group) for group in opened.json_list(LINKS_JSON)))


def _digest(*values: object) -> bytes:
    return hashlib.sha256(repr(values).encode()).digest()
