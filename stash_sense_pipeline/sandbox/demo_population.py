"""The population of the demo world, with everything that makes linking hard."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from stash_sense_pipeline.sandbox.demo_people import invent_people
from stash_sense_pipeline.sandbox.demo_records import (
    addresses_of,
    columns_of,
    extras_of,
    modifications,
    name_on,
    performer_url,
    timestamps,
)
from stash_sense_pipeline.sandbox.invented.naming import (
    Style,
    invent_name,
)
from stash_sense_pipeline.sandbox.invented.people import InventedPerson
from stash_sense_pipeline.sandbox.invented.pictures import Kind, Picture
from stash_sense_pipeline.sandbox.sites.site_pages import fill_sites
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import Joins, Link, PerformerRow
from stash_sense_pipeline.sandbox.theporndb import Poster
from stash_sense_pipeline.sandbox.world import PRESENT, THEPORNDB, World

_MERGES_BEGIN = datetime(2025, 11, 1, 8, tzinfo=UTC)
_IMAGES = {"stashdb": (3, 6), THEPORNDB: (1, 3), "pmvstash": (2, 4), "javstash": (1, 1), "fansdb": (1, 3)}
_SIZES = ((400, 500), (400, 600), (400, 500), (360, 450), (480, 600))
_SQUARE, _GROUP_SIZE, _TINY = (420, 420), (900, 600), ((180, 225), (240, 280), (120, 150))
_SHARED_PICTURE = 0.35  # of the pictures in a further box are files of an earlier one
_STUDIO_LINKS = (
    ("Twitter", "https://twitter.com/zoldrun_studio_house"),
    ("Studio Profile", "https://www.studio-quenthal.example/models"),
    ("Instagram", "https://www.instagram.com/skiamev_agency_hub/"),
)
SITE_NAMES = {
    "iafd": ("IAFD", "https://www.iafd.com"),
    "twitter": ("Twitter", "https://twitter.com"),
    "instagram": ("Instagram", "https://www.instagram.com"),
    "onlyfans": ("OnlyFans", "https://onlyfans.com"),
    "imdb": ("IMDb", "https://www.imdb.com"),
    "wikidata": ("Wikidata", "https://www.wikidata.org"),
    "stashdb": ("StashDB", "https://stashdb.org"),
    THEPORNDB: ("ThePornDB", "https://theporndb.net"),
    "pmvstash": ("PMVStash", "https://pmvstash.org"),
    "fansdb": ("FansDB", "https://fansdb.cc"),
    "studio": ("Studio Profile", "https://www.studio-quenthal.example"),
}
_JUNK = ("Blue Foam Roller 3000", "Man In Hat", "The Long Weekend", "Unknown Woman 7", "Silver Toy Deluxe")


def make_demo_world(seed: int = 1, people: int = 250) -> World:
    """The world of the demo: people with records in several boxes, and cases that are hard to link."""
    world = World.empty(seed)
    _DemoBuilder(world, seed, people).build()
    fill_sites(world.sites, world.people, world.boxes, seed)
    return world


class _DemoBuilder:
    """Fills the demo world from one random stream. The order of its draws is part of the result."""

    def __init__(self, world: World, seed: int, people: int) -> None:
        self._world = world
        self._count = people
        self._random = random.Random(f"{seed} demo world")
        self._ids: dict[tuple[str, int], str] = {}  # (source, person) → record id
        self._pools: dict[int, list[Picture]] = {}  # portraits of a person in all boxes so far
        self._picture_seed = 0
        self._bare: set[tuple[str, int]] = set()  # (source, person) of records without a face

    def build(self) -> None:
        for clock in (source.clock for source in self._world.sources.values()):
            clock.set(_MERGES_BEGIN)
        self._world.people = invent_people(self._random, self._count)
        for person in self._world.people:
            for source in person.sources:
                self._ids[source, person.number] = self._world.sources[source].new_id()
        for name, box in self._world.boxes.items():
            self._fill(box, [person for person in self._world.people if name in person.sources])
        self._fill_theporndb()
        self._empty_some_records()
        self._add_group_photos()
        self._add_odd_pictures()
        self._add_studio_links()
        self._merge_and_destroy()
        for clock in (source.clock for source in self._world.sources.values()):
            clock.set(PRESENT)

    # Records

    def _fill(self, box: Box, people: Sequence[InventedPerson]) -> None:
        rows = []
        for person in people:
            key = self._ids[box.name, person.number]
            box.people[key] = person.number
            created, updated = timestamps(self._random)
            row = PerformerRow(
                id=key,
                created=created,
                updated=updated,
                disambiguation=person.disambiguation if box.name == "stashdb" else None,
                **columns_of(self._random, box.name, person),
            )
            # Sorted, because the order of a set differs between processes.
            aliases = sorted({person.name, *person.other_names} - {row.name})
            kept = sorted((name for name in aliases if self._random.random() < 0.8), key=str.encode)
            images = [box.upload(picture) for picture in self._pictures(box.name, person)]
            if images and self._random.random() < 0.02:
                images.append(images[0])  # the table has no unique key
            joins = Joins(
                aliases=tuple(kept),
                urls=tuple(self._links(box, person)),
                images=tuple(images),
                tattoos=modifications(self._random, 0.25),
                piercings=modifications(self._random, 0.15),
            )
            rows.append((row, joins))
        box.load(rows)

    def _links(self, box: Box, person: InventedPerson) -> Iterable[Link]:
        for site, url in addresses_of(self._random, self._ids, box.name, person):
            name, address = SITE_NAMES[site]
            yield Link(url, box.site_for(name, address))

    # Pictures

    def _next_seed(self) -> int:
        self._picture_seed += 1
        return self._picture_seed

    def _pictures(self, source: str, person: InventedPerson) -> list[Picture]:
        rng = self._random
        pool = self._pools.setdefault(person.number, [])
        elsewhere = list(pool)
        chosen: list[Picture] = []
        for _ in range(rng.randint(*_IMAGES[source])):
            if elsewhere and rng.random() < _SHARED_PICTURE:
                chosen.append(elsewhere.pop(rng.randrange(len(elsewhere))))
                continue
            size = _SQUARE if source == "javstash" else rng.choice(_SIZES)
            picture = self._portrait(person, size)
            pool.append(picture)
            chosen.append(picture)
        return chosen

    def _portrait(self, person: InventedPerson, size: tuple[int, int], kind: Kind = Kind.PORTRAIT) -> Picture:
        return Picture(self._next_seed(), kind, (person.number,), (person.feminine,), size)

    def _add_group_photos(self) -> None:
        """Adds photos of two to four people, each listed by two or more of them under one image id."""
        for box, count in ((self._world.boxes["stashdb"], 14), (self._world.boxes["pmvstash"], 5)):
            here = self._with_pictures(box)
            for _ in range(min(count, len(here) // 4)):
                shown = self._random.sample(here, self._random.choice((2, 2, 3, 4)))
                picture = Picture(
                    self._next_seed(),
                    Kind.GROUP,
                    tuple(person.number for person in shown),
                    tuple(person.feminine for person in shown),
                    _GROUP_SIZE,
                )
                image_id = box.upload(picture)
                listed = shown if self._random.random() < 0.5 else shown[:2]
                for person in listed:
                    self._hang(box, person, image_id)

    def _add_odd_pictures(self) -> None:
        """Adds pictures without a face, tiny pictures, and files that are no pictures."""
        amounts = {"stashdb": (12, 10, 3), "pmvstash": (3, 4, 1), "javstash": (1, 1, 0), "fansdb": (4, 3, 1)}
        for name, (scenery, tiny, broken) in amounts.items():
            box = self._world.boxes[name]
            here = self._with_pictures(box)
            if not here:
                continue
            for _ in range(scenery):
                picture = Picture(self._next_seed(), Kind.SCENERY, size=self._random.choice(_SIZES))
                self._hang(box, self._random.choice(here), box.upload(picture))
            for _ in range(tiny):
                person = self._random.choice(here)
                self._hang(box, person, box.upload(self._portrait(person, self._random.choice(_TINY))))
            for kind in (Kind.TRUNCATED, Kind.HTML, Kind.EMPTY, Kind.NOT_AN_IMAGE):
                for _ in range(broken):
                    person = self._random.choice(here)
                    self._hang(box, person, box.upload(self._portrait(person, _SIZES[0], kind)))

    def _empty_some_records(self) -> None:
        """Leaves a few records of StashDB without a picture, or with one that shows no face."""
        box = self._world.boxes["stashdb"]
        here = self._with_pictures(box)
        for place, person in enumerate(self._random.sample(here, min(5, len(here) // 10))):
            self._bare.add((box.name, person.number))
            key = self._ids[box.name, person.number]
            scenery = Picture(self._next_seed(), Kind.SCENERY, size=_SIZES[0])
            images = [box.upload(scenery)] if place % 2 else []
            self._change_quietly(box, key, images=tuple(images))

    def _with_pictures(self, box: Box) -> list[InventedPerson]:
        return [
            person
            for person in self._world.people
            if box.name in person.sources and (box.name, person.number) not in self._bare
        ]

    def _hang(self, box: Box, person: InventedPerson, image_id: str) -> None:
        key = self._ids[box.name, person.number]
        self._change_quietly(box, key, images=(*box.joins[key].images, image_id))

    def _change_quietly(self, box: Box, key: str, **joins: Any) -> None:
        """Changes the joins of a record without an edit."""
        row, old = box.performers[key], box.joins[key]
        fields = {name: getattr(old, name) for name in Joins.__dataclass_fields__}
        box.load([(row, Joins(**{**fields, **joins}))])

    # ThePornDB

    def _fill_theporndb(self) -> None:
        store, rng = self._world.theporndb, self._random
        sites = [(f"{invent_name(rng, Style.SINGLE)} Media", 500 + number) for number in range(6)]
        for person in self._world.people:
            if THEPORNDB not in person.sources:
                continue
            key = self._ids[THEPORNDB, person.number]
            addresses = [
                pair
                for pair in addresses_of(self._random, self._ids, THEPORNDB, person)
                if rng.random() < 0.8
            ]
            aliases = tuple(name for name in person.other_names if rng.random() < 0.8)
            store.create(
                performer_id=key,
                person=person.number,
                at=timestamps(self._random)[1],
                name=name_on(self._random, THEPORNDB, person),
                aliases=aliases or rng.choice((None, ())),
                posters=tuple(
                    Poster(store.new_number(), picture) for picture in self._pictures(THEPORNDB, person)
                ),
                has_art=rng.random() < 0.9,
                extras=extras_of(self._random, person),
                links={SITE_NAMES[site][0]: url for site, url in addresses},
            )
            for name, number in rng.sample(sites, rng.choice((0, 0, 1, 2))):
                called = rng.choice((person.name.split(" ")[0], *person.other_names))
                store.add_site_performer(name, number, called, key, self._portrait(person, _SIZES[0]))
        for name in _JUNK:
            store.create(name=name, aliases=None, has_art=False)
        for number in range(8):
            site, site_number = rng.choice(sites)
            store.add_site_performer(site, site_number, f"{invent_name(rng, Style.SINGLE)} {number}", None)

    # Hard cases

    def _add_studio_links(self) -> None:
        """Adds links of studios and agencies to many people. Such links are no evidence."""
        rng = self._random
        for site, url in _STUDIO_LINKS:
            for person in rng.sample(self._world.people, min(16, len(self._world.people) // 4)):
                for name in person.sources:
                    if name == THEPORNDB or rng.random() < 0.3:
                        continue
                    box, key = self._world.boxes[name], self._ids[name, person.number]
                    link = Link(url, box.site_for(site, url))
                    self._change_quietly(box, key, urls=(*box.joins[key].urls, link))

    def _merge_and_destroy(self) -> None:
        """Adds duplicates and merges them, one in two steps, and one into a record that is destroyed later."""
        rng = self._random
        for name, merges, destroyed in (
            ("stashdb", 6, 3),
            ("pmvstash", 2, 1),
            ("javstash", 1, 1),
            ("fansdb", 1, 1),
        ):
            box = self._world.boxes[name]
            here = [person for person in self._world.people if name in person.sources]
            if len(here) < 4 * (merges + destroyed):
                continue
            chosen = rng.sample(here, merges)
            for place, person in enumerate(chosen):
                target = self._ids[name, person.number]
                duplicate = self._duplicate(box, person)
                if place == 1:
                    between = self._duplicate(box, person)
                    box.merge([duplicate], between)
                    duplicate = between
                box.merge([duplicate], target)
                if place == 2:
                    self._link_to_tombstone(name, person, duplicate)
                if place == 3:
                    box.destroy(target)
            for person in rng.sample([person for person in here if person not in chosen], destroyed):
                box.destroy(self._ids[name, person.number])

    def _duplicate(self, box: Box, person: InventedPerson) -> str:
        return box.create(
            name=person.other_names[0] if person.other_names else person.name,
            disambiguation="duplicate",
            gender=person.gender,
            images=[box.upload(self._portrait(person, _SIZES[0]))],
            person=person.number,
        )

    def _link_to_tombstone(self, source: str, person: InventedPerson, gone: str) -> None:
        """Adds a link from another box to a record that was merged into another."""
        for name in person.sources:
            if name in (source, THEPORNDB):
                continue
            box, key = self._world.boxes[name], self._ids[name, person.number]
            site, address = SITE_NAMES[source]
            link = Link(performer_url(source, gone), box.site_for(site, address))
            if not box.performers[key].deleted:
                self._change_quietly(box, key, urls=(*box.joins[key].urls, link))
