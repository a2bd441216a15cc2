"""Invents the people of the demo world."""

from __future__ import annotations

import random
import uuid

from stash_sense_pipeline.sandbox.invented.naming import STYLES, Style, invent_handle, invent_name, romanised
from stash_sense_pipeline.sandbox.invented.people import InventedPerson
from stash_sense_pipeline.sandbox.world import SOURCES, THEPORNDB

_PRESENCE = {"stashdb": 0.8, THEPORNDB: 0.55, "pmvstash": 0.32, "javstash": 0.14, "fansdb": 0.28}
COUNTRIES = ("US", "CZ", "HU", "BR", "JP", "GB", "DE", "CO", "FR", "CA", "UA", "AU")
_EYES = ("BLUE", "BROWN", "GREY", "GREEN", "HAZEL")
HAIRS = ("BLONDE", "BRUNETTE", "BLACK", "RED", "AUBURN", "GREY", "BALD", "WHITE")
_ETHNICITIES = ("CAUCASIAN", "BLACK", "ASIAN", "INDIAN", "LATIN", "MIDDLE_EASTERN", "MIXED", "OTHER")
_LINK_SHARES = {
    "iafd": 0.6,
    "twitter": 0.5,
    "instagram": 0.4,
    "onlyfans": 0.35,
    "imdb": 0.15,
    "wikidata": 0.1,
}


def invent_people(rng: random.Random, count: int) -> list[InventedPerson]:
    """Invents people with numbers from 0; some of them share a name."""
    people: list[InventedPerson] = []
    taken: set[str] = set()
    for number in range(count):
        name = _new_name(rng, taken)
        people.append(_invent_person(rng, number, name))
    _make_homonyms(rng, people)
    return people


def _new_name(rng: random.Random, taken: set[str]) -> str:
    while (name := invent_name(rng, rng.choice(STYLES))) in taken:
        pass
    taken.add(name)
    return name


def _invent_person(rng: random.Random, number: int, name: str) -> InventedPerson:
    feminine = rng.random() < 0.72
    gender = "FEMALE" if feminine else "MALE"
    if rng.random() < 0.04:
        gender = rng.choice(
            ("TRANSGENDER_FEMALE", "NON_BINARY") if feminine else ("TRANSGENDER_MALE", "INTERSEX")
        )
    year = rng.randrange(1962, 2005)
    date = f"{year}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"
    latin = romanised(name)
    other_names = [latin] if latin else []
    other_names += [invent_name(rng, Style.LATIN) for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))]
    handle = invent_handle(rng)
    sources = tuple(
        source
        for source in SOURCES
        if rng.random() < (0.9 if latin and source == "javstash" else _PRESENCE[source])
    )
    return InventedPerson(
        number=number,
        name=name,
        other_names=tuple(other_names),
        feminine=feminine,
        gender=gender,
        birth_date=rng.choice((date, date, date, date[:7], date[:4])),
        country="JP" if latin else rng.choice(COUNTRIES),
        ethnicity=rng.choice(_ETHNICITIES),
        eye_color=rng.choice(_EYES),
        hair_color=rng.choice(HAIRS),
        height=rng.randrange(148, 195),
        handle=handle,
        profiles=_invent_profiles(rng, name, handle, feminine),
        sources=sources or ("stashdb",),
    )


def _invent_profiles(rng: random.Random, name: str, handle: str, feminine: bool) -> dict[str, str]:
    found = {}
    for site, share in _LINK_SHARES.items():
        if rng.random() >= share:
            continue
        if site == "iafd":
            found[site] = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        elif site == "imdb":
            # The site has not assigned numbers of eight digits that begin with 99.
            found[site] = f"nm99{rng.randrange(10**6):06d}"
        elif site == "wikidata":
            found[site] = f"Q99{rng.randrange(10**8):08d}"
        else:
            found[site] = handle if rng.random() < 0.7 else invent_handle(rng)
    return found


def _make_homonyms(rng: random.Random, people: list[InventedPerson]) -> None:
    """Gives pairs of people the same name. The second gets a disambiguation, the first one at random."""
    pairs = rng.sample(range(len(people)), 2 * max(1, len(people) // 40) if len(people) > 3 else 0)
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        one, other = people[first], people[second]
        fields = one.__dict__
        people[first] = InventedPerson(
            **{**fields, "disambiguation": rng.choice((None, f"born {one.birth_date[:4]}"))}
        )
        people[second] = InventedPerson(
            **{
                **other.__dict__,
                "name": one.name,
                "disambiguation": f"{other.country}, {other.hair_color.lower()} hair",
                # At least one box must hold both.
                "sources": tuple(source for source in SOURCES if source in {*other.sources, *one.sources}),
            }
        )
