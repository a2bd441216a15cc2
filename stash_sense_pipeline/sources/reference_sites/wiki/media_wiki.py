"""The API of a MediaWiki: its questions as addresses, and its answers as records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlencode

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.cleaning.text import clean_text
from stash_sense_pipeline.sources.reference_sites.page import Page, image
from stash_sense_pipeline.sources.reference_sites.site import Pages

# The API answers at most this many titles at once.
TITLES_A_REQUEST = 50
# The wiki splits a long answer into several. More parts than this come from a server that is no wiki.
_MOST_CONTINUATIONS = 20
_SHARED = {"format": "json", "formatversion": "2", "maxlag": "5"}
_OUTCOMES = {
    "maxlag": Outcome.RATE_LIMITED,
    "ratelimited": Outcome.RATE_LIMITED,
    "readapidenied": Outcome.BLOCKED,
    "permissiondenied": Outcome.BLOCKED,
    "missingtitle": Outcome.NOT_FOUND,
    "nosuchpageid": Outcome.NOT_FOUND,
}
# What an article is about is the last noun of a category, before "of", "by" and the like: "Award winners",
# "Lists of models", "Companies by country".
_QUALIFIER = re.compile(r"(?<!\s)\s+(?:of|by|from|in|with|at|on|for|using|who(?:se)?|that)\s+")
_PERSONS = re.compile(
    r"models?|stars?|act(?:or|ress)|performer|winner|wom[ae]n|^m[ae]n|girl|babe|births?$|people|persons?|dancer|escort"
)
_THINGS = re.compile(
    r"compan|studio|websites?$|magazine|lists?$|events?$|awards?$|labels?$|networks?$|films?$|videos?$|books?$|terms?$"
)


@dataclass(frozen=True)
class WikiPage:
    """A page of a wiki. `page_id` is None when the wiki has no such page. `asked`: the titles that lead to it.

    `is_person`: an article, and its categories do not say that it is about something else. `is_list_of_names`: it
    leads to several articles with similar names.
    """

    page_id: int | None
    title: str
    revision: str | None = None
    asked: tuple[str, ...] = ()
    is_person: bool = False
    is_list_of_names: bool = False

    def joined(self, other: WikiPage) -> WikiPage:
        """What two parts of an answer say about the same page."""
        return WikiPage(
            page_id=self.page_id or other.page_id,
            title=self.title,
            revision=self.revision or other.revision,
            asked=tuple(sorted({*self.asked, *other.asked})),
            is_person=self.is_person and other.is_person,
            is_list_of_names=self.is_list_of_names or other.is_list_of_names,
        )


@dataclass(frozen=True)
class MediaWiki:
    """The API at the address `api`. `source` names the wiki in errors. All methods raise SourceError."""

    source: str
    api: str

    async def ask_titles(self, titles: Sequence[str], pages: Pages) -> list[WikiPage]:
        """The pages of up to TITLES_A_REQUEST titles. The parts of a continued answer are joined."""
        # The API takes "|" as the end of a title, so no title contains it.
        possible = [title for title in titles if title and "|" not in title]
        found: dict[str, WikiPage] = {}
        more: dict[str, str] = {}
        for _ in range(_MOST_CONTINUATIONS if possible else 0):
            answer = await pages.page(self.titles(possible, more))
            with pages.parsing():
                read, more = self.read_titles(answer)
            for page in read:
                known = found.get(page.title)
                found[page.title] = page if known is None else known.joined(page)
            if not more:
                break
        if more:
            raise SourceError(self.source, Outcome.PARSE_ERROR, "the API's answer has no end")
        return list(found.values())

    async def ask_files(self, titles: Sequence[str], pages: Pages) -> dict[str, ImageRecord]:
        """The images of files, by `file_key` of their title. Files that the wiki does not have are left out."""
        found: dict[str, ImageRecord] = {}
        wanted = list(dict.fromkeys(titles))
        for start in range(0, len(wanted), TITLES_A_REQUEST):
            answer = await pages.page(self.files(wanted[start : start + TITLES_A_REQUEST]))
            with pages.parsing():
                found.update(self.read_files(answer))
        return found

    def titles(self, titles: Sequence[str], more: Mapping[str, str]) -> str:
        """The address that asks for pages. `more` continues an answer."""
        return self._question(
            action="query",
            titles="|".join(titles),
            redirects="1",
            prop="info|categories|pageprops|revisions",
            cllimit="max",
            rvprop="ids|timestamp",
            **more,
        )

    def article(self, page_id: int) -> str:
        """The address of the first section, which holds the infobox. The biography is never fetched."""
        return self._question(
            action="parse", pageid=str(page_id), prop="text|categories", section="0", disabletoc="1"
        )

    def files(self, titles: Sequence[str]) -> str:
        """The address that asks for the addresses of files."""
        return self._question(
            action="query",
            titles="|".join(f"File:{title}" for title in titles),
            prop="imageinfo",
            iiprop="url|size|mime|sha1",
        )

    def search(self, name: str) -> str:
        """The address of the search in titles."""
        return self._question(action="query", list="search", srsearch=name, srwhat="title", srlimit="10")

    def read_titles(self, page: Page) -> tuple[list[WikiPage], dict[str, str]]:
        """The pages of an answer to `titles`, and the parameters that continue it (empty at its end)."""
        answer = self._answer(page)
        query = _mapping(answer.get("query"))
        leads = {str(entry.get("to")): _asked(entry) for entry in _rows(query, "normalized")}
        ways: dict[str, set[str]] = {}
        for entry in _rows(query, "redirects"):
            start = str(entry.get("from"))
            ways.setdefault(str(entry.get("to")), set()).update({start, leads.get(start, start)})
        pages = []
        for row in _rows(query, "pages"):
            title = str(row.get("title") or "")
            asked = {title, leads.get(title, title), *ways.get(title, ())}
            pages.append(_wiki_page(row, title, asked))
        return pages, {key: str(value) for key, value in _mapping(answer.get("continue")).items()}

    def read_article(self, page: Page) -> tuple[str, Page]:
        """The title of an article, and its text as a page, from an answer to `article`."""
        parsed = _mapping(self._answer(page).get("parse"))
        text = parsed.get("text")
        body = text.encode(errors="replace") if isinstance(text, str) else b""
        html = replace(page, body=body, content_type="text/html; charset=utf-8")
        return clean_text(str(parsed.get("title") or "")), html

    def read_files(self, page: Page) -> dict[str, ImageRecord]:
        """The images of an answer to `files`, by `file_key` of their title."""
        found = {}
        for row in _rows(_mapping(self._answer(page).get("query")), "pages"):
            for info in _rows(row, "imageinfo")[:1]:
                url = page.join(str(info.get("url") or ""))
                if url and str(info.get("mime", "image/")).startswith("image/"):
                    title = str(row.get("title") or "").partition(":")[2]
                    found[file_key(title)] = image(url, info.get("width"), info.get("height"))
        return found

    def read_hits(self, page: Page) -> list[str]:
        """The titles of an answer to `search`."""
        hits = _rows(_mapping(self._answer(page).get("query")), "search")
        return [title for hit in hits if isinstance(title := hit.get("title"), str)]

    def _question(self, **parameters: str) -> str:
        return f"{self.api}?{urlencode({**_SHARED, **parameters})}"

    def _answer(self, page: Page) -> Mapping[str, Any]:
        answer = page.json
        if not isinstance(answer, dict):
            raise SourceError(self.source, Outcome.PARSE_ERROR, "the API did not answer with an object")
        if error := _mapping(answer.get("error")):
            code = str(error.get("code"))
            outcome = _OUTCOMES.get(code, Outcome.PARSE_ERROR)
            raise SourceError(self.source, outcome, f"the API answered {code[:60]}")
        return answer


def file_key(title: str) -> str:
    """The title of a file as the wiki writes it: with blanks, and with an upper-case first letter."""
    text = title.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def without_note(title: str) -> str:
    """A title without the note at its end that tells namesakes apart: `Name (actress)` → `Name`."""
    opened = title.find("(", title.rfind(")", 0, -1) + 1) if title.endswith(")") else -1
    return title[:opened].rstrip() if opened >= 0 else title


def _wiki_page(row: Mapping[str, Any], title: str, asked: set[str]) -> WikiPage:
    number = row.get("pageid")
    categories = [str(category.get("title")) for category in _rows(row, "categories")]
    alike = "disambiguation" in _mapping(row.get("pageprops")) or any(
        "disambig" in category.casefold() for category in categories
    )
    return WikiPage(
        page_id=number if isinstance(number, int) and not row.get("missing") else None,
        title=title,
        revision=next((str(entry.get("revid")) for entry in _rows(row, "revisions")), None),
        asked=tuple(sorted(asked)),
        is_person=row.get("ns", 0) == 0 and not alike and not _are_of_a_thing(categories),
        is_list_of_names=alike,
    )


def _are_of_a_thing(categories: Sequence[str]) -> bool:
    """True when a category names things, and none names persons."""
    nouns = [_QUALIFIER.split(name.partition(":")[2].casefold(), 1)[0] for name in categories]
    last = [noun.rpartition(" ")[2] for noun in nouns]
    return any(map(_THINGS.match, last)) and not any(map(_PERSONS.search, last))


def _asked(entry: Mapping[str, Any]) -> str:
    """The title as it was asked for. The API encodes titles that are not in Unicode's form NFC."""
    title = str(entry.get("from"))
    return unquote(title) if entry.get("fromencoded") else title


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = value.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
