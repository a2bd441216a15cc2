"""A site: its pages, files and behaviour."""

from __future__ import annotations

import hashlib
import html
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import quote

from stash_sense_pipeline.sandbox.invented.pictures import Picture

# The cookie of a browser that has passed the challenge.
CLEARANCE = "sandbox-passed"
CHALLENGE = (
    b"<!DOCTYPE html><html><head><title>One moment</title></head><body>"
    b'<script src="/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1"></script>Checking</body></html>'
)
AGE_GATE = (
    b"<!DOCTYPE html><html><head><title>Adults only</title></head><body><h2>Are you of age?</h2>"
    b'<form method="post" action="/enter"><button>Yes</button></form></body></html>'
)


@dataclass(frozen=True)
class SitePage:
    """One person's page. `key` is what profile_urls makes of its address, `slug` its part of the address.

    `person` is the ground truth. `legal_name` and `biography` are on the page and must never be stored. `couple` is a
    picture with a second person; `related` are the slugs of other people in the same mark-up. A page without a portrait
    shows a placeholder.
    """

    slug: str
    key: str
    person: int
    name: str
    aliases: tuple[str, ...] = ()
    legal_name: str = ""
    biography: str = ""
    links: tuple[str, ...] = ()
    portrait: Picture | None = None
    set_pictures: tuple[Picture, ...] = ()
    couple: Picture | None = None
    related: tuple[str, ...] = ()
    gender: str = "FEMALE"
    japanese: str = ""
    number: int = 0
    uuid: str = ""


@dataclass(frozen=True)
class Reply:
    """An answer. `location` makes it a redirect; `picture` is sent in place of the body."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    location: str | None = None
    picture: Picture | None = None


@dataclass
class Behaviour:
    """What can be changed while a site runs. `layout`: current, previous, or new (no reader knows it).

    `robots` None is 404; `robots_type` its content type. `refuse` is a status for everything but robots.txt.
    """

    layout: str = "current"
    robots: str | None = "User-agent: *\nDisallow: /search/\nDisallow: /private/\n"
    robots_status: int = 200
    robots_type: str = "text/plain"
    challenge: bool = False
    age_gate: bool = False
    refuse: int | None = None


@dataclass
class SandboxSite(ABC):
    """One site: pages by slug, and files by path. A subclass renders the pages of one real site."""

    pages: dict[str, SitePage] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)
    behaviour: Behaviour = field(default_factory=Behaviour)
    files: dict[str, Picture] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    name: ClassVar[str]
    home: ClassVar[str]

    def add(self, page: SitePage) -> None:
        """Adds or replaces a page, with its files."""
        with self.lock:
            self.pages[page.slug] = page
            self.profile(page)
            self.more(page)

    @property
    def people(self) -> dict[str, int]:
        """The number of the person of each page, by key: the ground truth."""
        return {page.key: page.person for page in self.pages.values()}

    @abstractmethod
    def url(self, page: SitePage) -> str:
        """The address that users copy from the site."""

    @abstractmethod
    def profile(self, page: SitePage) -> str:
        """The HTML of the page."""

    @abstractmethod
    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """The answer to a decoded path; None when the site has nothing at it."""

    def more(self, page: SitePage) -> None:  # noqa: B027 - most sites have no further pages
        """Adds the files of further pages of the person."""

    def file(self, path: str, picture: Picture) -> str:
        """Adds a picture at a decoded path. Returns the path as a page has it."""
        self.files[path] = picture
        return quote(path)

    def shown(self, page: SitePage) -> Reply:
        """The answer with the page, or with its new place, or that it is missing."""
        if page.slug in self.gone:
            return self.not_there()
        return html_reply(self.profile(page))

    def not_there(self) -> Reply:
        """The site's own answer for a missing page."""
        return Reply(b"<html><body><h1>404</h1></body></html>", 404)

    def by_name(self, asked: str) -> list[SitePage]:
        """Pages with a name or alias that contains the text, ignoring case."""
        wanted = asked.casefold().replace("-", " ").split()
        return [
            page
            for page in self.pages.values()
            if page.slug not in self.gone
            and any(all(word in name.casefold() for word in wanted) for name in (page.name, *page.aliases))
        ]

    @property
    def is_new(self) -> bool:
        """True when the layout is one that no reader knows."""
        return self.behaviour.layout == "new"

    @property
    def is_previous(self) -> bool:
        """True when the layout is the one before the current."""
        return self.behaviour.layout == "previous"


def html_reply(text: str) -> Reply:
    """A page in UTF-8."""
    return Reply(text.encode())


def esc(text: str) -> str:
    """Text escaped for HTML, quotes too."""
    return html.escape(text)


def document(title: str, body: str, head: str = "", attributes: str = "") -> str:
    """A whole page: the content with the mark-up that every site has around it."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{esc(title)}</title>{head}\n'
        "<script>window.page = {loaded: true, ids: [404, 1015]};</script></head>\n"
        f"<body{attributes}><header><nav><a href='/'>Home</a> <a href='/list/'>All</a></nav></header>\n{body}\n"
        "<footer><p>Not found anywhere else: 404 kinds of nonsense.</p></footer></body></html>\n"
    )


def digest(text: str) -> str:
    """A short stable digest, for invented parts of addresses."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]
