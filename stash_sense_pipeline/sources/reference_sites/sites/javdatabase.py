"""JavDatabase: names in either order, Japanese name as key, numbered namesakes."""

from __future__ import annotations

import re
from urllib.parse import quote_plus, urlsplit

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
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

_HOME = "https://www.javdatabase.com"
_EMPTY = ("?", "unknown", "")


class JavDatabase(PageSite):
    """The site lists women only. That is no statement about a single person, so no gender is read."""

    name = "javdatabase"
    hosts = ("javdatabase.com",)
    page_selector = "h1.idol-name"
    example = "https://www.javdatabase.com/idols/example/"
    by_name = True
    follows = True
    either_order = True

    def is_missing(self, page: Page) -> bool:
        """True for the error page of WordPress, which has a class of its own."""
        return bool(page.root.css("body.error404"))

    def parse(self, page: Page, key: str) -> Profile:
        """The name, Japanese and other names, the X account, and the portrait with exactly this slug."""
        canonical = page.root.css("link[rel=canonical]::attr(href)").get("")
        found = parse_profile(page.join(canonical)) if canonical else None
        if found is not None and found.key.site == self.name:
            key = found.key.key
        name = re.sub(r"(?<!\s)\s+-\s+JAV Profile$", "", page.first(self.page_selector), flags=re.IGNORECASE)
        names = [*_labelled(page, "jp"), *_labelled(page, "alt")]
        return Profile(
            key=key,
            name=name,
            aliases=distinct(names, name),
            links=tuple(
                url
                for href in page.root.xpath("//a[i[contains(@class, 'fa-square-twitter')]]/@href").getall()
                if (url := page.join(href))
            ),
            images=tuple(_portrait(page, key)),
        )

    def search(self, name: str) -> str:
        """The address of the search among people."""
        return f"{_HOME}/?post_type=idols&s={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The cards of the search result, in the newer and the older layout."""
        found = []
        for link in page.root.css("div.card.borderlesscard p.pcard a[href]"):
            found.append(Candidate(_either_order(text_of(link)), page.join(link.attrib["href"])))
        for picture in page.root.css("div.idol-thumb a[href] img[alt]"):
            url = page.join(picture.xpath("ancestor::a[1]/@href").get(""))
            found.append(Candidate(_either_order(picture.attrib["alt"]), url))
        return tuple(found)


def _either_order(name: str) -> tuple[str, ...]:
    """The romanised name, and the same with its two words swapped."""
    words = name.split()
    return distinct([name, " ".join(reversed(words))]) if len(words) == 2 else (name,)


def _labelled(page: Page, label: str) -> list[str]:
    """The values after a bold label, up to the next one."""
    for bold in page.root.css("b"):
        if text_of(bold).rstrip(":").casefold() != label:
            continue
        lines = [""]
        for node in bold.xpath("following-sibling::node()"):
            if isinstance(node.root, str):
                lines[-1] += node.root
            elif node.root.tag == "b":
                break
            elif node.root.tag == "br":
                lines.append("")
            else:
                lines[-1] += f" {text_of(node)} "
        values = [part.strip(" \t\r\n:") for line in lines for part in re.split(r"(?<!\s)\s+-\s+", line)]
        return [value for value in values if value.casefold() not in _EMPTY]
    return []


def _portrait(page: Page, key: str) -> list[ImageRecord]:
    shown = page.root.css("div.idol-portrait img")
    urls = shown.xpath("./@data-src").getall() + shown.xpath("./@src").getall()
    urls += page.root.css("meta[property='og:image']::attr(content)").getall()
    for url in filter(None, map(page.join, urls)):
        if path_of(url).startswith("/idolimages/") and file_name(url).rpartition(".")[0].casefold() == key:
            parts = urlsplit(url)
            return [image(parts._replace(path=parts.path.replace("/thumb/", "/full/", 1)).geturl())]
    return []
