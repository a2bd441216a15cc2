"""A client of sense2 releases, written from the contract alone: it updates, exports, applies deltas, and shares no code."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import sqlite3
import urllib.request
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from usearch.index import Index

DOMAINS = {
    "stashdb": "stashdb.org",
    "theporndb": "theporndb.net",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}
ORDER = list(DOMAINS)
# The columns of a delta's performers, and where the client puts them.
COLUMNS = {
    "name": "canonical_name",
    "disambiguation": "disambiguation",
    "gender": "gender",
    "country": "country",
    "ethnicity": "ethnicity",
    "birth_date": "birth_date",
    "death_date": "death_date",
    "height": "height_cm",
    "eye_color": "eye_color",
    "hair_color": "hair_color",
    "career_start_year": "career_start_year",
    "career_end_year": "career_end_year",
}


def unpack(path: Path, directory: Path) -> Path:
    """Unpacks a zip, as `extractall` does."""
    directory.mkdir(parents=True)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(directory)
    return directory


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def read_json(path: Path) -> Any:
    """The client reads in the encoding of its system: every system reads ASCII alike."""
    return json.loads(path.read_text(encoding="ascii"))


def load_index(path: Path) -> Index:
    index = Index(ndim=512, metric="cos")
    index.load(str(path))
    return index


def install(full: Path, directory: Path) -> Path:
    """Installs a full release: eight files with the checksums of the manifest."""
    unpack(full, directory)
    manifest = read_json(directory / "manifest.json")
    for name, stated in manifest["checksums"].items():
        assert stated == "sha256:" + hashlib.sha256((directory / name).read_bytes()).hexdigest()
    assert set(manifest["checksums"]) | {"manifest.json"} == {path.name for path in directory.iterdir()}
    return directory


# --- the export of section 1.3 ----------------------------------------------------------------------------------------


def universal_ids(connection: sqlite3.Connection) -> dict[int, str]:
    best: dict[int, tuple[int, str]] = {}
    for row in connection.execute("SELECT * FROM stashbox_ids"):
        endpoint = row["endpoint"]
        rank = ORDER.index(endpoint) if endpoint in ORDER else len(ORDER)
        uid = f"{DOMAINS.get(endpoint, endpoint + '.org')}:{row['stashbox_performer_id']}"
        number = row["performer_id"]
        if number not in best or rank < best[number][0]:
            best[number] = (rank, uid)
    found = {number: uid for number, (_, uid) in best.items()}
    for row in connection.execute("SELECT * FROM performer_urls WHERE url_type = 'catalogue'"):
        found.setdefault(row["performer_id"], f"{row['source_endpoint']}:{row['performer_id']}")
    for row in connection.execute("SELECT * FROM faces"):
        found.setdefault(row["performer_id"], f"{row['source_endpoint']}:{row['performer_id']}")
    return found


def export(connection: sqlite3.Connection) -> dict[str, Any]:
    """faces.json, performers.json and face_yaw.json of a database."""
    uids = universal_ids(connection)
    faces: list[str | None] = []
    yaw: list[float | None] = []
    for row in connection.execute("SELECT * FROM faces ORDER BY embedding_index"):
        missing = row["embedding_index"] - len(faces)
        faces += [None] * missing + [uids.get(row["performer_id"])]
        yaw += [None] * missing + [row["yaw"]]
    performers = {}
    for row in connection.execute("SELECT * FROM performers WHERE face_count > 0"):
        uid = uids.get(row["id"])
        if uid is not None:
            assert "." in uid.partition(":")[0], "a release of ours has stash-box records only"
            shown = (
                "country",
                "image_url",
                "face_count",
                "gender",
                "inferred_gender",
                "inferred_gender_confidence",
            )
            performers[uid] = {
                "name": html.unescape(row["canonical_name"]),
                **{key: row[key] for key in shown},
            }
    return {"faces.json": faces, "performers.json": performers, "face_yaw.json": yaw}


# --- the deltas of section 2.3 ----------------------------------------------------------------------------------------


def update(data: Path, delta: Path, version: str, work: Path) -> None:
    """Applies one delta to the installed files in `data`, and writes the JSON files and the manifest anew."""
    unpack(delta, work)
    stated = read_json(work / "delta_manifest.json")["checksums"]["delta.db"]
    kind, digest = stated.split(":")
    assert kind == "sha256"
    assert digest == hashlib.sha256((work / "delta.db").read_bytes()).hexdigest()
    index = load_index(data / "face_embeddings.usearch")
    with closing(opened(data / "performers.db")) as own, closing(opened(work / "delta.db")) as news:
        own.execute("BEGIN")
        _apply(own, news, index)
        own.execute("COMMIT")
        made = export(own)
    index.save(str(data / "face_embeddings.usearch"))
    for name, value in made.items():
        (data / name).write_text(json.dumps(value))
    manifest = read_json(data / "manifest.json")
    manifest |= {"version": version, "performer_count": len(made["performers.json"])}
    # The client counts the empty places too, and states five of the seven files.
    manifest["face_count"] = len(made["faces.json"])
    names = ("performers.db", "face_embeddings.usearch", *made)
    manifest["checksums"] = {name: f"sha256:{_digest(data / name)}" for name in names}
    (data / "manifest.json").write_text(json.dumps(manifest))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _number(own: sqlite3.Connection, row: sqlite3.Row) -> int | None:
    query = "SELECT performer_id FROM stashbox_ids WHERE endpoint = ? AND stashbox_performer_id = ?"
    found = own.execute(query, (row["endpoint"], row["stashbox_id"])).fetchone()
    return None if found is None else found[0]


def _apply(own: sqlite3.Connection, news: sqlite3.Connection, index: Index) -> None:
    touched: set[int] = set()
    for row in news.execute("SELECT * FROM performers ORDER BY rowid"):
        touched.add(_remove(own, row) if row["action"] == "removed" else _upsert(own, row))
    for row in news.execute("SELECT * FROM faces ORDER BY rowid"):
        owner = _number(own, row)
        if owner is None:
            continue
        touched |= {owner, _upsert_face(own, row, owner, index)}
    for row in news.execute("SELECT * FROM removed_faces ORDER BY rowid"):
        number = row["embedding_index"]
        if number in index:
            index.remove(number)
        for (owner,) in own.execute("SELECT performer_id FROM faces WHERE embedding_index = ?", (number,)):
            touched.add(owner)
        own.execute("DELETE FROM faces WHERE embedding_index = ?", (number,))
    tables = {name for (name,) in news.execute("SELECT name FROM sqlite_master")}
    if "catalogue_removed_performers" in tables:
        for row in news.execute("SELECT * FROM catalogue_removed_performers"):
            for (stray,) in own.execute(
                "SELECT embedding_index FROM faces WHERE performer_id = ?", (row["id"],)
            ):
                index.remove(stray)
            own.execute("DELETE FROM performers WHERE id = ?", (row["id"],))
    for number in touched:
        count = "(SELECT count(*) FROM faces WHERE performer_id = performers.id)"
        own.execute(f"UPDATE performers SET face_count = {count} WHERE id = ?", (number,))


def _remove(own: sqlite3.Connection, row: sqlite3.Row) -> int:
    number = _number(own, row)
    own.execute(
        "DELETE FROM stashbox_ids WHERE endpoint = ? AND stashbox_performer_id = ?",
        (row["endpoint"], row["stashbox_id"]),
    )
    if not own.execute("SELECT 1 FROM stashbox_ids WHERE performer_id = ?", (number,)).fetchone():
        own.execute("DELETE FROM aliases WHERE performer_id = ?", (number,))
        own.execute("DELETE FROM performers WHERE id = ?", (number,))
    return number or 0


def _upsert(own: sqlite3.Connection, row: sqlite3.Row) -> int:
    number = row["id"]
    known = _number(own, row)
    holder = own.execute("SELECT 1 FROM performers WHERE id = ?", (number,)).fetchone()
    # The guard of the client: another holder of the number would be moved to an invented one.
    assert known == number if known is not None else holder is None, "a number has moved"
    images = json.loads(row["images_json"])
    values = {ours: row[theirs] for theirs, ours in COLUMNS.items()}
    values["image_url"] = images[0]["url"] if images else None
    if row["endpoint"] == "stashdb":
        values["stashdb_updated_at"] = row["updated"]
    if known is None:
        own.execute("INSERT INTO performers (id, canonical_name, face_count) VALUES (?, '', 0)", (number,))
    assignments = ", ".join((*(f"{name} = ?" for name in values), "updated_at = datetime('now')"))
    own.execute(f"UPDATE performers SET {assignments} WHERE id = ?", (*values.values(), number))
    own.execute(
        "INSERT OR REPLACE INTO stashbox_ids (performer_id, endpoint, stashbox_performer_id) VALUES (?, ?, ?)",
        (number, row["endpoint"], row["stashbox_id"]),
    )
    own.execute(
        "DELETE FROM aliases WHERE performer_id = ? AND source_endpoint = ?", (number, row["endpoint"])
    )
    own.executemany(
        "INSERT OR IGNORE INTO aliases (performer_id, alias, source_endpoint) VALUES (?, ?, ?)",
        [(number, alias, row["endpoint"]) for alias in json.loads(row["aliases_json"])],
    )
    return number


def _upsert_face(own: sqlite3.Connection, row: sqlite3.Row, owner: int, index: Index) -> int:
    """Gives the owner before: its faces must be counted again."""
    number = row["embedding_index"]
    vector = np.frombuffer(row["embedding"], dtype="<f4")
    assert vector.shape == (512,)
    if number in index:
        index.remove(number)
    index.add(number, vector)
    values = {
        "performer_id": owner,
        "image_url": row["image_url"],
        "source_endpoint": row["endpoint"],
        "quality_score": row["quality_score"],
        "yaw": row["yaw"],
        "image_sha256": row["image_sha256"],
    }
    before = own.execute("SELECT performer_id FROM faces WHERE embedding_index = ?", (number,)).fetchone()
    if before is None:
        own.execute(
            "INSERT INTO faces (performer_id, embedding_index, source_endpoint) VALUES (?, ?, '')",
            (owner, number),
        )
    assignments = ", ".join(f"{name} = ?" for name in values)
    own.execute(f"UPDATE faces SET {assignments} WHERE embedding_index = ?", (*values.values(), number))
    return owner if before is None else before[0]


# --- releases, as section 2 has them ----------------------------------------------------------------------------------

_DELTA_NAME = re.compile(r"stash-sense2-delta-(?P<before>.+)-to-(?P<after>.+)\.zip")
_LINE = r"^{}:\s*([0-9a-fA-F]{{64}})\s*$"
_LINK_FILES = {"performer_links.json": "links-sha256", "aliases.json": "aliases-sha256"}
Release = dict[str, Any]


@dataclass(frozen=True)
class Updater:
    """An installation in `data` that follows a list of releases as GitHub answers it, the newest first."""

    data: Path
    work: Path

    @property
    def version(self) -> str | None:
        manifest = self.data / "manifest.json"
        return read_json(manifest)["version"] if manifest.exists() else None

    def update(self, releases: Sequence[Release]) -> str:
        """Brings the installation to the newest release. Gives the way: "current", "deltas" or "full"."""
        newest = _version(releases[0])
        if self.version is not None and newest <= self.version:
            return "current"
        lines = [re.search(r"^min-sidecar-version:\s*(\S+)", each["body"], re.M | re.I) for each in releases]
        assert all(line and line[1] == "0.47.3" for line in lines)
        chain = self._chain(releases)
        for step, release in enumerate(chain):
            path = self._fetch(release, _DELTA_NAME)
            update(self.data, path, _version(release), self.work / f"step-{newest}-{step}")
        if not chain:
            shutil.rmtree(self.data, ignore_errors=True)
            install(self._fetch(releases[0], re.compile(r"stash-sense2-data-.*\.zip")), self.data)
        self.sync_links(releases)
        return "deltas" if chain else "full"

    def _chain(self, releases: Sequence[Release]) -> list[Release]:
        """The releases with the deltas from this version to the newest; none when a step is missing."""
        steps = {}
        for release in releases[:30]:
            names = [_DELTA_NAME.fullmatch(asset["name"]) for asset in release["assets"]]
            first = next((name for name in names if name), None)
            if first:
                steps[_version(release)] = (first["before"], release)
        chain: list[Release] = []
        at = _version(releases[0])
        while at != self.version:
            if at not in steps:
                return []
            at, release = steps[at]
            chain.insert(0, release)
        return chain

    def sync_links(self, releases: Sequence[Release]) -> list[str]:
        """Replaces the files that are not those of the notes of the installed version. Gives their names."""
        release = next((each for each in releases[:10] if _version(each) == self.version), None)
        if release is None:
            return []
        lines = {
            name: re.search(_LINE.format(word), release["body"], re.M) for name, word in _LINK_FILES.items()
        }
        stated = {name: line[1].lower() for name, line in lines.items() if line}
        assert stated.keys() == _LINK_FILES.keys()
        stale = [
            name
            for name, digest in stated.items()
            if not (self.data / name).exists() or _digest(self.data / name) != digest
        ]
        if stale:
            path = self._fetch(release, re.compile(r"stash-sense2-links-.+\.zip"))
            shutil.rmtree(self.work / "links", ignore_errors=True)
            found = unpack(path, self.work / "links")
            for name, digest in stated.items():
                assert _digest(found / name) == digest
                read_json(found / name)
                if name in stale and (self.data / name).exists():
                    shutil.copy(self.data / name, self.data / f"{name}.prev")
                shutil.copy(found / name, self.data / name)
        return stale

    def _fetch(self, release: Release, name: re.Pattern[str]) -> Path:
        """Downloads the first asset of that name."""
        asset = next(each for each in release["assets"] if name.fullmatch(each["name"]))
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / asset["name"]
        with urllib.request.urlopen(asset["browser_download_url"]) as answer:
            path.write_bytes(answer.read())
        return path


def _version(release: Release) -> str:
    return str(release["tag_name"]).lstrip("v")


# --- what a client holds ----------------------------------------------------------------------------------------------


def state(data: Path) -> dict[str, Any]:
    """Everything that two equal installations have in common: rows without ids of their own, vectors, JSON files.

    `updated_at` is the time at which a client applied a row.
    """
    with closing(opened(data / "performers.db")) as connection:
        tables = {}
        for name in ("performers", "stashbox_ids", "aliases", "performer_urls", "faces"):
            columns = [row["name"] for row in connection.execute(f"PRAGMA table_info({name})")]
            own = {"updated_at"} if name == "performers" else {"id"}
            shown = [column for column in columns if column not in own]
            rows = connection.execute(f"SELECT {', '.join(shown)} FROM {name}")
            tables[name] = sorted((tuple(row) for row in rows), key=repr)
            if name == "performers":
                tables["columns"] = shown
        keys = [row[0] for row in connection.execute("SELECT embedding_index FROM faces ORDER BY 1")]
    index = load_index(data / "face_embeddings.usearch")
    assert len(index) == len(keys)
    vectors = {key: np.asarray(index.get(key), dtype=np.float32).tobytes() for key in keys}
    names = ("faces.json", "performers.json", "face_yaw.json")
    files = {name: read_json(data / name) for name in names}
    manifest = read_json(data / "manifest.json")
    stated = {key: manifest[key] for key in ("version", "performer_count")}
    return {**tables, **files, **stated, "vectors": vectors}
