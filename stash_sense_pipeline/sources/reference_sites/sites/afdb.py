"""AFDB: numeric ids, read by text and path; co-stars share a portrait folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, file_name, image, path_of
from stash_sense_pipeline.sources.reference_sites.page_site import PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_AKA = re.compile(r"\b(?:A\.?K\.?A\.?|Also known as|Alias(?:es)?)\s*:", re.IGNORECASE)
# Labels that may follow the names on the same line.
_NEXT_LABEL = re.compile(
    r"\b(?:(?i:birth\s?(?:day|date|place|name)|date of birth|real name|years? active|(?:hair|eye)\s?colou?r)|[A-Z][a-z]+)"
    r"\s*:"
)
# Remarks such as the studio that used a name.
_REMARK = re.compile(r"\([^()]*\)")
_BETWEEN_NAMES = re.compile(r"[,;|•]|\s/\s")
_NO_ALIAS = ("none", "n/a", "unknown", "-")
_PICTURES = ("jpg", "jpeg", "png", "webp")


class Afdb(PageSite):
    """The site has no search, and states no gender. Its outgoing links lead to shops, so none is read.

    Its CSS classes are those of a style library and have no meaning, so that facts are found by their labels, and
    pictures by the number in their address.
    """

    name = "afdb"
    hosts = ("adultfilmdatabase.com",)
    page_selector = "h1.w3-opacity"
    usual_fields = ("aliases", "images")
    example = "https://www.adultfilmdatabase.com/actor/example-1/"

    def parse(self, page: Page, key: str) -> Profile:
        """The name, the names after "AKA:", and the pictures with the number of this page."""
        heading = page.root.text_of(self.page_selector)
        name = re.sub(rf"(?<!\s)\s*(?:[-|(#]\s*)?{key}\)?$", "", heading).strip()
        return Profile(
            key=key,
            name=name,
            aliases=distinct(_aliases(_facts(page, heading)), name),
            images=tuple(_images(page, key)),
        )


def _facts(page: Page, heading: str) -> list[str]:
    """The lines of text between the heading of the page and the next one. Films and co-stars stand below that."""
    lines = [line for body in page.root.select("body") for line in body.lines]
    start = lines.index(heading) + 1 if heading in lines else 0
    headings = set(page.root.texts("h2, h3"))
    end = next((place for place, line in enumerate(lines[start:], start) if line in headings), len(lines))
    return lines[start:end]


def _aliases(lines: Sequence[str]) -> list[str]:
    """The names after the label, up to the next label. They may begin on the next line, and go on after a comma."""
    for place, line in enumerate(lines):
        if label := _AKA.search(line):
            said = line[label.end() :].strip()
            for more in lines[place + 1 :]:
                if (said and not said.endswith(",")) or _NEXT_LABEL.match(more):
                    break
                said = f"{said} {more}"
            names = _BETWEEN_NAMES.split(_REMARK.sub("", _NEXT_LABEL.split(said, 1)[0]))
            return [name for name in names if name.strip().casefold() not in _NO_ALIAS]
    return []


def _images(page: Page, key: str) -> list[ImageRecord]:
    # A page has thousands of links: only those that contain the number are looked at.
    urls = page.root.images("img") + page.root.links(f"a[href*='{key}']")
    return [image(url) for url in dict.fromkeys(urls) if _belongs(url, key)]


def _belongs(url: str, key: str) -> bool:
    """True for `/Graphics/PornStars/name_KEY.jpg` and `/graphics/galleries/KEY/….jpg`, in any case of the letters."""
    folder, _, _ = path_of(url).lower().rpartition("/")
    stem, _, ending = file_name(url).lower().rpartition(".")
    if ending not in _PICTURES:
        return False
    if folder == "/graphics/pornstars":
        return "_" in stem and stem.rpartition("_")[2] == key
    return folder == f"/graphics/galleries/{key}"
