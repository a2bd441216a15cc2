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

from parsel import Selector

from stash_sense_pipeline.foundation.errors import LayoutChangedError, Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.cleaning import clean_text, side
from stash_sense_pipeline.sources.reference_sites.site_address import Base

_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}charset\s{0,20}=\s{0,20}[\"']?\s{0,20}([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE
)
_PARAMETER = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_:.-]+)", re.IGNORECASE)
_EIGHT_BIT = frozenset({"iso-8859-1", "latin-1", "latin1", "windows-1252", "cp1252", "us-ascii", "ascii"})
_CHALLENGE = "/cdn-cgi/challenge-platform/"


@dataclass(frozen=True)
class Page:
    """A page as it came. `url` is where it came from after redirects, by the site's real address; `base` turns addresses
    on it into real ones. `rendered`: by a browser, so its status is not known. `not_modified`: the site says that it
    is as at the last visit."""

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
        """The decoded text. SourceError (parse_error) when it is in no character set that it could be in."""
        head = _META_CHARSET.search(self.body[:2048])
        named = _PARAMETER.search(self.content_type)
        declared = [named[1]] if named else []
        declared += [head[1].decode("ascii")] if head else []
        # What calls itself Latin-1 may be UTF-8, and then it can be read as both: UTF-8 is never so by chance.
        names = [name for name in declared if name.lower() not in _EIGHT_BIT]
        eight_bit = [name for name in declared if name.lower() in _EIGHT_BIT]
        for name in dict.fromkeys([*names, "utf-8", *eight_bit]):
            try:
                return self.body.decode("cp1252" if name in eight_bit else name)
            except (UnicodeError, LookupError):
                continue
        raise SourceError(
            self.source, Outcome.PARSE_ERROR, "a page is not in the character set that it names"
        )

    @cached_property
    def root(self) -> Selector:
        """The elements. Broken HTML is read as a browser would, which may leave nothing of it."""
        return Selector(text=self.text or "<html></html>", type="html")

    @cached_property
    def json(self) -> Any:
        """The body as JSON, also where a browser wrapped it into a page; SourceError (parse_error) if it is none."""
        text = self.text.strip()
        if text.startswith("<"):
            inner = self.root.css("pre::text").get()
            text = inner if inner is not None else ""
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SourceError(self.source, Outcome.PARSE_ERROR, "an answer is not JSON") from error

    def join(self, address: str) -> str:
        """An address on the page as an absolute one; empty when it is none."""
        try:
            joined = urljoin(self.url, address.strip())
            parts = urlsplit(joined)
        except ValueError:
            return ""
        return self.base.public(joined) if parts.scheme in ("http", "https") and parts.hostname else ""

    def need(self, *selectors: str) -> None:
        """Raises the error of `layout_mismatch` for the first CSS selector that finds nothing."""
        for selector in selectors:
            if not self.root.css(selector):
                raise self.layout_mismatch(selector)

    def layout_mismatch(self, missing: str) -> SourceError:
        """The error for a page that lacks `missing`: blocked when a browser rendered a challenge, parse_error otherwise."""
        if self.rendered and _CHALLENGE in self.text:
            return SourceError(self.source, Outcome.BLOCKED, "a challenge came in place of the page")
        return LayoutChangedError(
            self.source,
            Outcome.PARSE_ERROR,
            f"a page has no {missing}: the layout changed, or it is another page",
        )

    def first(self, selector: str) -> str:
        """The clean text of the first element found, with all below it; empty for none."""
        found = self.root.css(selector)
        return text_of(found[0]) if found else ""

    def json_ld(self, kind: str) -> Iterator[dict[str, Any]]:
        """The JSON-LD objects of a type, also inside @graph and lists; broken scripts are passed over."""
        for script in self.root.css('script[type="application/ld+json"]::text').getall():
            try:
                data = json.loads(script)
            except (ValueError, RecursionError):
                continue
            yield from _of_type(data, kind, 0)


def text_of(element: Selector) -> str:
    """All text of an element and those below it, clean."""
    return clean_text(" ".join(element.xpath(".//text()").getall()))


def own_text(element: Selector) -> str:
    """The text of an element itself, without that of the elements in it."""
    return clean_text(" ".join(element.xpath("./text()").getall()))


def parts_between_breaks(element: Selector) -> list[str]:
    """The texts of an element between its <br>, clean and not empty."""
    lines: list[list[str]] = [[]]
    for node in element.xpath(".//text() | .//br"):
        if node.root is not None and not isinstance(node.root, str):
            lines.append([])
        else:
            lines[-1].append(str(node.root))
    return [text for line in lines if (text := clean_text(" ".join(line)))]


def fold(name: str) -> str:
    """A name for comparison: NFKC, no case, accents, apostrophes and hyphens, one blank between words."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f")
    text = re.sub(r"['’‘`´.]", "", unicodedata.normalize("NFC", text))
    return " ".join(re.sub(r"[\s_\-‐-―]+", " ", text).split())


def image(url: str, width: Any = None, height: Any = None) -> ImageRecord:
    """An image by its address. Its id is a digest of the path: hosts of one site change places, and queries age."""
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
    """Clean names in their order, each once by its folded form, and none that folds like one of `without`."""
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
