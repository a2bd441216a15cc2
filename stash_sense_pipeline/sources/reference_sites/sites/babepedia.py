"""Babepedia: pages by name, aliases, portraits with stable ids."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.reference_sites.page import (
    Page,
    distinct,
    file_name,
    fold,
    image,
    own_text,
    path_of,
    unescaped,
)
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_HOME = "https://www.babepedia.com"
_THUMB = re.compile(r"_thumb\d*(\.[a-z]+)$", re.IGNORECASE)
_MISSING = ("page not found", "does not exist")


class Babepedia(PageSite):
    """The site lists women only. That is no statement about a single person, so no gender is read."""

    name = "babepedia"
    hosts = ("babepedia.com",)
    page_selector = "h1#babename"
    example = "https://www.babepedia.com/babe/Example"
    by_name = True
    referer = True

    def is_missing(self, page: Page) -> bool:
        """True when the page has no name, and its title or heading says that it is missing."""
        if page.root.css(self.page_selector):
            return False
        said = f"{page.first('title')} {page.first('h1')}".casefold()
        return any(words in said for words in _MISSING)

    def parse(self, page: Page, key: str) -> Profile:
        """The name, the "Also known as" line, portraits of the profile box, uploads and gallery tiles of this name."""
        name = page.first(self.page_selector)
        lines = [own_text(line) for line in page.root.css("h2#aka")]
        aliases = [part for line in lines for part in re.split(r"(?<!\s)\s+[-–/]\s+", line)]
        return Profile(
            key=key,
            name=name,
            aliases=distinct(aliases, name),
            links=tuple(self._links(page)),
            images=tuple(self._images(page, key, name)),
        )

    def search(self, name: str) -> str:
        """The address of the autocomplete. Some names with a hyphen are only found with a blank in its place."""
        return f"{_HOME}/ajax-search.php?term={quote(name.replace('-', ' '))}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The hits of the autocomplete: `value` is the name of the page, and `label` may be an alias."""
        found = []
        for hit in page.json if isinstance(page.json, list) else ():
            if isinstance(hit, dict) and isinstance(hit.get("value"), str):
                value, label = unescaped(hit["value"]), unescaped(str(hit.get("label") or ""))
                url = f"{_HOME}/babe/{quote(value.replace(' ', '_'))}"
                found.append(Candidate(distinct([value, label]), url))
        return tuple(found)

    def _images(self, page: Page, key: str, name: str) -> list[ImageRecord]:
        boxes = page.root.xpath("//div[@id='profbox2' or @id='profimg' or @id='profselect']")
        urls = [page.join(href) for href in boxes.css("a.img::attr(href)").getall()]
        found = [_full(url) for url in urls if path_of(url).startswith("/pics/") and _named(url, name, key)]
        for upload in page.root.css("div[class^=useruploads] a.img"):
            if fold(upload.css("img::attr(alt)").get("")) == fold(name):
                found.append(_full(page.join(upload.attrib.get("href", ""))))
        for tile in page.root.css("img[src*='/galleries-thumbs/']"):
            target = path_of(page.join(tile.xpath("ancestor::a[1]/@href").get("")))
            owner = re.match(r"/gallery/([^/]+)(?:/|$)", target)
            if (owner and owner[1].replace(" ", "_").casefold() == key) or fold(
                tile.attrib.get("alt", "")
            ) == fold(name):
                thumb = page.join(tile.attrib["src"])
                found.append(thumb.replace("/galleries-thumbs/", "/galleries/", 1))
        return [image(url) for url in dict.fromkeys(found) if url]

    def _links(self, page: Page) -> list[str]:
        links = []
        for href in page.root.css("div#socialicons a.proficon::attr(href)").getall():
            url = page.join(href)
            handle = re.match(r"/onlyfans/([^/?#]+)", urlsplit(url).path)
            own = urlsplit(url).hostname == urlsplit(page.url).hostname
            if own and handle:
                links.append(f"https://onlyfans.com/{handle[1]}")
            elif url and not own:
                links.append(url)
        return links


def _full(url: str) -> str:
    """`/pics/Name_thumb3.jpg` → `/pics/Name.jpg`."""
    return _THUMB.sub(r"\1", url)


def _named(url: str, name: str, key: str) -> bool:
    """True when the file name starts with the name of this page. Files of namesakes and related people do not."""
    stem = fold(file_name(url).rpartition(".")[0])
    return any(stem.startswith(wanted) for wanted in (fold(name), fold(key)))
