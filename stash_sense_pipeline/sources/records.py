"""Performer and image records as every connector yields them, and the cleaning that makes them comparable."""

from __future__ import annotations

import calendar
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

_NO_DATE = re.compile(r"0000(?:-00(?:-00)?)?(?:[T ].*)?")
_PARTIAL_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?(?:[ T].*)?")
_SEPARATORS = re.compile(r"[\s\-/]+")
_MONTHS = 12
# One text for one JSON value.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
# Go's zero time and other nonsense lie below; strftime does not pad such years.
_FIRST_YEAR = 1000


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a performer. `url` is without what only fetching needs; sizes in pixels, None unknown."""

    image_id: str
    url: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class PerformerRecord:
    """What one source says about one performer. Sequences are sets: their order carries no meaning.

    Enumerations are written as stash-box writes them (`FEMALE`, `MIDDLE_EASTERN`); dates are YYYY, YYYY-MM or
    YYYY-MM-DD.
    `raw` holds fields that the catalog does not model, already without private ones.
    A `deleted` record may name in `merged_into` the record that took its place.
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
    raw: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 in hex of what the record says: no time stamps, no image URLs, and sets in a fixed order.

        `merged_ids` are left out: they are told by the tombstones of the merged records.
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
        }
        return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()


def clean_text(text: str) -> str:
    """NFC, control characters and lone surrogates removed, white space collapsed and stripped. May be empty.

    Neither a NUL nor half a surrogate pair can be stored in PostgreSQL.
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    kept = "".join(" " if character.isspace() else character for character in text)
    kept = "".join(character for character in kept if unicodedata.category(character) not in ("Cc", "Cs"))
    return " ".join(unicodedata.normalize("NFC", kept).split())


def optional_text(text: str | None) -> str | None:
    """`clean_text`, with None for an empty result."""
    return (clean_text(text) or None) if text is not None else None


def clean_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Cleaned, without empty ones and repetitions, in the order given."""
    return tuple(dict.fromkeys(filter(None, map(clean_text, texts))))


def enumeration(text: str | None) -> str | None:
    """A value of an enumeration as stash-box writes it: `Middle Eastern` becomes `MIDDLE_EASTERN`."""
    cleaned = optional_text(text)
    return None if cleaned is None else _SEPARATORS.sub("_", cleaned).upper()


def partial_date(text: str | None) -> str | None:
    """YYYY, YYYY-MM or YYYY-MM-DD without time of day; unknown parts (`1990-00-00`) cut, nonsense None."""
    match = _PARTIAL_DATE.fullmatch(text.strip()) if text else None
    if match is None or match[1] == "0000":
        return None
    year, month, day = match.groups()
    if month is None or not 1 <= int(month) <= _MONTHS:
        return year
    if day is None or not 1 <= int(day) <= calendar.monthrange(int(year), int(month))[1]:
        return f"{year}-{month}"
    return f"{year}-{month}-{day}"


def birth_date(text: str | None) -> str | None:
    """As partial_date, but what cannot be read stays as it is, for the check of adults to refuse; None for unknown."""
    stated = (text or "").strip()
    return partial_date(stated) or (None if not stated or _NO_DATE.fullmatch(stated) else stated)


def instant(text: str) -> datetime | None:
    """An RFC 3339 time of any precision, as UTC; None before the year 1000. ValueError when it is no time."""
    parsed = datetime.fromisoformat(text)
    if parsed.year < _FIRST_YEAR:
        return None
    if parsed.tzinfo is UTC:
        return parsed
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def unique_images(images: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """The images with each id once, the first one of each kept."""
    kept: dict[str, ImageRecord] = {}
    for image in images:
        kept.setdefault(image.image_id, image)
    return tuple(kept.values())


def clean_raw(value: Any) -> Any:
    """A JSON value whose every text is clean; keys too."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): clean_raw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_raw(item) for item in value]
    return value


def _unordered(value: Any) -> Any:
    """The JSON value with lists in a fixed order: no source promises the order of what it lists."""
    if isinstance(value, Mapping):
        return {key: _unordered(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return sorted(map(_unordered, value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
