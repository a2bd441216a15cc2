"""A reader of releases, written from the contract alone. It loads, queries and matches as the public sidecar does."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import voyager

_PERFORMER_FIELDS = (
    "id canonical_name disambiguation gender country ethnicity birth_date death_date height_cm eye_color hair_color "
    "career_start_year career_end_year scene_count stashdb_updated_at face_count image_url created_at updated_at"
)


@dataclass(frozen=True)
class Match:
    universal_id: str
    name: str
    distance: float


class Sidecar:
    def __init__(self, release: Path) -> None:
        self.indices: dict[str, Any] = {}
        for model in ("facenet", "arcface"):
            with (release / f"face_{model}.voy").open("rb") as stream:
                self.indices[model] = voyager.Index.load(stream)
        self.faces = json.loads((release / "faces.json").read_text())
        self.performers = json.loads((release / "performers.json").read_text())
        self.manifest = json.loads((release / "manifest.json").read_text())
        self.database = release / "performers.db"

    def identify(
        self, vectors: Mapping[str, np.ndarray], limit: int = 3, max_distance: float = 0.5
    ) -> list[Match]:
        """Fuses the 100 nearest faces of each index: half of each distance, 0.5 where an index did not return the face."""
        found: dict[int, dict[str, float]] = {}
        for model, index in self.indices.items():
            ids, distances = index.query(vectors[model], k=100)
            for number, distance in zip(ids, distances, strict=True):
                found.setdefault(int(number), {})[model] = float(distance)
        ranked = sorted(
            (0.5 * seen.get("facenet", 0.5) + 0.5 * seen.get("arcface", 0.5), number)
            for number, seen in found.items()
        )
        matches = []
        for distance, number in ranked:
            if distance > max_distance or number >= len(self.faces) or self.faces[number] is None:
                continue
            uid = self.faces[number]
            matches.append(Match(uid, self.performers.get(uid, {}).get("name", "Unknown"), distance))
        return matches[:limit]

    def rows(self, table: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]

    def performers_as_read(self) -> list[dict[str, Any]]:
        """Unpacks every column into fixed fields, so that one column more or less is a TypeError."""
        rows = self.rows("performers")
        for row in rows:
            if set(row) != set(_PERFORMER_FIELDS.split()):
                raise TypeError(sorted(set(row) ^ set(_PERFORMER_FIELDS.split())))
        return rows


_REQUIRED = (
    "performers.db",
    "face_facenet.voy",
    "face_arcface.voy",
    "faces.json",
    "performers.json",
    "manifest.json",
)
_OPTIONAL = ("face_adaface.voy", "tattoo_embeddings.voy", "tattoo_embeddings.json")


class Updater:
    """The sidecar's updater as its contract describes it: latest release, text order of tags, first zip, flat."""

    def __init__(self, data: Path, api: str) -> None:
        self.data = data
        self.api = api

    def current(self) -> str | None:
        manifest = self.data / "manifest.json"
        return json.loads(manifest.read_text()).get("version") if manifest.exists() else None

    def available(self) -> tuple[str, str] | None:
        """Version and address of the zip of an update, if there is one."""
        answer = httpx.get(f"{self.api}/latest")
        if answer.status_code == 404:
            return None
        release = answer.raise_for_status().json()
        version = release["tag_name"].lstrip("v")
        if not version > (self.current() or ""):
            return None
        asset = next(asset for asset in release["assets"] if asset["name"].endswith(".zip"))
        return version, asset["browser_download_url"]

    def update(self) -> str | None:
        found = self.available()
        if found is None:
            return None
        version, address = found
        work = self.data / "work"
        with zipfile.ZipFile(BytesIO(httpx.get(address).raise_for_status().content)) as archive:
            archive.extractall(work)
        for name in _REQUIRED:
            if not (work / name).is_file():
                raise FileNotFoundError(name)
        for name, stated in json.loads((work / "manifest.json").read_text())["checksums"].items():
            digest = hashlib.sha256((work / name).read_bytes()).hexdigest()
            if digest != stated.split(":")[-1]:
                raise ValueError(name)
        for name in (*_REQUIRED, *_OPTIONAL):
            if (work / name).is_file():
                (work / name).replace(self.data / name)
        work.rmdir()
        if self.current() != version:
            raise ValueError(
                "the tag is not the version of the manifest: an update would be offered for ever"
            )
        return version
