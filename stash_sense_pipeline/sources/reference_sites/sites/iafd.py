"""IAFD: pages by UUID, labels beside values, old ids that redirect."""

from __future__ import annotations

import re
from urllib.parse import quote_plus

from parsel import Selector

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.reference_sites.page import (
    Page,
    distinct,
    file_name,
    image,
    parts_between_breaks,
    text_of,
)
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_HOME = "https://www.iafd.com"
_UUID = re.compile(
    r"(?:matchups\.rme/|awards\.asp\?)id=([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE
)
_SAYS_NO = re.compile(r"not found|no such|does not exist|unable to|invalid|removed", re.IGNORECASE)
_GENDERS = {
    "woman": "FEMALE",
    "man": "MALE",
    "trans woman": "TRANSGENDER_FEMALE",
    "trans man": "TRANSGENDER_MALE",
    "f": "FEMALE",
    "m": "MALE",
}
_AKA = ("performer aka", "aka")
_LINKS = ("website", "social network", "digital distribution platform")
_NO_FACE = ("nophoto", "th_iafd_ad")


class Iafd(PageSite):
    """Its alias lines name the studio that used the alias. Such an alias may be published."""

    name = "iafd"
    hosts = ("iafd.com",)
    page_selector = "h1"
    example = "https://www.iafd.com/person.rme/id=1"
    by_name = True

    def is_missing(self, page: Page) -> bool:
        """True when the heading says that the page is missing, and no biography follows it."""
        return not page.root.css("p.bioheading") and bool(_SAYS_NO.search(page.first("h1")))

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases with their studios, gender, links, and the head shot. The key is the UUID if the page has it."""
        page.need("p.bioheading")
        name = page.first("h1")
        facts = {_label(heading): heading for heading in page.root.css("p.bioheading")}
        credited, bare = _aliases([value for label in _AKA for value in _values(facts, label)])
        newer = _UUID.search(page.text)
        return Profile(
            key=newer[1].lower() if newer and ":" in key else key,
            name=name,
            aliases=distinct(bare, name),
            credited=distinct(credited, name),
            gender=_gender(page, facts),
            links=tuple(
                page.join(href)
                for label in _LINKS
                for value in _values(facts, label)
                for href in value.css("a::attr(href)").getall()
            ),
            images=tuple(self._images(page)),
            urls=(page.url, f"{_HOME}/person.rme/id={newer[1].lower()}") if newer else (),
        )

    def search(self, name: str) -> str:
        """The address of the search over all kinds of pages."""
        return f"{_HOME}/results.asp?searchtype=comprehensive&searchstring={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The rows of the tables of women and men, without the advertisements between them."""
        found = []
        for row in page.root.css("#tblFem tr, #tblMal tr"):
            link = row.css("td:nth-child(2) a[href]")
            if not link or any("th_iafd_ad" in src for src in row.css("img::attr(src)").getall()):
                continue
            aliases = text_of(row.css("td.text-left")[0]).split(",") if row.css("td.text-left") else []
            found.append(Candidate(distinct([text_of(link[0]), *aliases]), page.join(link[0].attrib["href"])))
        return tuple(found)

    def _images(self, page: Page) -> list[ImageRecord]:
        urls = [page.join(src) for src in page.root.css("#headshot img::attr(src)").getall()]
        kept = [url for url in urls if url and not any(word in url.lower() for word in _NO_FACE)]
        return [image(_full(url)) for url in kept[:1]]


def _full(url: str) -> str:
    """`headshots/thumbs/th_x.jpg` → `headshots/x.jpg`."""
    name = file_name(url)
    if "/headshots/thumbs/" not in url or not name.startswith("th_"):
        return url
    return url.replace("/headshots/thumbs/th_", "/headshots/", 1)


def _label(heading: Selector) -> str:
    return text_of(heading).rstrip(":").casefold()


def _values(facts: dict[str, Selector], label: str) -> list[Selector]:
    """The elements between a label and the next one. A label may have no value."""
    heading = facts.get(label)
    found: list[Selector] = []
    for element in heading.xpath("following-sibling::*[position() <= 8]") if heading is not None else ():
        classes = element.attrib.get("class", "").split()
        if "bioheading" in classes:
            break
        if "biodata" in classes:
            found.append(element)
    return found


def _aliases(values: list[Selector]) -> tuple[list[str], list[str]]:
    """Aliases with a studio, and aliases without. A line "X or Y" is skipped, because it belongs to neither."""
    credited: list[str] = []
    bare: list[str] = []
    for line in (line for value in values for line in parts_between_breaks(value)):
        name, _, studios = line.partition("(")
        if " or " in name or name.strip().casefold() in ("", "no known aliases", "no data", "none"):
            continue
        (credited if studios.strip(") ") else bare).append(name)
    return credited, bare


def _gender(page: Page, facts: dict[str, Selector]) -> str | None:
    said = [text_of(value) for value in _values(facts, "gender")]
    said += page.root.css("form#correct input[name=Gender]::attr(value)").getall()
    return next((_GENDERS[text.casefold()] for text in said if text.casefold() in _GENDERS), None)
