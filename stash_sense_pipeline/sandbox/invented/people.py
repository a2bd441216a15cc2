"""An invented person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class InventedPerson:
    """An invented person. `number` is the ground truth that records and pictures refer to."""

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
    profiles: Mapping[str, str]  # by site key: the part of the address that identifies the person
    sources: tuple[str, ...]
    disambiguation: str | None = None
