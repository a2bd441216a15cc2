"""Large worlds with plain pictures, for measuring."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from stash_sense_pipeline.sandbox.demo_people import COUNTRIES, HAIRS
from stash_sense_pipeline.sandbox.demo_population import SITE_NAMES
from stash_sense_pipeline.sandbox.demo_records import FIRST_EDIT, IMPORTED, LAST_EDIT, SHARE_IMPORTED
from stash_sense_pipeline.sandbox.invented.clock import to_micros
from stash_sense_pipeline.sandbox.invented.naming import (
    Style,
    invent_name,
    slug,
)
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import BodyModification, ImageRow, Joins, Link, PerformerRow
from stash_sense_pipeline.sandbox.theporndb import Poster, ThePornDB
from stash_sense_pipeline.sandbox.world import THEPORNDB, World


def make_synthetic_world(performers: int | Mapping[str, int], seed: int = 1, images_each: int = 2) -> World:
    """Many performers (of StashDB, or by source) with plain pictures, for measuring.

    40 % of the rows of a box share one timestamp. A record has three links, as in `invented_population`, and one in
    four a tattoo, as in the demo. About 40 us and 3 kB a performer.
    """
    world = World.empty(seed)
    counts = {"stashdb": performers} if isinstance(performers, int) else dict(performers)
    for name, count in counts.items():
        rng = random.Random(f"{seed} synthetic {name}")
        if name == THEPORNDB:
            _fill_theporndb(world.theporndb, rng, count)
        else:
            _fill_box(world.boxes[name], rng, count, images_each)
    return world


def _fill_box(box: Box, rng: random.Random, count: int, images_each: int) -> None:
    firsts = [invent_name(rng, Style.SINGLE) for _ in range(400)]
    lasts = [invent_name(rng, Style.SINGLE) for _ in range(1200)]
    pictures = [Picture(seed, size=(80, 100)) for seed in range(64)]
    pages = [
        (address, box.site_for(name, address))
        for name, address in (SITE_NAMES[site] for site in ("iafd", "instagram", "twitter"))
    ]
    tattoos = (BodyModification("left wrist", "a star"),)
    span = LAST_EDIT - FIRST_EDIT

    def rows() -> Iterable[tuple[PerformerRow, Joins]]:
        for number in range(count):
            key = box.new_id()
            images = tuple(box.new_id() for _ in range(images_each))
            for image_id in images:
                box.images[image_id] = ImageRow(image_id, 80, 100, pictures[number % 64])
            updated = IMPORTED if rng.random() < SHARE_IMPORTED else FIRST_EDIT + int(rng.random() * span)
            first, last = rng.choice(firsts), rng.choice(lasts)
            box.people[key] = number
            row = PerformerRow(
                id=key,
                name=f"{first} {last}",
                created=min(updated, FIRST_EDIT),
                updated=updated,
                gender="FEMALE" if number % 4 else "MALE",
                birth_date=f"{1960 + number % 45}-{1 + number % 12:02d}",
                country=COUNTRIES[number % len(COUNTRIES)],
                height=150 + number % 40,
                hair_color=HAIRS[number % len(HAIRS)],
                career_start_year=1980 + number % 45,
            )
            links = tuple(Link(f"{address}/{first.lower()}{number}", site) for address, site in pages)
            yield (
                row,
                Joins(
                    aliases=(f"{last} {number}",),
                    urls=links,
                    images=images,
                    tattoos=() if number % 4 else tattoos,
                ),
            )

    box.load(rows())


def _fill_theporndb(store: ThePornDB, rng: random.Random, count: int) -> None:
    picture = Picture(1, size=(80, 100))
    moment = datetime(2021, 6, 1, tzinfo=UTC)
    for number in range(count):
        store.create(
            person=number,
            at=to_micros(moment + timedelta(seconds=number)),
            name=f"{invent_name(rng, Style.LATIN)} {slug(str(number))}",
            extras={"gender": "Female" if number % 4 else "Male"},
            posters=(Poster(store.new_number(), picture),),
        )
