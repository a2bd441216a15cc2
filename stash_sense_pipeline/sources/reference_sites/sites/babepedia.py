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
    path_of,
    unescaped,
)
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_THUMB = re.compile(r"_thumb\d*(\.[a-z]+)$", re.IGNORECASE)
_MISSING = ("page not found", "does not exist")
_BETWEEN_NAMES = re.compile(r"(?<!\s)\s+[-–/|]\s+|[,;]")
# The boxes of the newest layout and of the older one.
_PORTRAITS = "#profbox2 a[href], #profimg a[href], #profselect a[href]"


class Babepedia(PageSite):
    """The site lists women only. That is no statement about a single person, so no gender is read."""

    name = "babepedia"
    hosts = ("babepedia.com",)
    page_selector = "h1#babename"
    usual_fields = ("aliases", "links", "images")
    example = "https://www.babepedia.com/babe/Example"
    by_name = True
    referer = True

    def is_missing(self, page: Page) -> bool:
        """True when the page has no name, and its title or heading says that it is missing."""
        if page.root.first(self.page_selector):
            return False
        said = f"{page.root.text_of('title')} {page.root.text_of('h1')}".casefold()
        return any(words in said for words in _MISSING)

    def parse(self, page: Page, key: str) -> Profile:
        """The name, the "Also known as" line, portraits of the profile box, uploads and gallery tiles of this name."""
        name = page.root.text_of(self.page_selector)
        return Profile(
            key=key,
            name=name,
            aliases=distinct(_aliases(page), name),
            links=tuple(_links(page)),
            images=tuple(_images(page, key, name)),
        )

    def search(self, name: str) -> str:
        """The address of the autocomplete. Some names with a hyphen are only found with a blank in its place."""
        return f"{self.home}/ajax-search.php?term={quote(name.replace('-', ' '))}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The hits of the autocomplete: `value` is the name of the page, and `label` may be an alias."""
        found = []
        for hit in page.json if isinstance(page.json, list) else ():
            if isinstance(hit, dict) and isinstance(hit.get("value"), str):
                value, label = unescaped(hit["value"]), unescaped(str(hit.get("label") or ""))
                url = f"{self.home}/babe/{quote(value.replace(' ', '_'))}"
                found.append(Candidate(distinct([value, label]), url))
        return tuple(found)


def _aliases(page: Page) -> list[str]:
    """The names of the line, without the words "Also known as" before them."""
    line = page.root.first("h2#aka, #aka")
    if line is None:
        return []
    label = line.first("small")
    said = label.after("small").text if label is not None else line.text
    return _BETWEEN_NAMES.split(re.sub(r"^also known as\W*", "", said, flags=re.IGNORECASE))


def _images(page: Page, key: str, name: str) -> list[ImageRecord]:
    """Portraits and uploads by name, and the pictures of galleries that belong to this page."""
    portraits = page.root.links(_PORTRAITS)
    found = [_full(url) for url in portraits if path_of(url).startswith("/pics/") and _named(url, name, key)]
    for upload in page.root.select("[class*=useruploads] a.img"):
        if any(fold(alt) == fold(name) for alt in upload.attributes("img", "alt")):
            found.append(_full(upload.link))
    for tile in page.root.select("img"):
        if "/galleries-thumbs/" in tile.image and _is_gallery_of(tile, key, name):
            found.append(tile.image.replace("/galleries-thumbs/", "/galleries/", 1))
    return [image(url) for url in dict.fromkeys(found) if url]


def _is_gallery_of(tile: Element, key: str, name: str) -> bool:
    """True when a tile leads to a gallery of this page, or has exactly this name."""
    link = tile.closest("a")
    owner = re.match(r"/gallery/([^/]+)(?:/|$)", path_of(link.link) if link is not None else "")
    if owner is not None:
        return owner[1].replace(" ", "_").casefold() == key
    return fold(tile.attribute("alt")) == fold(name)


def _links(page: Page) -> list[str]:
    """Links to other sites. The site wraps those to OnlyFans; its other own links are lists."""
    links = []
    for url in page.root.links("#socialicons a.proficon[href]"):
        handle = re.match(r"/onlyfans/([^/?#]+)", urlsplit(url).path)
        own = urlsplit(url).hostname == urlsplit(page.url).hostname
        if own and handle:
            links.append(f"https://onlyfans.com/{handle[1]}")
        elif not own:
            links.append(url)
    return links


def _full(url: str) -> str:
    """`/pics/Name_thumb3.jpg` → `/pics/Name.jpg`."""
    return _THUMB.sub(r"\1", url)


def _named(url: str, name: str, key: str) -> bool:
    """True when the file name starts with the name of this page. Files of namesakes and related people do not."""
    stem = fold(file_name(url).rpartition(".")[0])
    return any(stem.startswith(wanted) for wanted in (fold(name), fold(key)))
