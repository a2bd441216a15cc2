"""Invents what the records of a demo person say at each source: they differ in spelling, links and gaps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from stash_sense_pipeline.sandbox.invented.clock import to_micros
from stash_sense_pipeline.sandbox.invented.naming import plain, romanised
from stash_sense_pipeline.sandbox.invented.people import InventedPerson
from stash_sense_pipeline.sandbox.stash_box.rows import BodyModification
from stash_sense_pipeline.sandbox.world import HOSTS, THEPORNDB

IMPORTED = to_micros(datetime(2021, 5, 30, 1, 2, 3, 456_789, UTC))
FIRST_EDIT = to_micros(datetime(2021, 6, 1, tzinfo=UTC))
LAST_EDIT = to_micros(datetime(2025, 10, 1, tzinfo=UTC))
SHARE_IMPORTED = 0.4  # of the rows have the timestamp of an import
_PLACES = ("left shoulder", "right ankle", "lower back", "navel", "left wrist")
# How often a record on one box links to the same person's record on another.
_CROSS_LINKS = {
    ("pmvstash", "stashdb"): 0.6,
    ("javstash", "stashdb"): 0.5,
    ("javstash", THEPORNDB): 0.3,
    ("fansdb", "stashdb"): 0.3,
    ("stashdb", "fansdb"): 0.05,
    (THEPORNDB, "stashdb"): 0.2,
}


def columns_of(rng: random.Random, source: str, person: InventedPerson) -> dict[str, Any]:
    """The columns of a person's record; some values are unknown."""
    start = int(person.birth_date[:4]) + rng.randrange(19, 28)
    metric = source == "javstash"
    given: dict[str, Any] = {
        "birth_date": person.birth_date if rng.random() < 0.8 else person.birth_date[:4],
        "ethnicity": person.ethnicity,
        "country": person.country,
        "eye_color": person.eye_color,
        "hair_color": person.hair_color,
        "height": person.height + rng.choice((0, 0, 0, 1, -1)),
        "career_start_year": start,
        "career_end_year": min(2025, start + rng.randrange(1, 15)) if rng.random() < 0.3 else None,
        "cup_size": rng.choice("ABCDEFG" if metric else ("A", "B", "C", "D", "DD")),
        "band_size": rng.randrange(75, 95) if metric else rng.choice((30, 32, 34, 36, 38)),
        "waist_size": rng.randrange(54, 70) if metric else rng.randrange(22, 32),
        "hip_size": rng.randrange(78, 100) if metric else rng.randrange(32, 44),
        "breast_type": rng.choice(("NATURAL", "FAKE", "NA")),
    }
    sizes = ("cup_size", "band_size", "waist_size", "hip_size", "breast_type")
    if not person.feminine:
        given.update(dict.fromkeys(sizes))
    known = {key: value if rng.random() < 0.75 else None for key, value in given.items()}
    if rng.random() < 0.01:
        known["death_date"] = "2025-02"
    return {
        "name": name_on(rng, source, person),
        "gender": person.gender if rng.random() < 0.97 else None,
        "scene_count": rng.randrange(0, 200),
        **known,
    }


def name_on(rng: random.Random, source: str, person: InventedPerson) -> str:
    """The main name of a person at a source. Sources differ in spelling, in script, and in which name is the main one."""
    if source == "stashdb":
        return person.name
    latin = romanised(person.name)
    if latin is not None:
        return person.name if source == "javstash" and rng.random() < 0.5 else latin
    if person.other_names and rng.random() < 0.12:
        return person.other_names[0]
    return plain(person.name) if rng.random() < 0.5 else person.name


def timestamps(rng: random.Random) -> tuple[int, int]:
    """The times of creation and of the last update, in microseconds since 1970."""
    if rng.random() < SHARE_IMPORTED:
        return IMPORTED, IMPORTED
    updated = rng.randrange(FIRST_EDIT, LAST_EDIT)
    # Some timestamps end in zeros, which Go drops.
    updated -= updated % rng.choice((1, 1, 1, 100_000, 1_000_000))
    return (IMPORTED if rng.random() < 0.5 else updated - rng.randrange(10**9)), updated


def modifications(rng: random.Random, share: float) -> tuple[BodyModification, ...]:
    """With probability `share` a tattoo or piercing."""
    if rng.random() >= share:
        return ()
    return (BodyModification(rng.choice(_PLACES), rng.choice((None, "small star", "three lines"))),)


def addresses_of(
    rng: random.Random, ids: Mapping[tuple[str, int], str], source: str, person: InventedPerson
) -> Iterable[tuple[str, str]]:
    """Links of a record: (site or source, address). `ids` are the record ids by source and person."""
    for site in person.profiles:
        if rng.random() < 0.65:
            yield site, _profile_url(rng, site, person)
    for (here, there), share in _CROSS_LINKS.items():
        if here == source and there in person.sources and rng.random() < share:
            yield there, performer_url(there, ids[there, person.number])


def _profile_url(rng: random.Random, site: str, person: InventedPerson) -> str:
    """The address of a profile in one of the spellings that users enter."""
    part = person.profiles[site]
    match site:
        case "iafd":
            return f"https://www.iafd.com/person.rme/id={part.upper() if rng.random() < 0.1 else part}"
        case "twitter":
            shown = part.capitalize() if rng.random() < 0.2 else part
            return f"https://{rng.choice(('twitter.com', 'x.com'))}/{shown}"
        case "instagram":
            return f"https://www.instagram.com/{part}{rng.choice(('', '/'))}"
        case "onlyfans":
            return f"https://onlyfans.com/{part}"
        case "imdb":
            return f"https://www.imdb.com/name/{part}{rng.choice(('', '/'))}"
        case _:
            return f"https://www.wikidata.org/wiki/{part}"


def extras_of(rng: random.Random, person: InventedPerson) -> dict[str, Any]:
    """The `extras` of a person at ThePornDB; some values are unknown."""
    birthday = person.birth_date if len(person.birth_date) == 10 else None
    given: dict[str, Any] = {
        "gender": {"FEMALE": "Female", "MALE": "Male"}.get(person.gender, "Trans " + person.gender.title()),
        "birthday": birthday,
        "birthplace_code": person.country,
        "ethnicity": person.ethnicity.replace("_", " ").title(),
        "hair_colour": person.hair_color.title(),
        "eye_colour": person.eye_color.title(),
        "height": f"{person.height}cm",
        "weight": f"{rng.randrange(45, 95)}kg",
        "cupsize": f"{rng.choice((30, 32, 34, 36))}{rng.choice('ABCD')}" if person.feminine else None,
        "same_sex_only": False,
    }
    return {key: value if rng.random() < 0.8 else None for key, value in given.items()}


def performer_url(source: str, performer_id: str) -> str:
    """The public address of a performer on the host that a source stands for."""
    host = "theporndb.net" if source == THEPORNDB else HOSTS[source]
    return f"https://{host}/performers/{performer_id}"
