"""TheNude: numeric ids, microdata, covers that may show two people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, image, path_of
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_STATIC = "https://static.thenude.com"
_GENDERS = {
    "female": "FEMALE",
    "woman": "FEMALE",
    "male": "MALE",
    "man": "MALE",
    "transgender": "TRANSGENDER_FEMALE",
    "trans": "TRANSGENDER_FEMALE",
    "trans female": "TRANSGENDER_FEMALE",
    "trans woman": "TRANSGENDER_FEMALE",
    "transsexual": "TRANSGENDER_FEMALE",
    "shemale": "TRANSGENDER_FEMALE",
    "trans male": "TRANSGENDER_MALE",
    "trans man": "TRANSGENDER_MALE",
}
_CREDIT = frozenset({"model-title", "model-name"})
_ACCOUNTS = (".model-model-links a.tnap_out_link", ".model-model-links a[href]", "a.tnap_out_link")
_PICTURE = re.compile(r"/models/([^/]+)/(?:medhead|starthumb|head|thumb)\.jpg", re.IGNORECASE)
_NO_PICTURE = re.compile(r"silhouette|no[-_ ]?(?:image|photo|picture)|placeholder|blank", re.IGNORECASE)
_AKA = re.compile(r"^AKA\s*:\s*", re.IGNORECASE)


class TheNude(PageSite):
    """The number in an address identifies the page; the name before it is ignored."""

    name = "thenude"
    hosts = ("thenude.com", "thenude.eu")
    page_selector = "span.model-name"
    usual_fields = ("aliases", "credited", "gender", "links", "images")
    example = "https://www.thenude.com/_1.htm"
    by_name = True

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases, gender, links, the portrait in the page's own folder, and covers with this model alone."""
        page.need("link[rel=canonical][href]")
        if _key(page.canonical) != key:
            raise SourceError(self.name, Outcome.NOT_FOUND, "the page is another model's")
        name = page.root.text_of("h1 span.model-name") or page.root.text_of(self.page_selector)
        covers = [cover for cover in _covers(page) if cover.names and cover.models == {key}]
        return Profile(
            key=key,
            name=name,
            aliases=distinct(_aliases(page), name),
            credited=distinct((used for cover in covers if cover.website for used in cover.names), name),
            gender=_gender(page),
            links=tuple(_accounts(page)),
            images=(*_portrait(page, key), *(image(cover.url) for cover in covers)),
        )

    def search(self, name: str) -> str:
        """The address of the search in the navigation bar, which covers aliases too."""
        return (
            f"{self.home}/index.php?page=search&action=searchModels&__form_name=navbar-search&m_aka=on"
            f"&m_name={quote_plus(name)}"
        )

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The figures of the search result, with the aliases that they show.

        Raises SourceError (parse_error) when the page links to models, but not in figures.
        """
        figures = page.root.select(".blockIndexModels figure, .blockIndexModels .item")
        if not figures and any(map(_key, page.root.links("a[href$='.htm']"))):
            raise page.layout_mismatch(".blockIndexModels figure")
        found = []
        for figure in figures:
            links = [link for link in figure.select("a[href]") if _key(link.link)]
            if links:
                shown = [text for link in links for text in (link.text, link.attribute("title"))]
                aliases = [alias for text in figure.texts("span") for alias in _AKA.sub("", text).split(",")]
                found.append(Candidate(distinct([*shown, *aliases]), links[0].link))
        return tuple(found)


@dataclass(frozen=True)
class Cover:
    """A cover in full size, the website that published it, and the models that it credits: their names there and keys.

    The key of a model without a page is None.
    """

    url: str
    names: tuple[str, ...]
    models: frozenset[str | None]
    website: str


def _key(url: str) -> str | None:
    found = parse_profile(url)
    return found.key.key if found is not None and found.key.site == "thenude" else None


def _stated(page: Page, what: str) -> list[str]:
    """The values of the person's microdata. Covers have microdata of their own."""
    found = [
        each for each in page.root.select(f"[itemprop~={what}]") if each.closest("figure, .gall-img") is None
    ]
    return [each.attribute("content") or each.text for each in found]


def _aliases(page: Page) -> list[str]:
    """All names, the name of the page among them; "??" stands for an unknown one."""
    names = [name for text in _stated(page, "additionalName") for name in re.split(r"[,;]", text)]
    return [name for name in names if "??" not in name]


def _gender(page: Page) -> str | None:
    stated = [text.casefold() for text in _stated(page, "gender")]
    return next((_GENDERS[text] for text in stated if text in _GENDERS), None)


def _accounts(page: Page) -> list[str]:
    """Links to other sites, in the first layout that has any."""
    for selector in _ACCOUNTS:
        if found := [url for url in page.root.links(selector) if not page.base.is_own(url)]:
            return found
    return []


def _portrait(page: Page, key: str) -> list[ImageRecord]:
    """`medhead.jpg` in the model's folder, which a picture on the page or the canonical address names."""
    pictures = page.root.images("img")
    for url in pictures:
        folder = _PICTURE.fullmatch(path_of(url))
        if folder and folder[1].rpartition("_")[2].lstrip("0") == key:
            parts = urlsplit(url)
            return [image(parts._replace(path=f"{parts.path.rpartition('/')[0]}/medhead.jpg").geturl())]
    name = path_of(page.canonical).rpartition("/")[2].removesuffix(".htm")
    if name.startswith("_") or any(_NO_PICTURE.search(path_of(url)) for url in pictures):
        return []
    return [image(f"{_STATIC}/models/{quote(name)}/medhead.jpg")]


def _covers(page: Page) -> list[Cover]:
    """The covers of the page. Raises SourceError (parse_error) when they link to models, but no link is a credit."""
    pictures = page.root.select("figure img, .gall-img img")
    covers = [
        _cover(figure, picture.image)
        for picture in pictures
        if "/admin/covers/" in picture.image and (figure := picture.closest("figure, .gall-img")) is not None
    ]
    if any(cover.models for cover in covers) and not any(cover.names for cover in covers):
        raise page.layout_mismatch("figure with a.model-title or a.model-name")
    return covers


def _cover(figure: Element, thumb: str) -> Cover:
    """`/admin/covers/studio/date/medheads/x.jpg` is the small one of `/admin/covers/studio/date/x.jpg`."""
    links = [(link, _key(link.link)) for link in figure.select("a")]
    credits = [(link, key) for link, key in links if not _CREDIT.isdisjoint(link.attribute("class").split())]
    parts = urlsplit(thumb)
    return Cover(
        url=parts._replace(path=parts.path.replace("/medheads/", "/", 1)).geturl(),
        names=tuple(link.text for link, _ in credits),
        models=frozenset(key for _, key in credits) | frozenset(key for _, key in links if key is not None),
        website=figure.text_of(".website"),
    )
