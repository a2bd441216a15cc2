"""FreeOnes: `data-test` attributes, galleries in JSON-LD, signed image URLs."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.cleaning.text import clean_text
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, file_name, fold, image
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_GENDERS = {
    "woman": "FEMALE",
    "female": "FEMALE",
    "man": "MALE",
    "male": "MALE",
    "trans woman": "TRANSGENDER_FEMALE",
    "trans female": "TRANSGENDER_FEMALE",
    "transgender woman": "TRANSGENDER_FEMALE",
    "transgender female": "TRANSGENDER_FEMALE",
    "transfemale": "TRANSGENDER_FEMALE",
    "trans man": "TRANSGENDER_MALE",
    "trans male": "TRANSGENDER_MALE",
    "transgender man": "TRANSGENDER_MALE",
    "transgender male": "TRANSGENDER_MALE",
    "transmale": "TRANSGENDER_MALE",
    "non-binary": "NON_BINARY",
    "nonbinary": "NON_BINARY",
    "non binary": "NON_BINARY",
    "intersex": "INTERSEX",
}
# Crops of a picture. The server refuses other sizes of a signed address.
_CROP = re.compile(r"/350x350/|/\d+x\d+:\d+x\d+/")
_NO_PICTURE = re.compile(rf"{_CROP.pattern}|\.(?:mp4|m4v|webm|mov)(?:\?|$)", re.IGNORECASE)
_SHARED = re.compile(r"/(?:sharer|share|intent)\b|[?&](?:u|url|text)=", re.IGNORECASE)
_IDENTIFIES = re.compile(r"\bidentifies as\s+(.+)", re.IGNORECASE)
_TAB = re.compile(r"(?<!\s)\s+(?:Bio|Biography)$", re.IGNORECASE)
_TEASERS = "v=teasers&s=relevance&l=96&m[canPreviewFeatures]=0"
_PORTRAIT = ".dashboard-image-container img, .image-container img"
_NO_PORTRAIT = "no-image-teaser.png"


class FreeOnes(PageSite):
    """Its alias lists hold legal and invented names, so no alias is trusted."""

    name = "freeones"
    hosts = ("freeones.com", "freeones.xxx")
    # A part of a profile; teasers are on lists too.
    page_selector = "[data-test]:not([data-test=teaser-subject]):not([data-test=subject-name])"
    usual_fields = ("aliases", "gender", "links", "images", "galleries")
    example = "https://www.freeones.com/example/bio"
    by_name = True
    galleries = 3

    def address(self, url: str) -> str:
        """The address of the tab with the facts; a legacy address is fetched unchanged."""
        path = urlsplit(url).path.strip("/")
        return f"{self.home}/{path}/bio" if path and "/" not in path else url

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases, gender, links to other sites, the portrait, and the person's own galleries."""
        page.need("h1")
        heading = page.root.select("h1")[0]
        name = _name(heading)
        spans = page.root.texts("[data-test=link_span_aliases], [data-test=p_aliases]")
        return Profile(
            key=key,
            name=name,
            aliases=distinct((part for text in spans for part in text.split(",")), name),
            gender=_gender(heading),
            links=tuple(
                url
                for url in page.root.links(".social-meta a[href], form a[href]")
                if not _is_own(url) and not _SHARED.search(url)
            ),
            images=tuple(_portrait(page, key, name)),
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
            if media.get("url") and "VideoObject" not in str(media.get("@type"))
        ]
        if not found:
            for link in page.root.select("a[data-id][href][data-size]"):
                if link.attribute("data-type") != "video":
                    width, _, height = link.attribute("data-size").partition("x")
                    found.append(image(link.link, width, height))
        if not found and not galleries and not page.root.select("a[data-id][data-type=video]"):
            raise page.layout_mismatch("ImageGallery in its JSON-LD, nor a[data-id][data-size]")
        return tuple(each for each in found if each.url and not _NO_PICTURE.search(each.url))

    def search(self, name: str) -> str:
        """The address of the list of people of all genders, most relevant first."""
        return f"{self.home}/performers?q={quote(name)}&{_TEASERS}"

    def searches(self, name: str) -> tuple[str, ...]:
        """The lists of all people and of women: women may be in the second alone."""
        return self.search(name), f"{self.home}/babes?q={quote(name)}&{_TEASERS}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The teasers of the search result; the page has other teasers too."""
        found = []
        for teaser in page.root.select("#search-result [data-test=teaser-subject]"):
            names = teaser.texts("[data-test=subject-name]")
            for link in teaser.links("a[href]")[:1] or ([teaser.link] if teaser.link else []):
                found.append(Candidate(distinct(names), re.sub(r"/feed/?$", "", link)))
        return tuple(found)


def _name(heading: Element) -> str:
    """The text of the heading, without the tab's name and the child that states the gender."""
    parts = [heading.own_text, *(child.text for child in heading.children)]
    named = (_TAB.sub("", part) for part in parts if not _IDENTIFIES.search(part))
    return next(filter(None, named), "")


def _gender(heading: Element) -> str | None:
    """The gender in a child of the heading: "NAME identifies as GENDER"."""
    said = (
        _IDENTIFIES.search(part) for part in [*heading.lines, *(child.text for child in heading.children)]
    )
    words = (clean_text(match[1]).rstrip(".").casefold() for match in said if match)
    return next((_GENDERS[word] for word in words if word in _GENDERS), None)


def _portrait(page: Page, key: str, name: str) -> list[ImageRecord]:
    """The same containers show other people and sponsors, so a picture must link to this person, or have the name."""
    for picture in page.root.select(_PORTRAIT):
        url = re.sub(r"\?c.*$", "", picture.image)
        link = picture.closest("a")
        own = _owner(link.link) == key if link is not None else fold(picture.attribute("alt")) == fold(name)
        if own and url and file_name(url) != _NO_PORTRAIT and not _CROP.search(url):
            return [image(url)]
    return []


def _galleries(page: Page, key: str) -> list[str]:
    urls = page.root.links("a[href*='/photos/']")
    return list(dict.fromkeys(url.split("?")[0] for url in urls if _gallery_owner(url) == key))


def _is_own(url: str) -> bool:
    return f".{urlsplit(url).hostname}".endswith((".freeones.com", ".freeones.xxx"))


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
