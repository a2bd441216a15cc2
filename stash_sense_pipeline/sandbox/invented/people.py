"""An invented person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class InventedPerson:
    """Somebody who does not exist. `number` is the truth that all records and pictures refer to."""

    number: int
    name: str
    other_names: tuple[str, ...]
    feminine: bool
    gender: str
    birth_date: str
    country: str
    ethnicity: str
    eye_color: str
    hair_color: str
    height: int
    handle: str
    profiles: Mapping[str, str]  # by site key: the part of the address that names the person
    sources: tuple[str, ...]
    disambiguation: str | None = None
