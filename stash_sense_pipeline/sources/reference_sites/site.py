"""The interface of a site module, and its result types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol

from stash_sense_pipeline.foundation.errors import SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.reference_sites.page import Page


@dataclass(frozen=True)
class Profile:
    """What a page says about one person. Labelled legal names, dates, places and free text are left out.

    `key` as profile_urls gives it. `aliases` are not trusted; `credited` ones come with the studio that used them.
    `gender` only where the site states it for the person. `links` lead to other sites. `galleries`: further pages with
    pictures of this person alone. `urls`: other addresses of the same page, such as those under a newer or older id.
    """

    key: str
    name: str
    aliases: tuple[str, ...] = ()
    credited: tuple[str, ...] = ()
    gender: str | None = None
    links: tuple[str, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    galleries: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    def has(self, fields: Sequence[str]) -> dict[str, bool]:
        """For each of `fields` whether the page gave a value."""
        return {name: bool(getattr(self, name)) for name in fields}


# The types of pages, as runs count them.
PROFILE_PAGE, GALLERY_PAGE, SEARCH_PAGE = "profile", "gallery", "search"


@dataclass(frozen=True)
class Target:
    """A profile to visit: its key, its real address, and the validators of the last visit."""

    key: str
    url: str
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Visit:
    """The result of a visit: a profile, or `unchanged`, or an error. The validators are for the next visit."""

    target: Target
    profile: Profile | None = None
    error: SourceError | None = None
    unchanged: bool = False
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Hit:
    """A profile that a search shows under exactly the name that was searched for."""

    key: str
    url: str


class Pages(Protocol):
    """Gives a site its pages, within the pace and the robots.txt rules of the client."""

    async def page(self, url: str, headers: Mapping[str, str] | None = None) -> Page:
        """The page at one of the site's real addresses. Raises SourceError."""
        ...

    def note_fields(self, page_type: str, fields: Mapping[str, bool]) -> None:
        """Counts a page that was read, with the fields that such pages may have, and whether this one has them."""
        ...

    def parsing(self) -> AbstractContextManager[None]:
        """A context for code that reads pages: an error that an unexpected page causes becomes SourceError
        (parse_error)."""
        ...


class Site(ABC):
    """One reference site. Addresses are the site's real ones.

    `hosts`: its own, images included, with all hosts below them. `page_selector`: a CSS selector that matches on every
    profile page. `example`: an address of the form that visits ask for, for the rules of robots.txt. `usual_fields`: the
    fields of Profile that most profile pages have; a run counts how often each was found. `by_name`: the site has a
    usable search by name; `either_order`: names come in both orders of their words. `batch`: how many profiles one call of
    `visit` takes. `referer`: requests for images need the profile's address as Referer. `headers` go with every request.

    Most sites have one page per profile: see PageSite.
    """

    name: ClassVar[str]
    hosts: ClassVar[tuple[str, ...]]
    page_selector: ClassVar[str]
    example: ClassVar[str]
    usual_fields: ClassVar[tuple[str, ...]] = (
        "aliases",
        "credited",
        "gender",
        "links",
        "images",
        "galleries",
    )
    by_name: ClassVar[bool] = False
    either_order: ClassVar[bool] = False
    batch: ClassVar[int] = 1
    referer: ClassVar[bool] = False
    headers: ClassVar[dict[str, str]] = {}

    @property
    def home(self) -> str:
        """The real address of the site."""
        return f"https://www.{self.hosts[0]}"

    def search(self, name: str) -> str:
        """The address that searches for a name; empty when the site has no usable search."""
        return ""

    @abstractmethod
    def visit(self, targets: Sequence[Target], pages: Pages) -> AsyncIterator[Visit]:
        """Visits up to `batch` profiles. A SourceError is part of the visit; profiles are as the site shows them."""

    @abstractmethod
    async def find(self, name: str, pages: Pages) -> tuple[Hit, ...]:
        """The profiles that the site's search shows under exactly this name, each once. Raises SourceError."""
