"""Invented populations with known truth, for measuring how well identities are resolved; no real person is in them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.records.record_key import RecordKey

HOSTS: Mapping[str, str] = {
    "stashdb": "stashdb.org",
    "theporndb": "theporndb.net",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}


@dataclass(frozen=True)
class Rates:
    """How often each case occurs, as shares of people, records or URLs.

    `presence`: chance of a person to be in each box. `listed`: chance that a record lists a page that its person has.
    `swapped`: URLs of a record that are another person's; the poison of the evaluation is added to it.
    `stale`: pages listed under an address that the person has left. `studio_pages`: records with the page of a
    studio about them, which is of no known site. `equal_homonyms`: people with name and birth date of somebody else.
    `transitions`: people whose older records have another gender. `merged_records`: records with a second one that
    their source has merged into them, and which others still link to. `shared_images`: chance that a record shows its
    person's widest known picture, byte by byte. `first_names`, `last_names`: sizes of the pools. `aliases`: numbers of
    aliases of people, one of which a person has.
    """

    presence: Mapping[str, float] = field(
        default_factory=lambda: {
            "stashdb": 0.66, "theporndb": 0.42, "fansdb": 0.25, "pmvstash": 0.08, "javstash": 0.14,
        }
    )  # fmt: skip
    listed: float = 0.62
    cross_linked: float = 0.35
    single_word_names: float = 0.06
    other_name: float = 0.06
    misspelt: float = 0.02
    birth_date_known: float = 0.75
    birth_date_partial: float = 0.05
    birth_date_wrong: float = 0.01
    country_known: float = 0.7
    country_wrong: float = 0.02
    gender_known: float = 0.95
    gender_wrong: float = 0.002
    swapped: float = 0.004
    stale: float = 0.02
    studio_links: float = 0.02
    studio_pages: float = 0.45
    twins: float = 0.003
    equal_homonyms: float = 0.001
    transitions: float = 0.004
    merged_records: float = 0.02
    shared_images: float = 0.15
    wrong_images: float = 0.002
    placeholder_images: float = 0.01
    first_names: int = 900
    last_names: int = 2500
    aliases: tuple[int, ...] = (0, 0, 1, 1, 2, 3)


VARIATIONS: Mapping[str, Rates] = {
    "no aliases": Rates(aliases=(0,)),
    "many aliases": Rates(aliases=(2, 3, 4, 6)),
    "small pools of names": Rates(first_names=200, last_names=500),
    "large pools of names": Rates(first_names=3_000, last_names=12_000),
    "half of the birth dates": Rates(birth_date_known=0.5),
    "single words": Rates(single_word_names=0.2),
    "other names": Rates(other_name=0.15),
}


@dataclass(frozen=True)
class Population:
    """Records, the number of the person behind each live one, and the pairs of twins."""

    records: Mapping[RecordKey, Record]
    truth: Mapping[RecordKey, int]
    twins: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Score:
    """Pairs of records that were put together, against pairs that belong together."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of the pairs put together that belong together."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Share of the pairs that belong together that were put together."""
        return self.right / max(1, self.right + self.missed)


# Chance of a person to have a page, and its forms; {n} is the person's number, {s} a slug of the name.
_PAGES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.55, ("https://www.iafd.com/person.rme/id={u}", "http://iafd.com/person.rme/id={u}/x.htm")),
    (0.20, ("https://www.iafd.com/person.rme/perfid={s}{n}/gender=f/{s}.htm",)),
    (0.45, ("https://twitter.com/s{n}x", "https://x.com/S{n}X", "https://mobile.twitter.com/s{n}x?lang=en")),
    (0.35, ("https://www.instagram.com/s.{n}/", "instagram.com/s.{n}?hl=en")),
    (0.35, ("https://onlyfans.com/s{n}of", "https://www.onlyfans.com/S{n}OF/media")),
    (0.10, ("https://fansly.com/s{n}f", "https://fansly.com/s{n}f/posts")),
    (0.45, ("https://www.indexxx.com/m/{s}-{n}", "http://indexxx.com/m/{s}-{n}/")),
    (0.25, ("https://www.babepedia.com/babe/{s}_{n}", "http://www.babepedia.com/babe/{s}%20{n}")),
    (0.25, ("https://www.freeones.com/{s}-{n}", "https://www.freeones.com/de/{s}-{n}/bio")),
    (0.15, ("https://www.boobpedia.com/boobs/{s}_{n}",)),
    (0.12, ("https://www.thenude.com/{s}_{n}1.htm", "https://www.thenude.com/_{n}1.htm")),
    (0.15, ("https://www.imdb.com/name/nm{n:08d}/", "https://m.imdb.com/name/nm{n:08d}")),
    (0.15, ("https://www.wikidata.org/wiki/Q{n}7",)),
    (0.10, ("https://www.data18.com/name/{s}-{n}",)),
)
_JUNK = (
    "https://twitter.com/intent/user?user_id={r}",
    "https://www.instagram.com/explore",
    "https://www.example.com/models/{r}",
    "https://www.pornpics.com/pornstars/{s}/",
    "not a url",
)
_SYLLABLES = (
    "ka",
    "lo",
    "mi",
    "ra",
    "ten",
    "sa",
    "vi",
    "do",
    "nel",
    "zu",
    "be",
    "ri",
    "so",
    "han",
    "pe",
    "ty",
    "mar",
    "li",
    "ova",
    "gre",
)


@dataclass
class _Person:
    number: int
    name: str
    aliases: list[str]
    gender: str
    birth_date: str
    country: str
    pages: list[tuple[str, ...]]
    identifiers: dict[str, str] = field(default_factory=dict)
    former_identifiers: dict[str, str] = field(default_factory=dict)
    former_gender: str | None = None


def make_population(
    people: int, seed: int = 0, rates: Rates | None = None, poisoned: float = 0.0
) -> Population:
    """`people` persons over five stash-boxes; the same arguments give the same population.

    `poisoned`: share of all URLs that is replaced by a URL of another person.
    """
    rates = rates or Rates()
    rng = random.Random(seed)
    first = _words(rng, rates.first_names, 2)
    last = _words(rng, rates.last_names, 3)
    crowd = [_person(rng, number, first, last, rates) for number in range(people)]
    twins = _make_special(rng, crowd, rates)
    studios = [f"https://twitter.com/studio{number}" for number in range(max(1, people // 400))]
    records: dict[RecordKey, Record] = {}
    truth: dict[RecordKey, int] = {}
    for person in crowd:
        boxes = [box for box, chance in rates.presence.items() if rng.random() < chance] or ["stashdb"]
        person.identifiers = {box: _uuid(rng) for box in boxes}
        person.former_identifiers = {box: _uuid(rng) for box in boxes if rng.random() < rates.merged_records}
        for box in boxes:
            record = _record(rng, person, box, rates, studios)
            records[record.key] = record
            truth[record.key] = person.number
            if box in person.former_identifiers:
                old = Record(
                    box, person.former_identifiers[box], person.name, live=False, merged_into=record.source_id
                )
                records[old.key] = old
    return Population(_swap_urls(rng, records, rates.swapped + poisoned), truth, twins)


def score(truth: Mapping[RecordKey, int], groups: Iterable[Sequence[RecordKey]]) -> Score:
    """Pairwise comparison of groups of records with the truth."""
    sizes: dict[int, int] = {}
    for person in truth.values():
        sizes[person] = sizes.get(person, 0) + 1
    together = sum(size * (size - 1) // 2 for size in sizes.values())
    right = wrong = 0
    for group in groups:
        counts: dict[int, int] = {}
        for key in group:
            counts[truth[key]] = counts.get(truth[key], 0) + 1
        same = sum(count * (count - 1) // 2 for count in counts.values())
        right += same
        wrong += len(group) * (len(group) - 1) // 2 - same
    return Score(right, wrong, together - right)


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _make_special(rng: random.Random, crowd: Sequence[_Person], rates: Rates) -> tuple[tuple[int, int], ...]:
    """Twins, people with another's name and birth date, and people who changed their gender. Returns the twins."""
    twins: dict[int, int] = {}
    for person in crowd:
        if rng.random() < rates.twins:
            twin = rng.choice(crowd)
            twin.birth_date, twin.country = person.birth_date, person.country
            twin.name = f"{twin.name.split()[0]} {person.name.split()[-1]}"
            if twin is not person:
                twins[twin.number] = person.number
        if rng.random() < rates.equal_homonyms:
            other = rng.choice(crowd)
            other.name, other.birth_date = person.name, person.birth_date
        if rng.random() < rates.transitions:
            now, before = rng.choice((("TRANSGENDER_FEMALE", "MALE"), ("TRANSGENDER_MALE", "FEMALE")))
            person.gender, person.former_gender = now, before
    return tuple((person, twin) for twin, person in sorted(twins.items()))


def _words(rng: random.Random, count: int, syllables: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choices(_SYLLABLES, k=rng.randint(2, syllables + 1))).capitalize()] = None
    return list(found)


def _pick(rng: random.Random, words: Sequence[str]) -> str:
    """Common ones more often: the square of a uniform number leans to the front."""
    return words[int(len(words) * rng.random() ** 2)]


def _person(
    rng: random.Random, number: int, first: Sequence[str], last: Sequence[str], rates: Rates
) -> _Person:
    def name() -> str:
        given = _pick(rng, first)
        return given if rng.random() < rates.single_word_names else f"{given} {_pick(rng, last)}"

    main = name()
    slug = main.lower().replace(" ", "-")
    page_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    pages = [
        tuple(form.format(n=number, s=slug, u=page_id) for form in forms)
        for chance, forms in _PAGES
        if rng.random() < chance
    ]
    birth = f"{rng.randint(1962, 2005)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    gender = rng.choices(("FEMALE", "MALE", "TRANSGENDER_FEMALE"), (0.82, 0.14, 0.04))[0]
    country = rng.choices(
        ("US", "CZ", "GB", "JP", "RU", "BR", "HU", "DE", "FR", "CO"), (40, 10, 9, 12, 8, 6, 5, 4, 4, 2)
    )[0]
    return _Person(
        number, main, [name() for _ in range(rng.choice(rates.aliases))], gender, birth, country, pages
    )


def _record(rng: random.Random, person: _Person, box: str, rates: Rates, studios: Sequence[str]) -> Record:
    names = [person.name, *person.aliases]
    shown = rng.choice(names) if rng.random() < rates.other_name else person.name
    aliases = [name for name in names if name != shown and rng.random() < 0.6]
    if rng.random() < rates.misspelt:
        shown = _misspell(rng, shown)
    urls = [rng.choice(forms) for forms in person.pages if rng.random() < rates.listed]
    # People have numbers of their own up to here, so that no person has the old address now.
    urls = [
        url.replace(str(person.number), f"{person.number}{rng.randint(5, 9)}000000")
        if rng.random() < rates.stale
        else url
        for url in urls
    ]
    for other, identifier in person.identifiers.items():
        if other != box and rng.random() < rates.cross_linked:
            former = person.former_identifiers.get(other, identifier)
            linked = former if rng.random() < 0.5 else identifier
            urls.append(f"https://{HOSTS[other]}/performers/{linked}")
    if rng.random() < rates.studio_pages:
        urls.append(
            f"https://studio{rng.randint(1, 300)}.example/models/{person.number}-{rng.randint(1, 99)}"
        )
    if rng.random() < rates.studio_links:
        urls.append(rng.choice(studios))
    if rng.random() < 0.05:
        urls.append(rng.choice(_JUNK).format(r=rng.randint(1, 50), s=person.name.lower().replace(" ", "-")))
    return Record(
        source=box,
        source_id=person.identifiers[box],
        name=shown,
        gender=_gender(rng, _gender_then(rng, person), rates),
        birth_date=_birth_date(rng, person.birth_date, rates),
        country=_country(rng, person.country, rates),
        aliases=tuple(sorted(set(aliases))),
        urls=tuple(sorted(set(urls))),
        images=_images(rng, person.number, rates),
    )


def _gender_then(rng: random.Random, person: _Person) -> str:
    return person.former_gender if person.former_gender and rng.random() < 0.3 else person.gender


def _images(rng: random.Random, person: int, rates: Rates) -> tuple[str, ...]:
    """Names of pictures in the place of their SHA-256; only those that more than one record may show."""
    found = {f"picture {person}"} if rng.random() < rates.shared_images else set()
    if rng.random() < rates.wrong_images:
        found.add(f"picture {rng.randint(0, 2 * person)}")
    if rng.random() < rates.placeholder_images:
        found.add(f"placeholder {rng.randint(1, 3)}")
    return tuple(sorted(found))


def _gender(rng: random.Random, gender: str, rates: Rates) -> str | None:
    if rng.random() >= rates.gender_known:
        return None
    return rng.choice(("FEMALE", "MALE")) if rng.random() < rates.gender_wrong else gender


def _country(rng: random.Random, country: str, rates: Rates) -> str | None:
    if rng.random() >= rates.country_known:
        return None
    return rng.choice(("US", "GB", "DE")) if rng.random() < rates.country_wrong else country


def _birth_date(rng: random.Random, date: str, rates: Rates) -> str | None:
    if rng.random() >= rates.birth_date_known:
        return None
    if rng.random() < rates.birth_date_partial:
        return rng.choice((date[:4], date[:7], f"{date[:4]}-01-01"))
    if rng.random() < rates.birth_date_wrong:
        year = int(date[:4]) + rng.choice((-1, 1, 0, 0, 5))
        return f"{year}-{date[5:7]}-{rng.randint(1, 28):02d}"
    return date


def _misspell(rng: random.Random, name: str) -> str:
    place = rng.randrange(1, len(name))
    return rng.choice(
        (name[:place] + name[place + 1 :], name[:place] + rng.choice("aeiourstln") + name[place:])
    )


def _swap_urls(
    rng: random.Random, records: Mapping[RecordKey, Record], share: float
) -> dict[RecordKey, Record]:
    pool = [url for record in records.values() for url in record.urls]
    swapped: dict[RecordKey, Record] = {}
    for key, record in records.items():
        urls = {rng.choice(pool) if rng.random() < share else url for url in record.urls}
        swapped[key] = replace(record, urls=tuple(sorted(urls)))
    return swapped
