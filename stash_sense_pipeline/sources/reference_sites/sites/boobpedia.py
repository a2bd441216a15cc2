"""Boobpedia: MediaWiki API, fifty titles a request, infoboxes and files."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from parsel import Selector

from stash_sense_pipeline.foundation.errors import LayoutChangedError, Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.cleaning.text import label
from stash_sense_pipeline.sources.reference_sites.page import (
    Page,
    distinct,
    fold,
    image,
    parts_between_breaks,
    text_of,
)
from stash_sense_pipeline.sources.reference_sites.site import Hit, Pages, Profile, Site, Target, Visit

_HOME = "https://www.boobpedia.com"
_API = f"{_HOME}/wiki/api.php"
_SHARED = {"format": "json", "formatversion": "2", "maxlag": "5"}
_TITLES_A_REQUEST = 50
# The wiki splits a long answer into several. More parts than this come from a server that is no wiki.
_MOST_CONTINUATIONS = 20
_NO_PICTURE = re.compile(r"icon|flag|logo|\.svg$|placeholder|no[-_ ]?image", re.IGNORECASE)
_NO_PERSON = re.compile(r"compan|studio|website|magazine|\blists?\b|disambig|event|award", re.IGNORECASE)
_NOTE = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class WikiPage:
    """A page of the wiki, from the answer to `question`. `asked`: the titles that lead to it."""

    page_id: int | None
    title: str
    revision: str | None
    asked: tuple[str, ...]
    is_person: bool

    def joined(self, other: WikiPage) -> WikiPage:
        """What two parts of an answer say about the same page."""
        return WikiPage(
            page_id=self.page_id or other.page_id,
            title=self.title,
            revision=self.revision or other.revision,
            asked=tuple(sorted({*self.asked, *other.asked})),
            is_person=self.is_person and other.is_person,
        )


_NO_PAGE = WikiPage(None, "", None, (), False)


class Boobpedia(Site):
    """A profile takes three answers of the wiki's API: the pages of up to fifty titles, the first section of each
    article, and the files of its infobox."""

    name = "boobpedia"
    hosts = ("boobpedia.com",)
    page_selector = "table.infobox"
    example = "https://www.boobpedia.com/wiki/api.php?action=query"
    by_name = True
    batch = _TITLES_A_REQUEST

    async def visit(self, targets: Sequence[Target], pages: Pages) -> AsyncIterator[Visit]:
        """Visits up to fifty articles. The revision of an article is its validator."""
        titles = {self.title_of(target.url): target for target in targets}
        try:
            wiki_pages = await self._ask_titles(list(titles), pages)
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
            files = await self._ask_files(
                [name for _, profile, _ in found for name in profile.galleries], pages
            )
        except SourceError as error:
            for target, _, _ in found:
                yield Visit(target, error=error)
            return
        for target, profile, page in found:
            with_images = replace(profile, images=images_of(profile, files), galleries=())
            yield Visit(target, with_images, etag=label(page.revision))

    async def find(self, name: str, pages: Pages) -> tuple[Hit, ...]:
        """The article or redirect of that name, or else the hits of the search in titles."""
        titles = [page.title for page in await self._ask_titles([name], pages) if page.page_id is not None]
        if not titles:
            titles = self.read_hits(await pages.page(self.search(name)), name)
        named = filter(None, map(self.key_of_title, titles))
        return tuple({key: Hit(key, url) for key, url in named}.values())

    async def _article(self, page: WikiPage, pages: Pages) -> Profile:
        if page.page_id is None:
            raise SourceError(self.name, Outcome.NOT_FOUND, "the wiki has no such article")
        named = self.key_of_title(page.title)
        if named is None or not page.is_person:
            raise SourceError(self.name, Outcome.AMBIGUOUS, "the article is not about one person")
        article = await pages.page(self.article(page.page_id))
        with pages.parsing():
            return self.parse(article, named[0])

    async def _ask_titles(self, titles: Sequence[str], pages: Pages) -> list[WikiPage]:
        """The pages of up to fifty titles. The parts of a continued answer are joined."""
        found: dict[str, WikiPage] = {}
        more: dict[str, str] = {}
        for _ in range(_MOST_CONTINUATIONS):
            answer = await pages.page(self.question(titles, more))
            with pages.parsing():
                read, more = self.read_titles(answer)
            for page in read:
                known = found.get(page.title)
                found[page.title] = page if known is None else known.joined(page)
            if not more:
                return list(found.values())
        raise SourceError(self.name, Outcome.PARSE_ERROR, "the API's answer has no end")

    async def _ask_files(self, titles: Sequence[str], pages: Pages) -> dict[str, ImageRecord]:
        found: dict[str, ImageRecord] = {}
        wanted = list(dict.fromkeys(titles))
        for start in range(0, len(wanted), _TITLES_A_REQUEST):
            answer = await pages.page(self.files(wanted[start : start + _TITLES_A_REQUEST]))
            with pages.parsing():
                found.update(self.read_files(answer))
        return found

    def parse(self, page: Page, key: str) -> Profile:
        """The profile of an infobox. Its `galleries` are file titles: `images_of` turns them into images."""
        parsed = _mapping(_answer(page).get("parse"))
        text = parsed.get("text")
        root = Selector(text=str(text or "<html></html>"), type="html")
        boxes = root.css(self.page_selector)
        if not boxes:
            raise LayoutChangedError(
                self.name,
                Outcome.PARSE_ERROR,
                "an article has no table.infobox: it is not about a person, or the layout changed",
            )
        title = str(parsed.get("title") or "")
        return Profile(
            key=key,
            name=_without_note(title),
            aliases=distinct(_aliases(boxes[0]), title),
            links=tuple(_links(boxes[0], page)),
            galleries=tuple(_files(boxes[0])),
        )

    @staticmethod
    def title_of(url: str) -> str:
        """The title in a canonical address."""
        return unquote(urlsplit(url).path).rpartition("/boobs/")[2].replace("_", " ")

    @staticmethod
    def key_of_title(title: str) -> tuple[str, str] | None:
        """(key, canonical address) of a title; None when it cannot be a person's page."""
        found = parse_profile(f"{_HOME}/boobs/{title.replace(' ', '_')}")
        return (found.key.key, found.url) if found is not None and found.url else None

    @staticmethod
    def question(titles: Sequence[str], more: Mapping[str, str]) -> str:
        """The address that asks for up to fifty titles at once."""
        parameters = {
            **_SHARED,
            "action": "query",
            "titles": "|".join(titles),
            "redirects": "1",
            "prop": "info|categories|pageprops|revisions",
            "cllimit": "max",
            "rvprop": "ids|timestamp",
            **more,
        }
        return f"{_API}?{urlencode(parameters)}"

    @staticmethod
    def article(page_id: int) -> str:
        """The address of the first section, which holds the infobox. The biography is never fetched."""
        parameters = {
            **_SHARED,
            "action": "parse",
            "pageid": str(page_id),
            "prop": "text|categories",
            "section": "0",
            "disabletoc": "1",
        }
        return f"{_API}?{urlencode(parameters)}"

    @staticmethod
    def files(titles: Sequence[str]) -> str:
        """The address that asks for the URLs of files."""
        parameters = {
            **_SHARED,
            "action": "query",
            "titles": "|".join(f"File:{title}" for title in titles),
            "prop": "imageinfo",
            "iiprop": "url|size|mime|sha1",
        }
        return f"{_API}?{urlencode(parameters)}"

    def search(self, name: str) -> str:
        """The address of the search in titles."""
        parameters = {
            **_SHARED,
            "action": "query",
            "list": "search",
            "srsearch": name,
            "srwhat": "title",
            "srlimit": "10",
        }
        return f"{_API}?{urlencode(parameters)}"

    def read_titles(self, page: Page) -> tuple[list[WikiPage], dict[str, str]]:
        """The pages of an answer to `question`, and the parameters to add to the next one (empty at the end)."""
        answer = _answer(page)
        query = _mapping(answer.get("query"))
        leads = {str(e.get("to")): str(e.get("from")) for e in _rows(query, "normalized")}
        ways: dict[str, set[str]] = {}
        for entry in _rows(query, "redirects"):
            start = str(entry.get("from"))
            ways.setdefault(str(entry.get("to")), set()).update({start, leads.get(start, start)})
        pages = []
        for row in _rows(query, "pages"):
            title = str(row.get("title") or "")
            asked = {title, leads.get(title, title), *ways.get(title, ())}
            number = row.get("pageid")
            pages.append(
                WikiPage(
                    page_id=number if isinstance(number, int) and not row.get("missing") else None,
                    title=title,
                    revision=next((str(r.get("revid")) for r in _rows(row, "revisions")), None),
                    asked=tuple(sorted(asked)),
                    is_person=row.get("ns", 0) == 0
                    and "disambiguation" not in _mapping(row.get("pageprops"))
                    and not any(_NO_PERSON.search(str(c.get("title"))) for c in _rows(row, "categories")),
                )
            )
        more = {key: str(value) for key, value in _mapping(answer.get("continue")).items()}
        return pages, more

    def read_files(self, page: Page) -> dict[str, ImageRecord]:
        """Images by file title (with blanks), from an answer to `files`."""
        found = {}
        for row in _rows(_mapping(_answer(page).get("query")), "pages"):
            for info in _rows(row, "imageinfo")[:1]:
                url = page.join(str(info.get("url") or ""))
                if url and str(info.get("mime", "image/")).startswith("image/"):
                    title = str(row.get("title") or "").partition(":")[2]
                    found[_file_key(title)] = image(url, info.get("width"), info.get("height"))
        return found

    def read_hits(self, page: Page, name: str) -> list[str]:
        """The titles among the hits of a search that have the folded form of the name."""
        hits = _rows(_mapping(_answer(page).get("query")), "search")
        return [str(hit.get("title")) for hit in hits if fold(str(hit.get("title"))) == fold(name)]


def images_of(profile: Profile, files: Mapping[str, ImageRecord]) -> tuple[ImageRecord, ...]:
    """The images of a profile from `parse`, in order. Files with no known URL are left out."""
    return tuple(files[key] for title in profile.galleries if (key := _file_key(title)) in files)


def _answer(page: Page) -> Mapping[str, Any]:
    answer = page.json
    if not isinstance(answer, dict):
        raise SourceError("boobpedia", Outcome.PARSE_ERROR, "the API did not answer with an object")
    error = _mapping(answer.get("error"))
    if error:
        code = str(error.get("code"))
        outcomes = {
            "maxlag": Outcome.RATE_LIMITED,
            "ratelimited": Outcome.RATE_LIMITED,
            "readapidenied": Outcome.BLOCKED,
            "permissiondenied": Outcome.BLOCKED,
            "missingtitle": Outcome.NOT_FOUND,
            "nosuchpageid": Outcome.NOT_FOUND,
        }
        raise SourceError(
            "boobpedia", outcomes.get(code, Outcome.PARSE_ERROR), f"the API answered {code[:60]}"
        )
    return answer


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = value.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _without_note(title: str) -> str:
    """A title without the note in brackets at its end: `Name (actress)` → `Name`."""
    opened = title.find("(", title.rfind(")", 0, -1) + 1) if title.endswith(")") else -1
    return title[:opened].rstrip() if opened >= 0 else title


def _aliases(box: Selector) -> Iterator[str]:
    """The names in rows with "known" in their label. Birth names and real names are in other rows."""
    for row in box.css("tr"):
        label = row.css("td b, th")
        cells = row.css("td")
        if label and cells and "known" in text_of(label[0]).casefold():
            for line in parts_between_breaks(cells[-1]):
                yield from (_NOTE.sub("", part) for part in re.split(r",|\s/\s", line))


def _links(box: Selector, page: Page) -> Iterator[str]:
    """External links below the headings "Databases" and "Links and profiles"."""
    below = False
    for row in box.css("tr"):
        heading = text_of(row.css("th")[0]).casefold() if row.css("th") else ""
        if heading:
            below = "databases" in heading or "links" in heading
        if below:
            yield from (url for href in row.css("a::attr(href)").getall() if (url := page.join(href)))


def _files(box: Selector) -> list[str]:
    """The titles of the infobox's pictures: its links to files, without icons."""
    hrefs = box.xpath(".//a[.//img]/@href").getall()
    titles = [
        unquote(href).rpartition("File:")[2].replace("_", " ") for href in hrefs if "File:" in unquote(href)
    ]
    return [title for title in dict.fromkeys(titles) if not _NO_PICTURE.search(title)]


def _file_key(title: str) -> str:
    text = title.replace("_", " ").strip()
    return text[:1].upper() + text[1:]
