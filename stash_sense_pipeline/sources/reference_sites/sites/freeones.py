"""FreeOnes: `data-test` attributes, galleries in JSON-LD, signed image URLs."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.cleaning.text import clean_text
from stash_sense_pipeline.sources.reference_sites.page import (
    Page,
    distinct,
    file_name,
    image,
    own_text,
    text_of,
)
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_HOME = "https://www.freeones.com"
_GENDERS = {
    "woman": "FEMALE",
    "female": "FEMALE",
    "man": "MALE",
    "male": "MALE",
    "trans woman": "TRANSGENDER_FEMALE",
    "transgender woman": "TRANSGENDER_FEMALE",
    "trans man": "TRANSGENDER_MALE",
    "transgender man": "TRANSGENDER_MALE",
    "non-binary": "NON_BINARY",
    "intersex": "INTERSEX",
}
# Crops of a picture. The server refuses other sizes of a signed address.
_CROP = re.compile(r"/350x350/|/\d+x\d+:\d+x\d+/")
_SHARED = re.compile(r"/(?:sharer|share|intent)\b|[?&](?:u|url|text)=", re.IGNORECASE)
_IDENTIFIES = re.compile(r"identifies as\s+(.+)", re.IGNORECASE)


class FreeOnes(PageSite):
    """Its alias lists hold legal and invented names, so no alias is trusted."""

    name = "freeones"
    hosts = ("freeones.com", "freeones.xxx")
    page_selector = "[data-test]"
    example = "https://www.freeones.com/example/bio"
    by_name = True
    galleries = 3

    def address(self, url: str) -> str:
        """The address of the tab with the facts; a legacy address is fetched unchanged."""
        path = urlsplit(url).path.strip("/")
        return f"{_HOME}/{path}/bio" if path and "/" not in path else url

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases, gender, social profiles, the portrait, and the person's own galleries."""
        page.need("h1")
        heading = page.root.css("h1")[0]
        name = re.sub(r"(?<!\s)\s+Bio$", "", own_text(heading))
        said = _IDENTIFIES.search(text_of(heading))
        spans = page.root.css("[data-test=link_span_aliases], [data-test=p_aliases]")
        return Profile(
            key=key,
            name=name,
            aliases=distinct((part for span in spans for part in text_of(span).split(",")), name),
            gender=_GENDERS.get(clean_text(said[1]).casefold()) if said else None,
            links=tuple(
                url
                for href in page.root.css(
                    ".social-meta a::attr(href), form [data-test*=social] a::attr(href)"
                ).getall()
                if (url := page.join(href)) and not _SHARED.search(url)
            ),
            images=tuple(_portrait(page, key)),
            galleries=tuple(_galleries(page, key)),
        )

    def pictures(self, page: Page, profile: Profile) -> tuple[ImageRecord, ...]:
        """The images in the gallery's JSON-LD, or else its links with an id and a size."""
        if _gallery_owner(page.url) != profile.key:
            raise SourceError(self.name, Outcome.NOT_FOUND, "the gallery leads away")
        galleries = list(page.json_ld("ImageGallery"))
        found = [
            image(page.join(str(media["url"])), media.get("width"), media.get("height"))
            for gallery in galleries
            for media in _listed(gallery.get("associatedMedia"))
            if media.get("url")
        ]
        if not found:
            for link in page.root.css("a[data-id][href][data-size]"):
                width, _, height = link.attrib["data-size"].partition("x")
                found.append(image(page.join(link.attrib["href"]), width, height))
        if not found and not galleries:
            raise page.layout_mismatch("ImageGallery in its JSON-LD")
        return tuple(each for each in found if each.url and not _CROP.search(each.url))

    def search(self, name: str) -> str:
        """The address of the list of people, most relevant first."""
        return f"{_HOME}/babes?q={quote(name)}&v=teasers&s=relevance&l=96&m[canPreviewFeatures]=0"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The teasers of the search result; the page has other teasers too."""
        found = []
        for teaser in page.root.css("#search-result [data-test=teaser-subject]"):
            href = teaser.css("a::attr(href)").get("")
            name = teaser.css("[data-test=subject-name]")
            if href and name:
                found.append(Candidate((text_of(name[0]),), page.join(re.sub(r"/feed/?$", "", href))))
        return tuple(found)


def _portrait(page: Page, key: str) -> list[ImageRecord]:
    for picture in page.root.css(".dashboard-image-container a img[src], .image-container a img[src]"):
        link = page.join(picture.xpath("ancestor::a[1]/@href").get(""))
        url = re.sub(r"\?c.*$", "", page.join(picture.attrib["src"]))
        # The same containers show other people and sponsors, so the link must lead to this person.
        if _owner(link) == key and url and file_name(url) != "no-image-teaser.png" and not _CROP.search(url):
            return [image(url)]
    return []


def _galleries(page: Page, key: str) -> list[str]:
    urls = (page.join(href) for href in page.root.css("a[href*='/photos/']::attr(href)").getall())
    return list(dict.fromkeys(url.split("?")[0] for url in urls if _gallery_owner(url) == key))


def _owner(url: str) -> str | None:
    """The key of the person that a page or gallery belongs to."""
    found = parse_profile(url)
    if found is not None and found.key.site == "freeones":
        return found.key.key
    return _gallery_owner(url)


def _gallery_owner(url: str) -> str | None:
    match = re.match(r"/(?:[a-z]{2}/)?([^/]{3,})/photos/[^/]+/?$", urlsplit(url).path, re.IGNORECASE)
    return match[1].casefold() if match and (urlsplit(url).hostname or "").endswith("freeones.com") else None


def _listed(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
