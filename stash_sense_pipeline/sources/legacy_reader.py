"""Reads the predecessor's files: progress.json, performers.json, performers.db.

Their shapes:

- progress.json, version 1: `{"processed_ids": [id, ...]}`; version 2: `{"schema_version": 2, "performers": {id:
  {"faces_indexed", "images_processed", "images_available", "last_synced"}}}`. An id names a performer of StashDB, or
  starts with the host of another stash-box (`fansdb.cc:<id>`).
- performers.json: `{"<host>:<id>": {"name", "country", "image_url", "face_count"}}`.
- performers.db: SQLite, schema versions 3 to 9. Only the table `performers` is required.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources.cleaning.text import (
    label,
    text,
)
from stash_sense_pipeline.sources.legacy_data import (
    DATABASE,
    PERFORMERS,
    PROGRESS,
    SHAPES,
    Legacy,
    LegacyPerson,
    Places,
    count_of,
    refused_file,
)
from stash_sense_pipeline.sources.legacy_database import read_database


def read_legacy(directory: Path, boxes: Collection[StashBoxSettings]) -> Legacy:
    """Reads the predecessor's files in `directory`. Records of stash-boxes other than `boxes` are left out.

    Raises ConfigurationError, with the file and the expected shape, when a file is unreadable, damaged or of an unknown
    version, or when the directory has none of the files.
    """
    present = tuple(name for name in SHAPES if (directory / name).exists())
    if not present:
        names = ", ".join(SHAPES)
        raise ConfigurationError(f"{directory}: nothing to import; expected at least one of {names} in it")
    reader = _Reader(Places(boxes))
    if DATABASE in present:
        reader.read_database(directory / DATABASE)
    if PERFORMERS in present:
        reader.read_performers(directory / PERFORMERS)
    if PROGRESS in present:
        reader.read_progress(directory / PROGRESS)
    return reader.result(present)


class _Reader:
    def __init__(self, places: Places) -> None:
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

    def read_database(self, path: Path) -> None:
        content = read_database(path, self._places)
        for person in content.people:
            self._add(person)
        self._used_up_to = content.used_up_to
        self._unusable += content.unusable

    def read_performers(self, path: Path) -> None:
        for universal_id, entry in self._entries(path, _json(path)):
            key = self._places.universal(universal_id)
            faces = count_of(entry.get("face_count"))
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
            faces, images = (count_of(entry.get(name)) or 0 for name in ("faces_indexed", "images_processed"))
            if key is not None:
                self._raise_faces(key, faces)
                self._known[key] = (self._known[key][0], images)

    def _entries(self, path: Path, data: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The entries of an object that have an object as value; others are counted as unusable."""
        if not isinstance(data, dict):
            raise refused_file(path, "does not hold an object of performers")
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


def _json(path: Path) -> Any:
    try:
        return read_json(path, LARGE)
    except OSError as error:
        raise refused_file(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise refused_file(path, f"is not valid JSON ({error})") from error


def _progress_version(path: Path, data: Any) -> int:
    if not isinstance(data, dict):
        raise refused_file(path, "is not an object")
    implied = 2 if "performers" in data else 1
    version = data.get("schema_version", data.get("version", implied))
    if version not in (1, 2) or isinstance(version, bool):
        raise refused_file(path, f"is of version {version!r}")
    name, kind = ("processed_ids", list) if version == 1 else ("performers", dict)
    if not isinstance(data.get(name), kind):
        raise refused_file(path, f"is of version {version} without {name}")
    return int(version)
