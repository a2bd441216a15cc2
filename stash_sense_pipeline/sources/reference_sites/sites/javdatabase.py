"""JavDatabase: names in either order, Japanese name as key, numbered namesakes."""

from __future__ import annotations

import re
from urllib.parse import quote_plus, urlsplit

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, file_name, image, path_of
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.page_site import Candidate, PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile

_COLUMN = re.compile(r"(?<!\s)\s*[-–|]\s*JAV\s+Profile$", re.IGNORECASE)
_BOLD = "b, strong"
_JAPANESE = ("jp", "japanese", "japanese name", "name (japanese)")
_OTHER = ("alt", "alt name", "alt names", "alternate name", "alternate names", "alias", "aliases", "aka")
_BETWEEN_NAMES = re.compile(r"[,;、，/|（）()]|(?<!\s)\s+-(?:\s+|$)")
_NO_NAME = ("?", "??", "unknown", "none", "n/a", "-", "")
# Films, other people, visitors, and the frame of the site.
_NOT_HERS = (
    ".borderlesscard, .idol-thumb, #comments, .comment, header:not(main header, article header), footer, nav, aside,"
    " [rel~=sponsored]"
)
_ACCOUNT = "a[href]:has(i[class*=fa-]), a[href*='twitter.com/'], a[href*='x.com/']"


class JavDatabase(PageSite):
    """The site lists women only. That is no statement about a single person, so no gender is read."""

    name = "javdatabase"
    hosts = ("javdatabase.com",)
    page_selector = "h1.idol-name, h1.h3"
    usual_fields = ("aliases", "links", "images")
    example = "https://www.javdatabase.com/idols/example/"
    by_name = True
    follows = True
    either_order = True

    def is_missing(self, page: Page) -> bool:
        """True for the error page of WordPress, which has a class of its own."""
        return bool(page.root.select("body.error404, .page-404"))

    def parse(self, page: Page, key: str) -> Profile:
        """The name, Japanese and other names, accounts, and the portrait with exactly this slug."""
        stated = parse_profile(page.canonical) if page.canonical else None
        if stated is not None and stated.key.site == self.name:
            key = stated.key.key
        heading = page.root.text_of("h1.idol-name") or page.root.text_of("h1.h3")
        name = _COLUMN.sub("", heading)
        return Profile(
            key=key,
            name=name,
            aliases=distinct([*_labelled(page, _JAPANESE), *_labelled(page, _OTHER)], name),
            links=tuple(_accounts(page)),
            images=tuple(_portrait(page, key)),
        )

    def search(self, name: str) -> str:
        """The address of the search among people."""
        return f"{self.home}/?post_type=idols&s={quote_plus(name)}"

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The links to people. A link shows a name as text, or as description of its picture."""
        found = []
        for link in page.root.select("a[href*='/idols/']"):
            shown = [link.text, link.attribute("title"), *link.attributes("img", "alt")]
            names = distinct(_COLUMN.sub("", name) for name in shown)
            found.append(Candidate(tuple(each for name in names for each in _either_order(name)), link.link))
        return tuple(found)


def _either_order(name: str) -> tuple[str, ...]:
    """The romanised name, and the same with its two words swapped."""
    words = name.split()
    return distinct([name, " ".join(reversed(words))]) if len(words) == 2 else (name,)


def _labelled(page: Page, labels: tuple[str, ...]) -> list[str]:
    """The names beside the first of the labels, such as `<b>JP:</b> name`."""
    for bold in page.root.select(_BOLD):
        if bold.text.rstrip(":： ").casefold() in labels and bold.closest(_NOT_HERS) is None:
            names = [name.strip(" :：-") for name in _BETWEEN_NAMES.split(_value(bold))]
            return [name for name in names if name.casefold() not in _NO_NAME]
    return []


def _value(label: Element) -> str:
    """The line after a label, up to the next label. In some layouts the label has an element, or a cell, of its own."""
    element: Element | None = label
    while element is not None and element.name not in ("p", "tr", "div", "body"):
        if lines := element.after(f"{_BOLD}, :has(b, strong)").lines:
            return lines[0]
        element = element.closest("*")
    return ""


def _accounts(page: Page) -> list[str]:
    """Links with an icon to accounts on other sites. Sponsors' links are marked as such."""
    found = [link for link in page.root.select(_ACCOUNT) if not link.matches(_NOT_HERS)]
    own = [link.link for link in found if link.closest(_NOT_HERS) is None]
    return [url for url in dict.fromkeys(own) if url and not page.base.is_own(url)]


def _portrait(page: Page, key: str) -> list[ImageRecord]:
    """The picture with exactly this slug as file name: `hana-2.webp` is a namesake's, `unknown.webp` no person's."""
    urls = page.root.images(".idol-portrait img") + page.root.images("img")
    urls += [page.join(text) for text in page.root.attributes("meta[property='og:image']", "content")]
    for url in urls:
        if path_of(url).startswith("/idolimages/") and file_name(url).rpartition(".")[0].casefold() == key:
            parts = urlsplit(url)
            return [image(parts._replace(path=parts.path.replace("/thumb/", "/full/", 1)).geturl())]
    return []
