"""A fetched page: charset, text, elements, JSON-LD, and helpers for site modules."""

from __future__ import annotations

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from stash_sense_pipeline.foundation.errors import LayoutChangedError, Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.cleaning.numbers import side
from stash_sense_pipeline.sources.cleaning.text import clean_text
from stash_sense_pipeline.sources.reference_sites.page_elements import Document, Element, PageTooComplexError
from stash_sense_pipeline.sources.reference_sites.site_address import Base

_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}charset\s{0,20}=\s{0,20}[\"']?\s{0,20}([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE
)
_PARAMETER = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_:.-]+)", re.IGNORECASE)
_EIGHT_BIT = frozenset({"iso-8859-1", "latin-1", "latin1", "windows-1252", "cp1252", "us-ascii", "ascii"})
_CHALLENGE = "/cdn-cgi/challenge-platform/"


@dataclass(frozen=True)
class Page:
    """A fetched page. `url` is its address after redirects, on the site's real host; `base` turns addresses on the page
    into real ones. `rendered`: a browser rendered it, so its status is unknown. `not_modified`: the site answered that
    it is unchanged since the last visit, and `body` is empty."""

    source: str
    url: str
    body: bytes
    base: Base
    content_type: str = "text/html"
    rendered: bool = False
    not_modified: bool = False
    etag: str | None = None
    last_modified: str | None = None

    @cached_property
    def text(self) -> str:
        """The decoded text. Raises SourceError (parse_error) when no declared character set, nor UTF-8, can decode it."""
        head = _META_CHARSET.search(self.body[:2048])
        named = _PARAMETER.search(self.content_type)
        declared = [named[1]] if named else []
        declared += [head[1].decode("ascii")] if head else []
        # A page that declares Latin-1 may be UTF-8. UTF-8 is tried first, because other text is hardly ever valid UTF-8.
        names = [name for name in declared if name.lower() not in _EIGHT_BIT]
        eight_bit = [name for name in declared if name.lower() in _EIGHT_BIT]
        for name in dict.fromkeys([*names, "utf-8", *eight_bit]):
            try:
                return self.body.decode("cp1252" if name in eight_bit else name)
            except (UnicodeError, LookupError):
                continue
        raise SourceError(
            self.source, Outcome.PARSE_ERROR, "a page is not in the character set that it declares"
        )

    @cached_property
    def root(self) -> Element:
        """The elements; a page is parsed once. Raises SourceError (parse_error) when it has more than can be parsed."""
        try:
            return Document(self.text, self.join).root
        except (PageTooComplexError, RecursionError) as error:
            raise SourceError(
                self.source,
                Outcome.PARSE_ERROR,
                "a page has too many elements, or they are nested too deeply",
            ) from error

    @cached_property
    def json(self) -> Any:
        """The body as JSON, also when a browser wrapped it in an HTML page. Raises SourceError (parse_error) when it is not
        JSON."""
        text = self.text.strip()
        if text.startswith("<"):
            inner = self.root.first("pre")
            text = inner.source_text if inner is not None else ""
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SourceError(self.source, Outcome.PARSE_ERROR, "an answer is not JSON") from error

    def join(self, address: str) -> str:
        """An address on the page as an absolute http(s) URL; empty when it is none."""
        try:
            joined = urljoin(self._base_address, address.strip())
            parts = urlsplit(joined)
        except ValueError:
            return ""
        return self.base.public(joined) if parts.scheme in ("http", "https") and parts.hostname else ""

    @cached_property
    def _base_address(self) -> str:
        """What relative addresses on the page are relative to: its `<base>`, or else its own address."""
        if self.text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
            return self.url  # JSON
        stated = self.root.attributes("base[href]", "href")
        return urljoin(self.url, stated[0]) if stated else self.url

    @property
    def canonical(self) -> str:
        """The address that the page states as its own; "" when it states none."""
        stated = self.root.first("link[rel=canonical][href]")
        return stated.link if stated is not None else ""

    def need(self, *selectors: str) -> None:
        """Raises the error of `layout_mismatch` for the first CSS selector that finds nothing."""
        for selector in selectors:
            if not self.root.select(selector):
                raise self.layout_mismatch(selector)

    def need_one(self, *selectors: str) -> list[Element]:
        """The elements of the first CSS selector that finds any: the newest layout first. Raises the error of
        `layout_mismatch` when none does."""
        for selector in selectors:
            if found := self.root.select(selector):
                return found
        raise self.layout_mismatch(" or ".join(selectors))

    def layout_mismatch(self, missing: str) -> SourceError:
        """The error for a page that lacks `missing`: blocked when a browser rendered a challenge, parse_error otherwise."""
        if self.rendered and _CHALLENGE in self.text:
            return SourceError(self.source, Outcome.BLOCKED, "a challenge came in place of the page")
        return LayoutChangedError(
            self.source,
            Outcome.PARSE_ERROR,
            f"a page has no {missing}: the layout changed, or it is another page",
        )

    def json_ld(self, kind: str) -> Iterator[dict[str, Any]]:
        """The JSON-LD objects of a type, also inside @graph and lists; broken scripts are skipped."""
        for script in self.root.select("script[type^='application/ld+json' i]"):
            try:
                data = json.loads(script.source_text)
            except (ValueError, RecursionError):
                continue
            yield from _of_type(data, kind, 0)


def fold(name: str) -> str:
    """A name for comparison: NFKC, without case, accents, apostrophes, dots and hyphens, one blank between words."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f")
    text = re.sub(r"['’‘`´.]", "", unicodedata.normalize("NFC", text))
    return " ".join(re.sub(r"[\s_\-‐-―]+", " ", text).split())


def image(url: str, width: Any = None, height: Any = None) -> ImageRecord:
    """An image by its address. Its id is a digest of the path, because a site moves images between hosts and signs URLs
    with queries that expire."""
    path = unquote(urlsplit(url).path)
    return ImageRecord(
        hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:24], url, side(width), side(height)
    )


def file_name(url: str) -> str:
    """The last part of the path, decoded."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def path_of(url: str) -> str:
    """The decoded path."""
    return unquote(urlsplit(url).path)


def distinct(names: Iterable[str], *without: str) -> tuple[str, ...]:
    """Clean names in their order. Of names with the same folded form the first stays; names that fold like one of
    `without` are left out."""
    seen = {fold(name) for name in without}
    kept: list[str] = []
    for name in names:
        text = clean_text(name)
        if text and fold(text) not in seen:
            seen.add(fold(text))
            kept.append(text)
    return tuple(kept)


def unescaped(text: str) -> str:
    """Text with HTML entities resolved."""
    return html.unescape(text)


def _of_type(data: Any, kind: str, depth: int) -> Iterator[dict[str, Any]]:
    if depth > 4:
        return
    if isinstance(data, list):
        for item in data:
            yield from _of_type(item, kind, depth + 1)
    elif isinstance(data, dict):
        types = data.get("@type")
        if types == kind or (isinstance(types, list) and kind in types):
            yield data
        yield from _of_type(data.get("@graph"), kind, depth + 1)
