"""The elements of a page: a thin layer over Beautiful Soup, so that a site module reads like a description of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

import soupsieve
from bs4 import BeautifulSoup
from bs4.element import (
    NavigableString,
    PageElement,
    PreformattedString,
    Script,
    Stylesheet,
    Tag,
    TemplateString,
)

from stash_sense_pipeline.sources.cleaning.text import clean_text

# The attributes with the address of a picture. `src` is last, because scripts that load pictures later fill it with a
# placeholder and put the address into one of the others.
_IMAGE_ATTRIBUTES = ("data-src", "data-original", "data-lazy-src", "data-lazy", "src")
_SRCSET_ATTRIBUTES = ("data-srcset", "data-lazy-srcset", "srcset")
_LINE_BREAKS = frozenset({"br", "hr"})
_BLOCKS = frozenset(
    {"dd", "div", "dl", "dt", "h1", "h2", "h3", "li", "ol", "p", "section", "table", "td", "tr", "ul"}
)
# Beautiful Soup walks from a text to the root for each text after a closed element. A page of this product of nodes and
# nesting takes about a second; a page of 200 kB has some hundred thousand, and ten thousand nodes.
_MAX_STEPS: Final = 5_000_000
_MAX_NODES: Final = 100_000
# The compounds of a selector that the index of a page knows: element name, ids and classes, attributes, `:not(…)`.
_COMPOUND = re.compile(
    r"(?P<name>[A-Za-z][\w-]*)?(?P<marks>(?:[#.][\w-]+)*)(?P<attributes>(?:\[[^\]]*\])*)(?::not\([^()]*\))*"
)
# Soup Sieve takes this many times longer for an element alone than for one of all elements of a page.
_COST_OF_A_MATCH: Final = 8
# Nearly every element has one of these, so they are not in the index.
_COMMON_ATTRIBUTES = frozenset({"class", "id", "href", "src", "style", "alt", "title"})


class PageTooComplexError(ValueError):
    """A page has too many elements, or they are nested too deeply."""


class Element:
    """An element of a page. Addresses are absolute http(s) URLs on the site's real host; "" is no address.

    Selectors are CSS. They match below the element, in the order of the page.
    """

    __slots__ = ("_document", "tag")

    def __init__(self, tag: Tag, document: Document) -> None:
        self.tag = tag
        self._document = document

    def select(self, selector: str) -> list[Element]:
        """The elements that match."""
        tags = self._document.select(selector) if self._is_root else self.tag.select(selector)
        return [Element(tag, self._document) for tag in tags]

    def first(self, selector: str) -> Element | None:
        """The first element that matches."""
        found = self.select(selector)
        return found[0] if found else None

    def texts(self, selector: str) -> list[str]:
        """The texts of the elements that match."""
        return [element.text for element in self.select(selector)]

    def text_of(self, selector: str) -> str:
        """The text of the first element that matches; "" when none does."""
        found = self.first(selector)
        return found.text if found is not None else ""

    def links(self, selector: str) -> list[str]:
        """The addresses that the elements that match link to, each once."""
        return _distinct(element.link for element in self.select(selector))

    def images(self, selector: str) -> list[str]:
        """The addresses of the pictures that match, each once."""
        return _distinct(element.image for element in self.select(selector))

    def attributes(self, selector: str, name: str) -> list[str]:
        """The values of an attribute of the elements that match; empty values are left out."""
        return [value for element in self.select(selector) if (value := element.attribute(name))]

    def matches(self, selector: str) -> bool:
        """True when the element itself matches."""
        return _matches(self.tag, selector)

    @property
    def name(self) -> str:
        """The name of the element in lower case."""
        return self.tag.name

    @property
    def text(self) -> str:
        """The clean text of the element and its descendants, without comments and scripts."""
        return clean_text(" ".join(map(str, self.tag.strings)))

    @property
    def own_text(self) -> str:
        """The clean text of the element without that of its descendants."""
        return clean_text(" ".join(str(node) for node in self.tag.children if _is_text(node)))

    @property
    def source_text(self) -> str:
        """The text as it stands, such as that of a script."""
        return "".join(map(str, self.tag.strings))

    @property
    def lines(self) -> list[str]:
        """The clean texts between line breaks and blocks; empty ones are left out."""
        return _lines(self.tag.descendants)

    def attribute(self, name: str) -> str:
        """The value of an attribute, without blanks around it; "" when there is none."""
        value = self.tag.get(name)
        return str(value or "").strip()

    @property
    def link(self) -> str:
        """The address that `href` leads to."""
        return self._address("href")

    @property
    def image(self) -> str:
        """The address of a picture, also of one that a script loads later."""
        return next((url for name in _IMAGE_ATTRIBUTES if (url := self._address(name))), "")

    @property
    def widest_image(self) -> str:
        """The address of the widest size that the element lists; `image` when it lists none."""
        for name in _SRCSET_ATTRIBUTES:
            sizes = [
                (width, url)
                for text, width in srcset(self.attribute(name))
                if (url := self._document.join(text))
            ]
            if sizes:
                return max(sizes, key=lambda size: size[0])[1]
        return self.image

    @property
    def children(self) -> list[Element]:
        """The elements directly below."""
        return [Element(node, self._document) for node in self.tag.children if isinstance(node, Tag)]

    def closest(self, selector: str) -> Element | None:
        """The nearest ancestor that matches."""
        found = (tag for tag in self.tag.parents if _matches(tag, selector))
        return next((Element(tag, self._document) for tag in found), None)

    def after(self, until: str) -> Following:
        """The nodes that follow the element within its parent, up to the first element that matches `until`."""
        nodes = []
        for node in self.tag.next_siblings:
            if isinstance(node, Tag) and _matches(node, until):
                break
            nodes.append(node)
        return Following(nodes, self._document)

    @property
    def _is_root(self) -> bool:
        return self.tag is self._document.soup

    def _address(self, name: str) -> str:
        value = self.attribute(name)
        return self._document.join(value) if value else ""


class Following:
    """The nodes after an element: the value of a label."""

    def __init__(self, nodes: list[PageElement], document: Document) -> None:
        self._nodes = nodes
        self._document = document

    @property
    def elements(self) -> list[Element]:
        """The elements among the nodes."""
        return [Element(node, self._document) for node in self._nodes if isinstance(node, Tag)]

    @property
    def lines(self) -> list[str]:
        """The clean texts between line breaks and blocks; empty ones are left out."""
        return _lines(_with_descendants(self._nodes))

    @property
    def text(self) -> str:
        """The clean text of all nodes."""
        return clean_text(" ".join(self.lines))

    def links(self) -> list[str]:
        """The addresses that the nodes and elements below them link to, each once."""
        below = [url for element in self.elements for url in [element.link, *element.links("a[href]")]]
        return _distinct(below)


class Document:
    """A parsed page. Broken HTML is parsed leniently. `join` makes an address on the page absolute.

    Raises PageTooComplexError.
    """

    def __init__(self, text: str, join: Callable[[str], str]) -> None:
        self.join = join
        self.soup = _BoundedSoup(_markup(text), "lxml", multi_valued_attributes=None)
        self._places: dict[int, int] = {}
        self._by_key: dict[str, list[Tag]] = {}
        for place, tag in enumerate(node for node in self.soup.descendants if isinstance(node, Tag)):
            self._places[id(tag)] = place
            for key in _keys(tag):
                self._by_key.setdefault(key, []).append(tag)

    @property
    def root(self) -> Element:
        """The document as an element."""
        return Element(self.soup, self)

    def select(self, selector: str) -> list[Tag]:
        """The elements of the whole page that match, in its order.

        Only elements with the name, class, id or attribute at the end of the selector are compared, and only those below
        an element with the name at its start: to compare all takes a quarter of the time that parsing takes.
        """
        keys = _index_keys(selector)
        if keys is None:
            return list(self.soup.select(selector))
        matcher = _compiled(selector)
        candidates = {id(tag): tag for first, last in keys for tag in self._candidates(first, last)}
        if len(candidates) * _COST_OF_A_MATCH > len(self._places):
            return list(self.soup.select(selector))
        found = [tag for tag in candidates.values() if matcher.match(tag)]
        return sorted(found, key=lambda tag: self._places[id(tag)])

    def _candidates(self, first: str | None, last: str) -> list[Tag]:
        """The elements with the key `last` below elements with the key `first`."""
        ending = self._by_key.get(last, [])
        if first is None or not ending:
            return ending
        above = {id(tag) for tag in self._by_key.get(first, ())}
        return [tag for tag in ending if any(id(parent) in above for parent in tag.parents)] if above else []


class _BoundedSoup(BeautifulSoup):
    """Beautiful Soup with bounds on the nodes of a page and on their nesting."""

    nodes = 0
    steps = 0

    def handle_starttag(self, *arguments: Any, **options: Any) -> Tag | None:
        self._count()
        return super().handle_starttag(*arguments, **options)

    def handle_data(self, data: str) -> None:
        self._count()
        super().handle_data(data)

    def _count(self) -> None:
        self.nodes += 1
        self.steps += len(self.tagStack)
        if self.nodes > _MAX_NODES or self.steps > _MAX_STEPS:
            raise PageTooComplexError("a page has too many elements, or they are nested too deeply")


def srcset(text: str) -> Iterator[tuple[str, float]]:
    """(address, width or density) of each entry of a `srcset`; 0 for an entry that states none.

    An address may hold commas, but does not end with one (HTML standard, "parse a srcset attribute").
    """
    address, size = "", 0.0
    for word in text.split():
        ends, rest = word.endswith(","), ""
        if not address:
            address = word.strip(",")
        else:
            stated, comma, rest = word.partition(",")
            size, ends = _size(stated) or size, bool(comma)
        if ends and address:
            yield address, size
            address, size = rest.strip(","), 0.0
    if address:
        yield address, size


def _size(text: str) -> float:
    number = text[:-1]
    return float(number) if text[-1:] in "wx" and re.fullmatch(r"\d{1,6}(?:\.\d{1,4})?", number) else 0.0


def _markup(text: str) -> str:
    """The text as Beautiful Soup takes it. A page without an element is an empty page; libxml2 stops at a NUL."""
    cleaned = re.sub(r"^\s*<\?xml[^>]{0,200}>", "", text.replace("\0", ""))
    return cleaned if "<" in cleaned else "<html></html>"


def _keys(tag: Tag) -> Iterator[str]:
    """The keys under which an element is in the index: `name`, `.class`, `#id` and `[attribute`."""
    yield tag.name
    for name, value in tag.attrs.items():
        if name == "class":
            yield from {f".{each}" for each in str(value).split()}
        elif name == "id":
            yield f"#{value!s}"
        elif name not in _COMMON_ATTRIBUTES:
            yield f"[{name}"


@lru_cache(maxsize=500)
def _compiled(selector: str) -> soupsieve.SoupSieve:
    return soupsieve.compile(selector)


def _matches(tag: Tag, selector: str) -> bool:
    """True when an element matches. Most do not, which their keys say in a tenth of the time."""
    keys = _index_keys(selector)
    if keys is not None and {last for _, last in keys}.isdisjoint(_keys(tag)):
        return False
    return _compiled(selector).match(tag)


@lru_cache(maxsize=500)
def _index_keys(selector: str) -> tuple[tuple[str | None, str], ...] | None:
    """(key of the first compound, key of the last) of each alternative; None when the index knows one of the last ones
    not. The first is None when there is one compound, or when the index does not know it."""
    keys = []
    for alternative in selector.split(","):
        compounds = re.split(r"\s*>\s*|\s+", alternative.strip())
        last = _key_of(compounds[-1])
        if last is None or re.search(r"[+~]|:(?!not\()", _without_attributes(alternative)):
            return None
        keys.append((_key_of(compounds[0]) if len(compounds) > 1 else None, last))
    return tuple(dict.fromkeys(keys))


def _without_attributes(selector: str) -> str:
    """A selector without its parts in square brackets."""
    return "".join(part.rpartition("]")[2] for part in selector.split("["))


def _key_of(compound: str) -> str | None:
    """The key of a compound in the index: its first id or class, or else its name, or else its first attribute."""
    found = _COMPOUND.fullmatch(compound)
    if found is None:
        return None
    if found["marks"]:
        return str(re.findall(r"[#.][\w-]+", found["marks"])[0])
    if found["name"]:
        return found["name"].lower()
    attribute = re.match(r"\[\s*([\w-]+)", found["attributes"])
    return (
        f"[{attribute[1].lower()}" if attribute and attribute[1].lower() not in _COMMON_ATTRIBUTES else None
    )


def _is_text(node: PageElement) -> bool:
    hidden = (PreformattedString, Script, Stylesheet, TemplateString)
    return isinstance(node, NavigableString) and not isinstance(node, hidden)


def _with_descendants(nodes: list[PageElement]) -> Iterator[PageElement]:
    for node in nodes:
        yield node
        if isinstance(node, Tag):
            yield from node.descendants


def _lines(nodes: Iterator[PageElement]) -> list[str]:
    lines: list[list[str]] = [[]]
    block: Tag | None = None
    for node in nodes:
        if isinstance(node, Tag):
            if node.name in _LINE_BREAKS:
                lines.append([])
        elif _is_text(node):
            around = next((parent for parent in node.parents if parent.name in _BLOCKS), None)
            if around is not block:
                lines.append([])
                block = around
            lines[-1].append(str(node))
    return [text for line in lines if (text := clean_text(" ".join(line)))]


def _distinct(urls: Iterator[str] | list[str]) -> list[str]:
    return [url for url in dict.fromkeys(urls) if url]
