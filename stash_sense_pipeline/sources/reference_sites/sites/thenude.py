"""TheNude: numeric ids, microdata, covers that may show two people."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, image, path_of, text_of
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_HOME = "https://www.thenude.com"
_STATIC = "https://static.thenude.com"
_GENDERS = {
    "female": "FEMALE",
    "male": "MALE",
    "transgender": "TRANSGENDER_FEMALE",
    "trans": "TRANSGENDER_FEMALE",
}


class TheNude(PageSite):
    """The number in an address identifies the page; the name before it is ignored."""

    name = "thenude"
    hosts = ("thenude.com", "thenude.eu")
    page_selector = "span.model-name"
    example = "https://www.thenude.com/_1.htm"
    by_name = True

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases, gender, links, the portrait in the page's own folder, and covers with this model alone."""
        canonical = page.root.css("link[rel=canonical]::attr(href)").get("")
        if not canonical:
            raise page.layout_mismatch("link[rel=canonical]")
        if _key(page.join(canonical)) != key:
            raise SourceError(self.name, Outcome.NOT_FOUND, "the page is another model's")
        name = page.first(self.page_selector)
        said = page.root.css("meta[itemprop=gender]::attr(content)").get("").strip().casefold()
        aliases = page.root.css("meta[itemprop=additionalName]::attr(content)").getall()
        return Profile(
            key=key,
            name=name,
            aliases=distinct(
                (alias for text in aliases for alias in text.split(",") if "??" not in alias), name
            ),
            gender=_GENDERS.get(said),
            links=tuple(
                url
                for href in page.root.css(".model-model-links a.tnap_out_link::attr(href)").getall()
                if (url := page.join(href))
            ),
            images=(*_portrait(page, canonical, key), *_covers(page, key)),
        )

    def search(self, name: str) -> str:
        """The address of the search in the navigation bar, which covers aliases too."""
        return (
            f"{_HOME}/index.php?page=search&action=searchModels&__form_name=navbar-search&m_aka=on"
            f"&m_name={quote_plus(name)}"
        )

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The figures of the search result, with the aliases that they show."""
        found = []
        for figure in page.root.css("div.blockIndexModels figure"):
            link = figure.css("a.model-name")
            if not link or "href" not in link[0].attrib:
                continue
            spans = [text_of(span) for span in figure.css("figcaption span")]
            aliases = [alias for text in spans for alias in re.sub(r"^AKA:\s*", "", text).split(",")]
            name = text_of(link[0]) or link[0].attrib.get("title", "")
            found.append(Candidate(distinct([name, *aliases]), page.join(link[0].attrib["href"])))
        return tuple(found)


def _key(url: str) -> str | None:
    found = parse_profile(url)
    return found.key.key if found is not None and found.key.site == "thenude" else None


def _portrait(page: Page, canonical: str, key: str) -> list[ImageRecord]:
    """`medhead.jpg` in the model's folder, which an image on the page or the canonical path names."""
    for src in page.root.css("img::attr(src)").getall():
        url = page.join(src)
        folder = re.fullmatch(r"/models/([^/]+)/medhead\.jpg", path_of(url))
        if folder and folder[1].rpartition("_")[2].lstrip("0") == key:
            return [image(url)]
    name = path_of(page.join(canonical)).rpartition("/")[2].removesuffix(".htm")
    return [image(f"{_STATIC}/models/{quote(name)}/medhead.jpg")] if not name.startswith("_") else []


def _covers(page: Page, key: str) -> list[ImageRecord]:
    found = []
    for picture in page.root.css("figure img[src*='/admin/covers/']"):
        figure = picture.xpath("ancestor::figure[1]")
        credited = {_key(page.join(href)) for href in figure.css("a::attr(href)").getall()} - {None}
        if credited == {key}:
            url = page.join(picture.attrib["src"])
            found.append(
                image(urlsplit(url)._replace(path=urlsplit(url).path.replace("/medheads/", "/", 1)).geturl())
            )
    return found
