"""IAFD: pages by UUID, labels beside values, old ids that redirect."""

from __future__ import annotations

import re
from urllib.parse import quote_plus

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, file_name, image
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_UUID = re.compile(
    r"(?:matchups\.rme/|awards\.asp\?)id=([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE
)
_SAYS_NO = re.compile(r"not found|no such|does not exist|unable to|invalid|removed", re.IGNORECASE)
_GENDERS = {
    "woman": "FEMALE",
    "man": "MALE",
    "trans woman": "TRANSGENDER_FEMALE",
    "trans man": "TRANSGENDER_MALE",
    "non-binary": "NON_BINARY",
    "f": "FEMALE",
    "m": "MALE",
    "tf": "TRANSGENDER_FEMALE",
    "tm": "TRANSGENDER_MALE",
}
# The form for corrections has the site's older id. It says "f" of trans women; their id has one of these endings.
_TRANS_IDS = {"_mtf": "TRANSGENDER_FEMALE", "_ftm": "TRANSGENDER_MALE"}
_TRANS = {"FEMALE": "TRANSGENDER_FEMALE", "MALE": "TRANSGENDER_MALE"}
_AKA = ("performer aka", "aka")
_LINKS = ("website", "websites", "social network", "digital distribution platform", "external sites")
_NO_FACE = ("nophoto", "th_iafd_ad")
_NO_ALIAS = ("", "no known aliases", "no data", "none")


class Iafd(PageSite):
    """Its alias lines name the studio that used the alias. Such an alias may be published."""

    name = "iafd"
    hosts = ("iafd.com",)
    page_selector = "h1"
    usual_fields = ("credited", "aliases", "gender", "links", "images")
    example = "https://www.iafd.com/person.rme/id=1"
    by_name = True

    def is_missing(self, page: Page) -> bool:
        """True when the heading says that the page is missing, and no biography follows it."""
        return not page.root.select("p.bioheading") and bool(_SAYS_NO.search(page.root.text_of("h1")))

    def parse(self, page: Page, key: str) -> Profile:
        """The name, aliases with their studios, gender, links, and the head shot. The key is the UUID if the page has it."""
        page.need("p.bioheading")
        name = page.root.text_of("h1")
        facts = _facts(page)
        credited, bare = _aliases([value for label in _AKA for value in facts.get(label, ())])
        newer = _uuid(page)
        return Profile(
            key=newer if newer and ":" in key else key,
            name=name,
            aliases=distinct(bare, name),
            credited=distinct(credited, name),
            gender=_gender(page, facts),
            links=tuple(
                url for label in _LINKS for value in facts.get(label, ()) for url in value.links("a[href]")
            ),
            images=tuple(_images(page)),
            urls=(page.url, f"{self.home}/person.rme/id={newer}") if newer else (),
        )

    def search(self, name: str) -> str:
        """The address of the search over all kinds of pages."""
        return f"{self.home}/results.asp?searchtype=comprehensive&searchstring={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The rows of the tables of performers. A row without a picture is a person too; directors are in another table."""
        found = []
        for row in page.root.select("#tblFem tr, #tblMal tr"):
            for link in row.select("td:nth-of-type(2) a[href]")[:1]:
                aliases = [alias for text in row.texts("td.text-left")[:1] for alias in text.split(",")]
                found.append(Candidate(distinct([link.text, *aliases]), link.link))
        return tuple(found)


def _facts(page: Page) -> dict[str, list[Element]]:
    """The values by label: elements that follow it, up to the next label. A label may have none."""
    facts: dict[str, list[Element]] = {}
    for heading in page.root.select("p.bioheading"):
        values = [element for element in heading.after(".bioheading").elements if element.matches(".biodata")]
        facts.setdefault(heading.text.rstrip(": ").casefold(), []).extend(values)
    return facts


def _uuid(page: Page) -> str | None:
    """The UUID of a page under an older id, from its own tabs."""
    tabs = page.root.attributes("[data-src]", "data-src") or page.root.links("a[href*='awards.asp']")
    return next((match[1].lower() for text in tabs if (match := _UUID.search(text))), None)


def _aliases(values: list[Element]) -> tuple[list[str], list[str]]:
    """Aliases with a studio, and aliases without. A line "X or Y" is skipped, because it belongs to neither."""
    credited: list[str] = []
    bare: list[str] = []
    lines = (line for value in values for line in value.lines)
    for part in (part for line in lines for part in _parts(line)):
        name, _, studios = part.partition("(")
        if " or " in name or name.strip().casefold() in _NO_ALIAS:
            continue
        (credited if studios.strip(") ") else bare).append(name)
    return credited, bare


def _parts(line: str) -> list[str]:
    """A line parted by the commas outside of brackets: `A, B (one, two)` → `A`, `B (one, two)`."""
    parts, depth = [""], 0
    for character in line:
        depth = max(0, depth + (character == "(") - (character == ")"))
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _gender(page: Page, facts: dict[str, list[Element]]) -> str | None:
    """The stated gender, or else that of the form for corrections with the mark in the older id."""
    for value in facts.get("gender", ()):
        if value.text.casefold() in _GENDERS:
            return _GENDERS[value.text.casefold()]
    stated = page.root.attributes("form#correct input[name=Gender]", "value")
    gender = next((_GENDERS[text.casefold()] for text in stated if text.casefold() in _GENDERS), None)
    ids = [text.casefold() for text in page.root.attributes("form#correct input[name=PerfID]", "value")]
    for mark, trans in _TRANS_IDS.items():
        if any(mark in text for text in ids):
            return trans
    return _TRANS.get(gender or "", gender) if any("_ts" in text for text in ids) else gender


def _images(page: Page) -> list[ImageRecord]:
    urls = page.root.images("#headshot img")
    return [image(_full(url)) for url in urls if not any(word in url.lower() for word in _NO_FACE)][:1]


def _full(url: str) -> str:
    """`headshots/thumbs/th_x.jpg` → `headshots/x.jpg`."""
    name = file_name(url)
    if "/headshots/thumbs/" not in url or not name.startswith("th_"):
        return url
    return url.replace("/headshots/thumbs/th_", "/headshots/", 1)
