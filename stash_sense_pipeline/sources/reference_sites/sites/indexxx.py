"""Indexxx: names by website; most pictures show other people."""

from __future__ import annotations

import re
from urllib.parse import quote_plus

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, file_name, image, path_of
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_THUMBS = re.compile(r"/thumbs/\d+x\d+/")
# A website with its names: a link out, or a text for a site that is closed.
_WEBSITE = "a.websiteLink, span.websiteLink"
_IN_ERROR = re.compile(r"\b(?:remove|delete)\b", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\(([^()]*)\)")


class Indexxx(PageSite):
    """Pages ask visitors to confirm their age. An operator who enables the site confirms it."""

    name = "indexxx"
    hosts = ("indexxx.com",)
    page_selector = "h1#model-name"
    usual_fields = ("credited", "links", "images")
    example = "https://www.indexxx.com/m/example"
    by_name = True
    referer = True
    headers = {"Cookie": "ageVerified=true"}  # noqa: RUF012

    def parse(self, page: Page, key: str) -> Profile:
        """The name, names by website, outgoing links, and the portrait with exactly this slug."""
        name = page.root.text_of(self.page_selector)
        return Profile(
            key=key,
            name=name,
            credited=distinct(_names_at_websites(page), name),
            links=tuple(page.root.links("#url-box a[href]")),
            images=tuple(_portrait(page, key)),
        )

    def search(self, name: str) -> str:
        """The address of the search among people."""
        return f"{self.home}/search/?query={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The panels of the search result. A panel shows other names in brackets; one without an address has no page."""
        found = []
        for panel in page.root.select("div.modelPanel"):
            others = [name for part in _IN_BRACKETS.findall(panel.text) for name in part.split(",")]
            for link in panel.select("a.modelLink3[href]"):
                found.append(Candidate(distinct([link.text, *others]), link.link))
        return tuple(found)


def _names_at_websites(page: Page) -> list[str]:
    """The names that websites used. Several names at one website are in a list below it."""
    box = page.root.first("#model-websites-box")
    if box is None:
        return []
    if box.select("li") and not box.select(_WEBSITE):
        raise page.layout_mismatch(f"#model-websites-box with {_WEBSITE}")
    names = []
    for alias in box.select(".alias"):
        website = _website(alias)
        if website is not None and not _is_in_error(alias, website):
            names.append(alias.text)
    return names


def _website(alias: Element) -> Element | None:
    """The list item of the website that used a name: the nearest one with a website."""
    item = alias.closest("li")
    while item is not None and not _has_website(item):
        item = item.closest("li")
    return item


def _has_website(item: Element) -> bool:
    """True when a website stands in the list item itself, not only in a list below it."""
    return any(
        own.tag is item.tag for website in item.select(_WEBSITE) if (own := website.closest("li")) is not None
    )


def _is_in_error(alias: Element, website: Element) -> bool:
    """True when the note on a name asks to remove it: the name is another model's. A name in a list below a website may
    have no note of its own; that of the website holds for it."""
    notes = [note for note in alias.after(".alias").elements if note.matches(".count, .descr")]
    if not notes:
        notes = [
            note for child in website.children if child.name == "span" for note in child.select(".descr")
        ]
    return any(_IN_ERROR.search(note.text) for note in notes)


def _portrait(page: Page, key: str) -> list[ImageRecord]:
    for picture in page.root.select("img.model-img"):
        url = _THUMBS.sub("/", picture.image)
        slug = re.sub(r"-\d+$", "", file_name(url).rpartition(".")[0]).casefold()
        if path_of(url).startswith("/images/models/") and slug == key:
            return [image(url)]
    return []
