"""Performer and image records as connectors return them, and their content hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

# Encodes equal JSON values as equal texts.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a performer. `url` has no parameters that only fetching needs. Sizes are in pixels, None unknown."""

    image_id: str
    url: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class PerformerRecord:
    """The record of one performer at one source. Sequences are sets: their order has no meaning.

    Enumerations are written as in stash-box (`FEMALE`, `MIDDLE_EASTERN`); dates are YYYY, YYYY-MM or YYYY-MM-DD.
    `raw` holds the fields that the catalog does not model, without private ones.
    A `deleted` record that was merged names the surviving record in `merged_into`.
    `keeps_images`: the list of images is incomplete, so stored images must not be removed.
    """

    source_id: str
    name: str
    disambiguation: str | None = None
    aliases: tuple[str, ...] = ()
    gender: str | None = None
    birth_date: str | None = None
    death_date: str | None = None
    country: str | None = None
    ethnicity: str | None = None
    eye_color: str | None = None
    hair_color: str | None = None
    height_cm: int | None = None
    career_start_year: int | None = None
    career_end_year: int | None = None
    urls: tuple[str, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    merged_ids: tuple[str, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted: bool = False
    merged_into: str | None = None
    keeps_images: bool = False
    raw: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 in hex of the content of the record: without time stamps and image URLs, and with sorted sets.

        `merged_ids` are left out, as the tombstones of the merged records hold them.
        """
        content = {
            "name": self.name,
            "disambiguation": self.disambiguation,
            "aliases": sorted(set(self.aliases)),
            "gender": self.gender,
            "birth_date": self.birth_date,
            "death_date": self.death_date,
            "country": self.country,
            "ethnicity": self.ethnicity,
            "eye_color": self.eye_color,
            "hair_color": self.hair_color,
            "height_cm": self.height_cm,
            "career": [self.career_start_year, self.career_end_year],
            "urls": sorted(set(self.urls)),
            "images": sorted({image.image_id for image in self.images}),
            "raw": _unordered(self.raw),
            # An incomplete list of images is other content than an equal complete list.
            **({"keeps_images": True} if self.keeps_images else {}),
        }
        return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()


@dataclass(frozen=True)
class UnreadRecord:
    """A record that could not be read or stored. `reason` holds no value of the record.

    `label` is its id, or a substitute when the id is unusable; `source_id` is then None. `version` is the source's time
    of its last change, None unknown.
    """

    label: str
    reason: str
    source_id: str | None = None
    version: datetime | None = None


def unique_images(images: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """The images without repeated ids: the first image of each id is kept."""
    kept: dict[str, ImageRecord] = {}
    for image in images:
        kept.setdefault(image.image_id, image)
    return tuple(kept.values())


def _unordered(value: Any) -> Any:
    """The JSON value with sorted lists, as the sources do not guarantee the order of their lists."""
    if isinstance(value, Mapping):
        return {key: _unordered(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return sorted(map(_unordered, value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
