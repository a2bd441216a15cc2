"""A reader of releases, written from the contract alone. It loads, queries and matches as the public sidecar does."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
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


# So many faces the sidecar asks for in each query, and so many of them decide whether an answer is generic.
_NEIGHBOURS, _JUDGED = 100, 20


@dataclass(frozen=True)
class Match:
    universal_id: str
    name: str
    distance: float


def fused_distances(
    ids: Mapping[str, np.ndarray], distances: Mapping[str, np.ndarray]
) -> list[tuple[float, int]]:
    """The ranking for one query, as (fused distance, position), nearest first.

    It is half of each model's distance. A model that did not return the face counts with a distance of 0.5.
    """
    found: dict[int, dict[str, float]] = {}
    for model, positions in ids.items():
        for position, distance in zip(positions.tolist(), distances[model].tolist(), strict=True):
            found.setdefault(position, {})[model] = distance
    return sorted((_fused(seen, list(ids)), number) for number, seen in found.items())


class Sidecar:
    def __init__(self, release: Path) -> None:
        self.indices: dict[str, Any] = {}
        for model in ("facenet", "arcface"):
            with (release / f"face_{model}.voy").open("rb") as stream:
                self.indices[model] = voyager.Index.load(stream)
        self.faces = json.loads((release / "faces.json").read_text(encoding="ascii"))
        self.performers = json.loads((release / "performers.json").read_text(encoding="ascii"))
        self.manifest = json.loads((release / "manifest.json").read_text(encoding="ascii"))
        self.database = release / "performers.db"

    def identify(
        self, vectors: Mapping[str, np.ndarray], limit: int = 3, max_distance: float = 0.5
    ) -> list[Match]:
        """Fuses the 100 nearest faces of each index: half of each distance, 0.5 where an index did not return the face.

        An index with a generic answer is left out. If both have one, FaceNet answers alone.
        """
        found: dict[int, dict[str, float]] = {}
        used = [model for model in self.indices if model not in self.generic(vectors)] or ["facenet"]
        # FaceNet's faces stay in the answer when it is left out, with its distance where ArcFace has none.
        for model in self.indices if "arcface" in used else used:
            ids, distances = self.indices[model].query(vectors[model], k=_NEIGHBOURS)
            for number, distance in zip(ids, distances, strict=True):
                found.setdefault(int(number), {})[model] = float(distance)
        ranked = sorted((_fused(seen, used), number) for number, seen in found.items())
        matches = []
        for distance, number in ranked:
            if distance > max_distance or number >= len(self.faces) or self.faces[number] is None:
                continue
            uid = self.faces[number]
            matches.append(Match(uid, self.performers.get(uid, {}).get("name", "Unknown"), distance))
        return matches[:limit]

    def generic(self, vectors: Mapping[str, np.ndarray]) -> set[str]:
        """The models for which the sidecar takes the vector for one that fits every face.

        Its sign is that the twenty nearest faces are near and at one distance. So a person with twenty copies of one
        picture is matched by neither model.
        """
        return {
            model
            for model, index in self.indices.items()
            if _is_generic(index.query(vectors[model], k=_NEIGHBOURS)[1][:_JUDGED])
        }

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


def _fused(seen: Mapping[str, float], used: list[str]) -> float:
    if len(used) > 1:
        return 0.5 * seen.get("facenet", 0.5) + 0.5 * seen.get("arcface", 0.5)
    return seen[used[0]] if used[0] in seen else next(iter(seen.values()))


def _is_generic(distances: np.ndarray) -> bool:
    nearest, spread, variance = distances.min(), np.ptp(distances), distances.var()
    if nearest >= 0.2:
        return False
    if nearest < 0.1 and (variance < 0.002 or spread < 0.05):
        return True
    return bool(spread < 0.03 and variance < 0.001)


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
        return json.loads(manifest.read_text(encoding="ascii")).get("version") if manifest.exists() else None

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
        for name, stated in json.loads((work / "manifest.json").read_text(encoding="ascii"))[
            "checksums"
        ].items():
            digest = hashlib.sha256((work / name).read_bytes()).hexdigest()
            if digest != stated.split(":")[-1]:
                raise ValueError(name)
        # Only files with a new one move to the backup, which stays for good: optional files of an older release stay in use.
        backup = self.data / f"backup_{time.time_ns()}"
        backup.mkdir()
        for name in (*_REQUIRED, *_OPTIONAL):
            if (work / name).is_file():
                if (self.data / name).exists():
                    (self.data / name).replace(backup / name)
                (work / name).replace(self.data / name)
        work.rmdir()
        if self.current() != version:
            raise ValueError(
                "the tag is not the version of the manifest: an update would be offered for ever"
            )
        return version
