"""EliteBabes: galleries found by name; some show two people."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import quote_plus, urlsplit

from parsel import Selector

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import (
    Page,
    distinct,
    file_name,
    fold,
    image,
    path_of,
    text_of,
)
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_HOME = "https://www.elitebabes.com"
_CONTENT = re.compile(r"/content/(\d+)/[^/]+$")
_SEVERAL = re.compile(r"\b(?:and|with|feat|ft|vs)\b|[&+,]", re.IGNORECASE)


class EliteBabes(PageSite):
    """The site lists women only. That is no statement about a single person, so no gender is read."""

    name = "elitebabes"
    hosts = ("elitebabes.com",)
    page_selector = "h2.fn, h1"
    example = "https://www.elitebabes.com/model/example/"
    by_name = True
    galleries = 3

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases, the portrait, and the sets with only this model in their title."""
        canonical = page.root.css("link[rel=canonical]::attr(href)").get("")
        if _key(page.join(canonical)) != key:
            raise page.layout_mismatch("link[rel=canonical] of a model")
        name = page.first("h2.fn") or page.first("h1")
        return Profile(
            key=key,
            name=name,
            aliases=distinct(
                (
                    alias
                    for strong in page.root.css("p.read-more strong")
                    for alias in text_of(strong).split(",")
                ),
                name,
            ),
            images=tuple(_portrait(page, name, key)),
            galleries=tuple(_sets(page, key)),
        )

    def pictures(self, page: Page, profile: Profile) -> tuple[ImageRecord, ...]:
        """The widest listed size of each picture with the page's own content id; related sets have other ids."""
        page.need("a[data-fancybox]")
        if _SEVERAL.search(page.first("h1")):
            return ()
        urls = [_widest(page, link) for link in page.root.css("a[data-fancybox]")]
        ids = Counter(match[1] for url, _, _ in urls if (match := _CONTENT.search(path_of(url))))
        ranked = ids.most_common(2)
        if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
            return ()
        own = f"/content/{ranked[0][0]}/"
        return tuple(image(url, width, height) for url, width, height in urls if own in url)

    def search(self, name: str) -> str:
        """The address of the site's search."""
        return f"{_HOME}/?s={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The hits that link to models."""
        links = page.root.css("a[href*='/model/']")
        return tuple(
            Candidate((text_of(link) or link.attrib.get("title", ""),), page.join(link.attrib["href"]))
            for link in links
        )


def _key(url: str) -> str | None:
    found = parse_profile(url)
    return found.key.key if found is not None and found.key.site == "elitebabes" else None


def _portrait(page: Page, name: str, key: str) -> list[ImageRecord]:
    for picture in page.root.xpath("//figure[not(ancestor::li)]//img[@src]"):
        url = page.join(picture.attrib["src"])
        named = fold(picture.attrib.get("alt", "")) == fold(name) or fold(file_name(url)).startswith(
            fold(key)
        )
        if url and named and "/content/lists/" not in url:
            return [image(url)]
    return []


def _sets(page: Page, key: str) -> list[str]:
    found = []
    for link in page.root.css("li > figure div.img-overlay p a[href]"):
        url = page.join(link.attrib["href"])
        slug = urlsplit(url).path.strip("/")
        title = f"{text_of(link)} {slug.replace('-', ' ')}"
        # The path of a set has one segment, which starts with the key of its model.
        if "/" not in slug and slug.startswith(f"{key}-") and not _SEVERAL.search(title):
            found.append(url)
    return list(dict.fromkeys(found))


def _widest(page: Page, link: Selector) -> tuple[str, str | None, str | None]:
    """(address, width, height) of the widest entry of `data-srcset`, which has no sizes, or else of the link."""
    listed = []
    for entry in link.attrib.get("data-srcset", "").split(","):
        words = entry.split()
        if len(words) == 2 and words[1][:-1].isdigit():
            listed.append((int(words[1][:-1]), page.join(words[0])))
    if listed:
        return max(listed)[1], None, None
    return (
        page.join(link.attrib.get("href", "")),
        link.attrib.get("data-width"),
        link.attrib.get("data-height"),
    )
