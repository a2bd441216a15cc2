"""Indexxx: names by website; most pictures show other people."""

from __future__ import annotations

import re
from urllib.parse import quote_plus

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.cleaning.text import clean_text
from stash_sense_pipeline.sources.reference_sites.page import (
    Page,
    distinct,
    file_name,
    image,
    path_of,
    text_of,
)
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_HOME = "https://www.indexxx.com"
_THUMBS = re.compile(r"/thumbs/\d+x\d+/")
_BETWEEN = re.compile(r"^(?:as\b|[:\-–(]|\s)+|(?<![)\s])[)\s]+$", re.IGNORECASE)


class Indexxx(PageSite):
    """Pages ask visitors to confirm their age. An operator who enables the site confirms it."""

    name = "indexxx"
    hosts = ("indexxx.com",)
    page_selector = "h1#model-name"
    example = "https://www.indexxx.com/m/example"
    by_name = True
    referer = True
    headers = {"Cookie": "ageVerified=true"}  # noqa: RUF012

    def parse(self, page: Page, key: str) -> Profile:
        """The name, names by website, outgoing links, and the portrait with exactly this slug."""
        name = page.first(self.page_selector)
        links = page.root.css("#url-box a::attr(href)").getall()
        return Profile(
            key=key,
            name=name,
            credited=distinct(_names_at_websites(page), name),
            links=tuple(url for href in links if (url := page.join(href))),
            images=tuple(_portrait(page, key)),
        )

    def search(self, name: str) -> str:
        """The address of the search among people."""
        return f"{_HOME}/search/?query={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The panels of the search result."""
        links = page.root.css("div.modelPanel a.modelLink3[href]")
        return tuple(Candidate((text_of(link),), page.join(link.attrib["href"])) for link in links)


def _names_at_websites(page: Page) -> list[str]:
    """The names that websites used: the text next to each link to a website."""
    names = []
    for link in page.root.css("#model-websites-box a[href*='/websites/']"):
        row = link.xpath("ancestor::*[self::li or self::tr or self::p or self::div][1]")
        if len(row.css("a[href*='/websites/']")) == 1:
            said = clean_text(text_of(row[0]).replace(text_of(link), " ", 1))
            names.append(_BETWEEN.sub("", said))
    return names


def _portrait(page: Page, key: str) -> list[ImageRecord]:
    found = []
    for src in page.root.css("img.model-img::attr(src)").getall():
        url = _THUMBS.sub("/", page.join(src))
        slug = re.sub(r"-\d+$", "", file_name(url).rpartition(".")[0]).casefold()
        if path_of(url).startswith("/images/models/") and slug == key:
            found.append(image(url))
    return found[:1]
