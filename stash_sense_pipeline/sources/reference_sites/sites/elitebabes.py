"""EliteBabes: sets of pictures; a set belongs to the one model that it links to."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import quote_plus, urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, file_name, fold, image, path_of
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_CONTENT = re.compile(r"/content/(\d+)/[^/]+$")
_MODEL = "a[href*='/model/']"
# The tags of a set, among them its models, on the set's page; in order of preference.
_TAGS = ("p.link-btn", ".link-btn", "#content > p")
# The pictures of a set; in order of preference.
_PICTURES = ("a[data-fancybox]", "ul.list-gallery a[href*='/content/']")


class EliteBabes(PageSite):
    """The site lists women only. That is no statement about a single person, so no gender is read."""

    name = "elitebabes"
    hosts = ("elitebabes.com",)
    page_selector = "h2.fn, h1"
    usual_fields = ("aliases", "images", "galleries")
    example = "https://www.elitebabes.com/model/example/"
    by_name = True
    galleries = 3

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases, the portrait, and the sets of this model alone."""
        if _key(page.canonical) != key:
            raise page.layout_mismatch("link[rel=canonical] of a model")
        name = page.root.text_of("h2.fn") or page.root.text_of("h1")
        aliases = [
            alias for text in page.root.texts("p.read-more strong") for alias in re.split(r"[,;]", text)
        ]
        return Profile(
            key=key,
            name=name,
            aliases=distinct(aliases, name),
            images=tuple(_portrait(page, name, key)),
            galleries=tuple(_sets(page, key)),
        )

    def pictures(self, page: Page, profile: Profile) -> tuple[ImageRecord, ...]:
        """The widest listed size of each picture of a set that links to this model and to no other.

        Only pictures with the content id of most pictures are the set's own: related sets have other ids.
        """
        if not _is_set(page.url):
            raise SourceError(self.name, Outcome.NOT_FOUND, "the set leads away")
        tags = page.need_one(*_TAGS)
        if _models(tags) != {profile.key}:
            return ()
        found = page.need_one(*_PICTURES)
        ids = Counter(match[1] for link in found if (match := _CONTENT.search(path_of(link.link))))
        ranked = ids.most_common(2)
        if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
            return ()
        own = f"/content/{ranked[0][0]}/"
        return tuple(picture for link in found if own in (picture := _full(link)).url)

    def search(self, name: str) -> str:
        """The address of the site's search."""
        return f"{self.home}/?s={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The hits that link to models. A hit shows its name as text or as description of its picture."""
        return tuple(
            Candidate(
                distinct([link.text, link.attribute("title"), *link.attributes("img", "alt")]), link.link
            )
            for link in page.root.select(_MODEL)
        )


def _key(url: str) -> str | None:
    found = parse_profile(url)
    return found.key.key if found is not None and found.key.site == "elitebabes" else None


def _models(elements: list[Element]) -> set[str]:
    """The keys of the models that the elements link to; a link to the list of models is none."""
    links = (url for element in elements for url in element.links(_MODEL))
    return {key for url in links if (key := _key(url)) is not None}


def _portrait(page: Page, name: str, key: str) -> list[ImageRecord]:
    for picture in page.root.select("figure img"):
        url = picture.widest_image
        named = fold(picture.attribute("alt")) == fold(name) or fold(file_name(url)).startswith(fold(key))
        # Tiles of sets and of related models are in lists; `lists/` has small pictures for such tiles.
        if url and named and picture.closest("li") is None and "/content/lists/" not in url:
            return [image(url)]
    return []


def _sets(page: Page, key: str) -> list[str]:
    """The sets with a tile that links to this model alone. In a layout without such links all sets are listed: the page of a
    set says the same."""
    tiles = [tile for figure in page.root.select("li figure") if (tile := figure.closest("li")) is not None]
    stated = [(tile, _models([tile])) for tile in tiles]
    own = [tile for tile, models in stated if models == {key}]
    if not any(models for tile, models in stated if _set_of(tile)):
        own = tiles
    return list(dict.fromkeys(url for tile in own if (url := _set_of(tile))))


def _set_of(tile: Element) -> str:
    """The address of the set that a tile leads to."""
    links = tile.links("div.img-overlay p a[href]") + tile.links("figure a[href]")
    return next(filter(_is_set, links), "")


def _is_set(url: str) -> bool:
    """True for a path of one segment on the site itself. Models, tags and lists have more; videos are on other hosts."""
    parts = urlsplit(url)
    slug = parts.path.strip("/")
    return parts.hostname in ("elitebabes.com", "www.elitebabes.com") and bool(slug) and "/" not in slug


def _full(link: Element) -> ImageRecord:
    """The widest entry of the link's `data-srcset`, which has no sizes, or else the linked picture."""
    url = link.widest_image
    if url:
        return image(url)
    return image(link.link, link.attribute("data-width"), link.attribute("data-height"))
