"""The data of the predecessor's files, with record keys of the configured sources."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.settings.known_sources import KNOWN_STASH_BOXES
from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources.cleaning.numbers import whole
from stash_sense_pipeline.sources.cleaning.text import (
    clean_text,
    label,
)

PROGRESS, PERFORMERS, DATABASE = "progress.json", "performers.json", "performers.db"

FIRST_SCHEMA, LAST_SCHEMA = 3, 9
MAX_ID = 2**31 - 1
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OTHER_ID = re.compile(r"[\w.-]{1,100}")
# An id without a host belongs to this stash-box.
_BARE_IDS = "stashdb"
SHAPES = {
    PROGRESS: "version 1 with a list `processed_ids`, or version 2 with an object `performers`",
    PERFORMERS: 'an object {"<host>:<id>": {"name", "country", "image_url", "face_count"}}',
    DATABASE: f"an SQLite database of schema version {FIRST_SCHEMA} to {LAST_SCHEMA}",
}


@dataclass(frozen=True)
class LegacyPerson:
    """One person of the predecessor.

    `performer_id` is the id in performers.db. `records` has one record for each stash-box id: the first with the fields
    of the person, the others with the name only. `merged` are records that were merged into one of `records`, each with
    the id of its survivor in the same source, if there is one. `links` are all URLs of the person, the URL of the image
    included. `birth_date` is the text of the file. `faces` is the number of stored faces, None if unknown.
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
    """The content of the predecessor's files.

    `faces_and_images` has for a record the number of stored faces, and of processed images (None if unknown).
    `used_up_to` is the highest performer id. `unusable` counts entries without a name or a valid id, and entries that
    are not performers. `elsewhere` counts entries by stash-box, for stash-boxes that are not configured.
    """

    files: tuple[str, ...]
    people: tuple[LegacyPerson, ...]
    faces_and_images: Mapping[RecordKey, tuple[int, int | None]]
    used_up_to: int
    unusable: int
    elsewhere: Mapping[str, int]


class Places:
    """Maps the short names and hosts of the predecessor's stash-boxes to configured sources."""

    def __init__(self, boxes: Collection[StashBoxSettings]) -> None:
        self._boxes = {box.name: box for box in boxes}
        by_host = {box.host: box.name for box in reversed(tuple(boxes))}
        known = {name: by_host.get(str(values["host"])) for name, values in KNOWN_STASH_BOXES.items()}
        self._sources = {**known, **by_host, **{name: name for name in self._boxes}}
        self.elsewhere: Counter[str] = Counter()

    def source(self, place: str) -> str | None:
        """The configured stash-box with this short name or host; None when there is none."""
        return self._sources.get(place)

    def record(self, place: str, source_id: Any) -> RecordKey | None:
        """The key of a record; None for a stash-box that is not configured, and for an invalid id."""
        source = self.source(place)
        if source is None:
            self.elsewhere[label(place) or "an unreadable place"] += 1
            return None
        stated = clean_text(str(source_id))
        if self._boxes[source].connector == "stash_box":
            stated = stated.lower()
            return (source, stated) if _UUID.fullmatch(stated) else None
        return (source, stated) if _OTHER_ID.fullmatch(stated) else None

    def universal(self, text: str) -> RecordKey | None:
        """The key of a universal id, `<host>:<id>`, or of an id without a host."""
        place, _, source_id = text.rpartition(":")
        return self.record(place or _BARE_IDS, source_id)


def count_of(value: Any) -> int | None:
    """A number of faces or images; None for any other value."""
    return whole(value, 0, MAX_ID)


def refused_file(path: Path, problem: str) -> ConfigurationError:
    """The error for a file that cannot be read, with its path, the problem and the expected shape."""
    shape = SHAPES[path.name]
    return ConfigurationError(f"{path}: {' '.join(problem.split())}; expected {shape}. Nothing was imported")
