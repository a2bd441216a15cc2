"""Boobpedia: a wiki; the infobox of an article describes a performer."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, unquote, urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.cleaning.numbers import side
from stash_sense_pipeline.sources.cleaning.text import label
from stash_sense_pipeline.sources.reference_sites.page import Page, distinct, fold, path_of
from stash_sense_pipeline.sources.reference_sites.page_elements import Element
from stash_sense_pipeline.sources.reference_sites.site import (
    PROFILE_PAGE,
    SEARCH_PAGE,
    Hit,
    Pages,
    Profile,
    Site,
    Target,
    Visit,
)
from stash_sense_pipeline.sources.reference_sites.site_address import Base
from stash_sense_pipeline.sources.reference_sites.wiki.media_wiki import (
    TITLES_A_REQUEST,
    MediaWiki,
    WikiPage,
    file_key,
    without_note,
)

_HOME = "https://www.boobpedia.com"
_NO_PAGE = WikiPage(None, "")
_ALIASES = re.compile(r"\bknown\b(?! for)|\balias(?:es)?\b|\ba\.?k\.?a\b|\b(?:other|stage) names?\b")
_LEGAL = re.compile(r"\b(?:birth|born|real|legal)\b")
_LINKS = re.compile(r"\bdatabases?\b|\blinks?\b|\bprofiles?\b|\bsocial\b|\bwebsites?\b")
_OTHER_PEOPLE = re.compile(r"\b(?:related|similar|see also|family|partners?|sisters?)\b")
_BETWEEN_NAMES = re.compile(r"[,;•|]|\s/\s")
# References to footnotes, and remarks such as the magazine that used a name.
_REMARK = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")
_THUMB = re.compile(r"/images/thumb/\w/\w\w/([^/]+)/[^/]+$")
_FILE = re.compile(r"(?:^|/)(?:File|Image):(.+)$", re.IGNORECASE)
_ICON_WORDS = frozenset({"icon", "icons", "logo", "logos", "flag", "flags"})
_NO_PICTURE = re.compile(r"placeholder|silhouette|(?<![a-z])no[-_ ]?(?:image|photo|picture)", re.IGNORECASE)
# Pixels; icons of links and flags of countries are about 20 wide.
_SMALLEST_SIDE = 50


class Boobpedia(Site):
    """A profile takes three answers of the wiki's API: the pages of up to fifty titles, the first section of each
    article, and the files of its infobox."""

    name = "boobpedia"
    hosts = ("boobpedia.com",)
    page_selector = "table.infobox"
    usual_fields = ("aliases", "links", "images")
    example = "https://www.boobpedia.com/wiki/api.php?action=query"
    by_name = True
    batch = TITLES_A_REQUEST
    wiki = MediaWiki(name, f"{_HOME}/wiki/api.php")

    async def visit(self, targets: Sequence[Target], pages: Pages) -> AsyncIterator[Visit]:
        """Visits up to fifty articles. The revision of an article is its validator."""
        titles = {title_of(target.url): target for target in targets}
        try:
            wiki_pages = await self.wiki.ask_titles(list(titles), pages)
        except SourceError as error:
            for target in targets:
                yield Visit(target, error=error)
            return
        by_title = {asked: page for page in wiki_pages for asked in page.asked}
        found: list[tuple[Target, Profile, WikiPage]] = []
        for title, target in titles.items():
            page = by_title.get(title, _NO_PAGE)
            if page.revision is not None and page.revision == target.etag:
                yield Visit(target, unchanged=True, etag=target.etag)
                continue
            try:
                found.append((target, await self._article(page, pages), page))
            except SourceError as error:
                yield Visit(target, error=error)
        try:
            files = await self.wiki.ask_files(
                [title for _, profile, _ in found for title in profile.galleries], pages
            )
        except SourceError as error:
            for target, _, _ in found:
                yield Visit(target, error=error)
            return
        for target, profile, page in found:
            with_images = replace(profile, images=images_of(profile, files), galleries=())
            pages.note_fields(PROFILE_PAGE, with_images.has(self.usual_fields))
            yield Visit(target, with_images, etag=label(page.revision))

    async def find(self, name: str, pages: Pages) -> tuple[Hit, ...]:
        """The articles and redirects of that name, with and without a note that tells namesakes apart.

        A page that lists namesakes is a hit too, so that none of them looks like the only one.
        """
        answer = await pages.page(self.wiki.search(name))
        with pages.parsing():
            titles = [
                title for title in self.wiki.read_hits(answer) if fold(without_note(title)) == fold(name)
            ]
        pages.note_fields(SEARCH_PAGE, {"hits": bool(titles)})
        asked = list(dict.fromkeys([name, *titles]))
        articles = [
            page.title
            for page in await self.wiki.ask_titles(asked, pages)
            if page.page_id is not None and (page.is_person or page.is_list_of_names)
        ]
        named = filter(None, map(key_of_title, articles))
        return tuple({key: Hit(key, url) for key, url in named}.values())

    async def _article(self, page: WikiPage, pages: Pages) -> Profile:
        if page.page_id is None:
            raise SourceError(self.name, Outcome.NOT_FOUND, "the wiki has no such article")
        named = key_of_title(page.title)
        if named is None or not page.is_person:
            raise SourceError(self.name, Outcome.AMBIGUOUS, "the article is not about one person")
        article = await pages.page(self.wiki.article(page.page_id))
        with pages.parsing():
            return self.parse(article, named[0])

    def parse(self, page: Page, key: str) -> Profile:
        """The profile of an infobox. Its `galleries` are titles of files: `images_of` turns them into images."""
        title, article = self.wiki.read_article(page)
        box = article.root.first(self.page_selector)
        if box is None:
            raise article.layout_mismatch(self.page_selector)
        rows, name = list(_rows(box, article.base)), without_note(title)
        files = tuple(dict.fromkeys(_files(rows, name)))
        if not files and not any(row.label or row.links for row in rows):
            raise article.layout_mismatch(f"{self.page_selector} with a label, a picture or a link")
        return Profile(
            key=key,
            name=name,
            aliases=distinct(_aliases(rows), title, name),
            links=tuple(dict.fromkeys(_links(rows))),
            galleries=files,
        )

    def read_titles(self, page: Page) -> tuple[list[WikiPage], dict[str, str]]:
        """The pages of an answer about titles, and the parameters that continue it."""
        return self.wiki.read_titles(page)


@dataclass(frozen=True)
class Row:
    """A row of an infobox: a label beside a value, or one cell as wide as the box, below the `heading` of its section.

    Above the first label there is no section: the name and the portrait stand there. `label` and `heading` are in lower
    case, and "" where there is none. `value` is the last cell. `links` are those to other sites.
    """

    label: str
    value: Element
    links: Sequence[str]
    heading: str


def title_of(url: str) -> str:
    """The title in a canonical address."""
    return unquote(urlsplit(url).path).rpartition("/boobs/")[2].replace("_", " ")


def key_of_title(title: str) -> tuple[str, str] | None:
    """(key, canonical address) of a title; None when it cannot be a person's page."""
    found = parse_profile(f"{_HOME}/boobs/{title.replace(' ', '_')}")
    return (found.key.key, found.url) if found is not None and found.url else None


def images_of(profile: Profile, files: Mapping[str, ImageRecord]) -> tuple[ImageRecord, ...]:
    """The images of a profile from `parse`, in order. Files with no known address are left out."""
    return tuple(files[key] for title in profile.galleries if (key := file_key(title)) in files)


def _rows(box: Element, base: Base) -> Iterator[Row]:
    """The rows of an infobox from top to bottom. A heading is no row of its own."""
    heading, has_labels = "", False
    for row in box.select("tr"):
        cells = [cell for cell in row.children if cell.name in ("td", "th")]
        table = row.closest("table")
        if not cells or table is None or table.tag is not box.tag:
            continue
        links = [url for url in row.links("a[href]") if not base.is_own(url)]
        text = cells[0].text.casefold()
        if len(cells) > 1:
            has_labels = True
            yield Row(text, cells[-1], links, heading)
        elif links or not _is_heading(cells[0]):
            yield Row("", cells[0], links, heading)
        else:
            heading = text if has_labels or _LINKS.search(text) else ""


def _is_heading(cell: Element) -> bool:
    """True for a cell, without links to other sites, that is the title of what follows."""
    if not cell.text or cell.first("img"):
        return False
    return cell.name == "th" or bool(cell.attribute("style")) or cell.text in cell.texts("b, strong, big")


def _aliases(rows: Sequence[Row]) -> Iterator[str]:
    """The names beside labels such as "Also known as". Birth names and real names have labels of their own."""
    for row in rows:
        if _ALIASES.search(row.label) and not _LEGAL.search(row.label):
            for line in row.value.lines:
                yield from _BETWEEN_NAMES.split(_REMARK.sub("", line))


def _links(rows: Sequence[Row]) -> Iterator[str]:
    """Links to other sites below or beside titles such as "Databases" and "Links and profiles"."""
    for row in rows:
        title = f"{row.heading} {row.label}"
        if _LINKS.search(title) and not _OTHER_PEOPLE.search(title):
            yield from row.links


def _files(rows: Sequence[Row], name: str) -> Iterator[str]:
    """The titles of the performer's pictures: those above all sections, in cells as wide as the box."""
    for row in rows:
        if row.label or row.heading:
            continue
        for picture in row.value.select("img"):
            title = _file_of(picture)
            if title and not _is_small(picture) and not _is_icon(title, name):
                yield title


def _file_of(picture: Element) -> str:
    """The title of the file that a picture links to, or else that its thumbnail was made of; empty when unknown."""
    link = picture.closest("a")
    address = link.link if link is not None else ""
    for text in (*parse_qs(urlsplit(address).query).get("title", ()), path_of(address)):
        if found := _FILE.search(text):
            return found[1].replace("_", " ")
    thumb = _THUMB.search(path_of(picture.image))
    return thumb[1].replace("_", " ") if thumb else ""


def _is_small(picture: Element) -> bool:
    sides = [side(picture.attribute(name)) for name in ("width", "height")]
    return any(pixels is not None and pixels <= _SMALLEST_SIDE for pixels in sides)


def _is_icon(title: str, name: str) -> bool:
    """True for a file of decoration. A word of the performer's name says nothing about a file."""
    words = {word for word in re.split(r"[^a-z]+", title.casefold()) if word}
    marks = (words & _ICON_WORDS) - set(fold(name).split())
    return bool(marks) or title.lower().endswith(".svg") or bool(_NO_PICTURE.search(title))
