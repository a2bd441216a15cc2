"""PornPics: tags that namesakes share; galleries with one model only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, file_name, fold, image, path_of
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_WORDS_AFTER_NAME = re.compile(
    r"(?<!\s)\s+(?:(?:Nude|Naked|Hot|Sexy|Porn|XXX)\s+){0,6}(?:Pics|Pictures|Photos)$", re.I
)
# The tiles of a page, without those of related galleries in `#main2`; the newest layout first.
_TILES = ("#tiles li.thumbwook a.rel-link", "li.thumbwook a.rel-link", "a.rel-link")
_RELATED = "#main2"
_GALLERY = re.compile(r"^/(?:[a-z]{2}/)?(galleries/(?:[^/]*-)?(\d+))/?$")
_ROW_TITLE = "span.gallery-info__title, .gallery-info__title"


class PornPics(PageSite):
    """A page belongs to a tag. It states no aliases, links or gender, so nothing but a name tells who a person is."""

    name = "pornpics"
    hosts = ("pornpics.com", "pornpics.de")
    page_selector = "h1"
    usual_fields = ("images", "galleries")
    example = "https://www.pornpics.com/pornstars/example/"
    galleries = 3

    def is_missing(self, page: Page) -> bool:
        """True for a tag that leads to no gallery at all."""
        return bool(page.root.select("h1")) and not page.root.select("li.thumbwook, a[href*='/galleries/']")

    def parse(self, page: Page, key: str) -> Profile:
        """The name, the head picture of that name, and the galleries of the first page."""
        galleries = [url for url in map(_gallery, _tiles(page)) if page.base.is_own(url)]
        if not galleries:
            raise page.layout_mismatch(f"{_TILES[0]}[href*='/galleries/']")
        return Profile(
            key=key,
            name=_name(page),
            images=tuple(image(url) for url in dict.fromkeys(_heads(page)) if _is_head_of(url, key)),
            galleries=tuple(dict.fromkeys(galleries)),
        )

    def pictures(self, page: Page, profile: Profile) -> tuple[ImageRecord, ...]:
        """The full pictures of a gallery that lists this model and no other."""
        gallery = _GALLERY.search(urlsplit(page.url).path)
        if gallery is None:
            raise SourceError(self.name, Outcome.NOT_FOUND, "the gallery leads away")
        page.need(_ROW_TITLE)
        if _models(page) != {profile.key}:
            return ()
        tiles = _tiles(page)
        if not tiles:
            raise page.layout_mismatch(_TILES[0])
        found = [each for tile in tiles if (each := _picture(tile, gallery[2])) is not None]
        return tuple({each.image_id: each for each in found}.values())


def _tiles(page: Page) -> list[Element]:
    """The links of the tiles, in the first layout that has any."""
    for selector in _TILES:
        if found := [tile for tile in page.root.select(selector) if tile.closest(_RELATED) is None]:
            return found
    return []


def _gallery(tile: Element) -> str:
    """The address of the gallery that a tile leads to, without the language; empty for advertisements."""
    parts = urlsplit(tile.link)
    gallery = _GALLERY.search(parts.path)
    return parts._replace(path=f"/{gallery[1]}/", query="", fragment="").geturl() if gallery else ""


def _name(page: Page) -> str:
    """The name as the page states it for search engines, or else the heading without its last words."""
    heading = page.root.text_of("h1")
    stated = (person.get("name") for person in page.json_ld("Person"))
    for name in stated:
        if isinstance(name, str) and fold(name) and fold(name) in fold(heading):
            return name
    return _WORDS_AFTER_NAME.sub("", heading)


def _heads(page: Page) -> Iterator[str]:
    yield from page.root.images("img")
    for person in page.json_ld("Person"):
        stated = person.get("image")
        yield from (
            page.join(url)
            for url in (stated if isinstance(stated, list) else [stated])
            if isinstance(url, str)
        )


def _is_head_of(url: str, key: str) -> bool:
    """True for the head picture with exactly this name: `/models/p/petra_testholm.jpg`."""
    stem = file_name(url).rpartition(".")[0]
    return bool(re.match(r"/models/[^/]+/[^/]+$", path_of(url))) and fold(stem) == fold(key)


def _models(page: Page) -> set[str]:
    """The keys in the row "Models:", whatever the language; "" for a link that is no profile."""
    for title in page.root.select(_ROW_TITLE):
        row = title.closest(".gallery-info__item")
        links = row.links("a[href]") if row is not None else title.after(_ROW_TITLE).links()
        if title.text.casefold().startswith("model") or any("/pornstars/" in url for url in links):
            found = map(parse_profile, links)
            return {one.key.key if one is not None else "" for one in found}
    return set()


def _picture(tile: Element, gallery: str) -> ImageRecord | None:
    """The full picture behind a tile of the gallery with this number; None for tiles of others.

    A tile that does not link to its picture shows a small one, which the site has in full size too.
    """
    if _is_of(tile.link, gallery):
        width, _, height = tile.attribute("data-size").partition("x")
        return image(tile.link.replace("/460/", "/1280/", 1), width, height)
    small = next((url for url in tile.images("img") if _is_of(url, gallery)), "")
    return image(small.replace("/460/", "/1280/", 1)) if small else None


def _is_of(url: str, gallery: str) -> bool:
    """True for `/1280/7/1/12345678/12345678_001_aa11.jpg`, given the number of the gallery."""
    return f"/{gallery}/" in path_of(url) and "_" in file_name(url)
