"""Fills the sites with pages and traps, and links to them."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from stash_sense_pipeline.records.profile_urls import canonical_profile
from stash_sense_pipeline.sandbox.invented.naming import Style, invent_name, slug
from stash_sense_pipeline.sandbox.invented.people import InventedPerson
from stash_sense_pipeline.sandbox.invented.pictures import Kind, Picture
from stash_sense_pipeline.sandbox.sites import encyclopedias, galleries, numbered_sites, wiki
from stash_sense_pipeline.sandbox.sites.model import SandboxSite, SitePage
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import Joins, Link

SHAPES: tuple[type[SandboxSite], ...] = (
    encyclopedias.BabepediaSite,
    encyclopedias.IafdSite,
    encyclopedias.FreeOnesSite,
    wiki.BoobpediaSite,
    numbered_sites.TheNudeSite,
    numbered_sites.AfdbSite,
    galleries.PornPicsSite,
    galleries.EliteBabesSite,
    galleries.JavDatabaseSite,
    numbered_sites.IndexxxSite,
)
# No stash-box links to these sites: their people are found by name.
BY_NAME = ("elitebabes", "javdatabase")
_SIZES = ((400, 500), (360, 450))
_FIRST_SEED = 900_000
# Numbers of namesakes, which no box has, start here.
_FIRST_NAMESAKE = 50_000


def empty_sites() -> dict[str, SandboxSite]:
    """The ten sites without pages."""
    return {shape.name: shape() for shape in SHAPES}


def fill_sites(
    sites: Mapping[str, SandboxSite],
    people: Sequence[InventedPerson],
    boxes: Mapping[str, Box],
    seed: int,
    most: int = 12,
) -> None:
    """Gives each site pages of up to `most` of the people, and adds links to most of them to the boxes.

    Every site has: a namesake's page that no box links to, a link to another person's page, a removed page, a page without
    a portrait, pictures of two people, and related people in the same mark-up.
    """
    for place, site in enumerate(sites.values()):
        first_picture = _FIRST_SEED + 1000 * place
        draws = _Draws(random.Random(f"{seed} {site.name}"), first_picture, most)
        _Filler(site, people, boxes, draws).fill()


@dataclass(frozen=True)
class _Draws:
    """The random stream of a site, the seed of its first picture, and the most people with a page."""

    rng: random.Random
    first_picture: int
    most: int


class _Filler:
    def __init__(
        self,
        site: SandboxSite,
        people: Sequence[InventedPerson],
        boxes: Mapping[str, Box],
        draws: _Draws,
    ) -> None:
        self._site = site
        self._everyone = people
        self._boxes = boxes
        self._random = draws.rng
        self._most = draws.most
        self._seed = draws.first_picture
        self._slug = SLUGS[site.name]

    def fill(self) -> None:
        chosen = self._choose()
        pages = [self._page(person, number) for number, person in enumerate(chosen)]
        slugs = [page.slug for page in pages]
        for place, page in enumerate(pages):
            related = tuple(slugs[(place + step) % len(slugs)] for step in (1, 2)) if len(slugs) > 2 else ()
            self._site.add(replace(page, related=related))
        # Again, because all related people have pages now.
        for slug_ in slugs:
            self._site.add(self._site.pages[slug_])
        if len(pages) > 4:
            self._add_namesake(chosen[0], pages[0])
            self._site.gone.add(slugs[1])
            self._site.pages[slugs[2]] = replace(self._site.pages[slugs[2]], portrait=None, set_pictures=())
        if self._site.name not in BY_NAME:
            for person, page in zip(chosen, pages, strict=True):
                self._link(person, page)
            if len(pages) > 4:
                # A wrong link: it leads to a page with another name.
                self._link(chosen[3], pages[4])

    def _choose(self) -> list[InventedPerson]:
        counts = Counter(person.name for person in self._everyone)
        boxes = self._boxes
        able = [
            person
            for person in self._everyone
            if counts[person.name] == 1
            and person.gender == "FEMALE"
            and _latin(person) is not None
            and any(
                box.people.get(key) == person.number and not row.deleted
                for box in boxes.values()
                for key, row in box.performers.items()
            )
        ]
        return self._random.sample(able, min(self._most, len(able)))

    def _page(self, person: InventedPerson, place: int) -> SitePage:
        rng = self._random
        name = _latin(person) or person.name
        number = 10_000 + 37 * place + rng.randrange(30)
        identifier = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        written = self._slug(name, identifier)
        aliases = tuple(alias for alias in person.other_names if alias.isascii() and alias != name)
        page = SitePage(
            slug=written,
            key="",
            person=person.number,
            name=name,
            aliases=(*aliases, invent_name(rng, Style.LATIN)),
            legal_name=f"{invent_name(rng, Style.LATIN)} Legalname",
            biography="Grew up beside a river that is on no map.",
            links=(f"https://www.instagram.com/{person.handle}/", f"https://onlyfans.com/{person.handle}"),
            portrait=self._portrait(person),
            set_pictures=tuple(self._portrait(person) for _ in range(2)),
            couple=self._couple(person),
            number=0 if self._site.name == "indexxx" and place % 3 else number,
            japanese=person.name if not person.name.isascii() else "",
        )
        return self._keyed(page)

    def _keyed(self, page: SitePage) -> SitePage:
        found = canonical_profile(self._site.url(page))
        assert found is not None, self._site.url(page)
        key = page.slug if found.key.startswith("legacy:") else found.key
        return replace(page, key=key)

    def _add_namesake(self, person: InventedPerson, page: SitePage) -> None:
        """Adds a page of another person with the same name, without a record in any box."""
        namesake = replace(person, number=_FIRST_NAMESAKE + person.number)
        tail = {"babepedia": "_2", "boobpedia": "_(model)"}.get(self._site.name, "-2")
        identifier = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        written = identifier if self._site.name == "iafd" else f"{page.slug}{tail}"
        self._site.add(
            self._keyed(
                replace(
                    page,
                    slug=written,
                    person=namesake.number,
                    aliases=(),
                    links=(),
                    portrait=self._portrait(namesake),
                    set_pictures=(self._portrait(namesake),),
                    couple=None,
                    related=(page.slug,),
                    number=page.number + 7000 if page.number else 0,
                )
            )
        )

    def _portrait(self, person: InventedPerson) -> Picture:
        self._seed += 1
        size = self._random.choice(_SIZES)
        return Picture(self._seed, Kind.PORTRAIT, (person.number,), (person.feminine,), size)

    def _couple(self, person: InventedPerson) -> Picture:
        self._seed += 1
        other = self._random.choice(self._everyone)
        return Picture(
            self._seed,
            Kind.GROUP,
            (person.number, other.number),
            (person.feminine, other.feminine),
            (900, 600),
        )

    def _link(self, person: InventedPerson, page: SitePage) -> None:
        """Adds links to the page to the person's records in the boxes: to the first, and to some of the others."""
        first = True
        for box in self._boxes.values():
            for key, number in box.people.items():
                if number != person.number or box.performers[key].deleted or key not in box.joins:
                    continue
                if first or self._random.random() < 0.5:
                    _add_link(box, key, self._site, self._site.url(page))
                    first = False


def _add_link(box: Box, key: str, site: SandboxSite, url: str) -> None:
    """Adds a link without an edit."""
    old = box.joins[key]
    fields = {name: getattr(old, name) for name in Joins.__dataclass_fields__}
    link = Link(url, box.site_for(site.name.title(), site.home))
    box.load([(box.performers[key], Joins(**{**fields, "urls": (*old.urls, link)}))])


def _latin(person: InventedPerson) -> str | None:
    """The person's name in Latin letters with at least two words, if there is one."""
    names = (person.name, *person.other_names[:1])
    return next((name for name in names if name.isascii() and " " in name), None)


def _underscored(name: str, identifier: str) -> str:
    return name.replace(" ", "_")


def _hyphened(name: str, identifier: str) -> str:
    return slug(name)


def _numbered(name: str, identifier: str) -> str:
    return identifier


SLUGS: Mapping[str, Callable[[str, str], str]] = {
    "babepedia": _underscored,
    "iafd": _numbered,
    "freeones": _hyphened,
    "boobpedia": _underscored,
    "thenude": _hyphened,
    "afdb": _hyphened,
    "pornpics": _hyphened,
    "elitebabes": _hyphened,
    "javdatabase": _hyphened,
    "indexxx": _hyphened,
}
