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
    """Women only, which is the site's scope and no observation of a person: it gives no gender."""

    name = "babepedia"
    hosts = ("babepedia.com",)
    page_selector = "h1#babename"
    by_name = True
    referer = True

    def is_missing(self, page: Page) -> bool:
        """A page that says so in its title or heading, and has no name."""
        if page.root.css(self.page_selector):
            return False
        said = f"{page.first('title')} {page.first('h1')}".casefold()
        return any(words in said for words in _MISSING)

    def parse(self, page: Page, key: str) -> Profile:
        """Name, the "Also known as" line, portraits of the profile box, uploads and gallery tiles of this name."""
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
        """The autocomplete. Some names with a hyphen are only found with a blank in its place."""
        return f"{_HOME}/ajax-search.php?term={quote(name.replace('-', ' '))}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """`label` may be an alias; `value` is the name of the page."""
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
    """Does the file's name begin with the name of this page? Namesakes' and related people's files do not."""
    stem = fold(file_name(url).rpartition(".")[0])
    return any(stem.startswith(wanted) for wanted in (fold(name), fold(key)))
