"""A world: five catalogues, ten sites, and the truth about them.

Everything follows from a seed. All people are invented. Pictures are rendered on first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from stash_sense_pipeline.sandbox.invented.clock import Clock
from stash_sense_pipeline.sandbox.invented.people import InventedPerson
from stash_sense_pipeline.sandbox.sites.model import SandboxSite
from stash_sense_pipeline.sandbox.sites.site_pages import empty_sites
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import BoxOptions
from stash_sense_pipeline.sandbox.theporndb import ThePornDB

THEPORNDB = "theporndb"
HOSTS: Mapping[str, str] = {
    "stashdb": "stashdb.org",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
    "fansdb": "fansdb.cc",
}
SOURCES = ("stashdb", THEPORNDB, "pmvstash", "javstash", "fansdb")

PRESENT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """Five catalogues, ten sites, and the people behind them. Sources have the names of sources.yaml."""

    boxes: dict[str, Box]
    theporndb: ThePornDB
    people: list[InventedPerson] = field(default_factory=list)
    sites: dict[str, SandboxSite] = field(default_factory=empty_sites)

    @property
    def sources(self) -> dict[str, Box | ThePornDB]:
        """The five catalogues, in the order of sources.yaml."""
        return {name: self.theporndb if name == THEPORNDB else self.boxes[name] for name in SOURCES}

    @classmethod
    def empty(cls, seed: int = 1) -> Self:
        """A world without performers and pages."""
        boxes = {
            name: Box(
                name, host, seed=seed, clock=Clock(PRESENT), api_key=_key(seed, name), options=BoxOptions()
            )
            for name, host in HOSTS.items()
        }
        return cls(boxes, ThePornDB(seed=seed, clock=Clock(PRESENT), api_key=_key(seed, THEPORNDB)))

    def person_of(self, source: str, performer_id: str) -> int | None:
        """The number of the person that a record is about; None for a record that is about no person."""
        if source in self.sites:
            return self.sites[source].people.get(performer_id)
        return self.sources[source].people.get(performer_id)

    def people_in(self, source: str, image_id: str) -> tuple[int, ...]:
        """The numbers of the people in an image; empty for a broken file. Raises KeyError for an unknown image."""
        if source == THEPORNDB:
            return self.theporndb.posters[int(image_id)].shown
        return self.boxes[source].images[image_id].picture.shown

    def records_of(self, person: int) -> list[tuple[str, str]]:
        """All records (source, performer id) of a person, tombstones too."""
        return [
            (name, key)
            for name, source in self.sources.items()
            for key, number in source.people.items()
            if number == person
        ]


def _key(seed: int, name: str) -> str:
    return f"sandbox-key-{name}-{seed}"
