"""The interface of a site module, and its result types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, fold


@dataclass(frozen=True)
class Profile:
    """What a page says about one person, without labelled legal names, dates, places and free text.

    `key` as profile_urls gives it. `aliases` are not trusted; `credited` ones name the studio that used them.
    `gender` only where the site tells it of the person. `links` are outgoing. `galleries`: further pages with pictures
    of this person alone. `urls`: other addresses of the same page, such as those under a newer or older id.
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


@dataclass(frozen=True)
class Candidate:
    """A hit of a search: the names it shows, and the address of the profile."""

    names: tuple[str, ...]
    url: str


class Site(ABC):
    """One reference site. Methods are pure: bytes and addresses in, records out; addresses are the site's real ones.

    `hosts`: its own, images included, with all hosts below them. `mark`: CSS of what every profile page has.
    `by_name`: a search by name is any good; `either_order`: names come in both orders of their words. `galleries`: the
    most pages of pictures read for a person. `follows`: a redirect to another profile is a newer address of the same
    person. `referer`: images want the profile as Referer. `headers` go with every request.
    """

    name: ClassVar[str]
    hosts: ClassVar[tuple[str, ...]]
    mark: ClassVar[str]
    by_name: ClassVar[bool] = False
    galleries: ClassVar[int] = 0
    follows: ClassVar[bool] = False
    either_order: ClassVar[bool] = False
    referer: ClassVar[bool] = False
    headers: ClassVar[dict[str, str]] = {}

    def address(self, url: str) -> str:
        """What to fetch for a profile, given its canonical address."""
        return url

    def is_missing(self, page: Page) -> bool:
        """Is this the site's own way to say that there is no such page?"""
        return False

    @abstractmethod
    def parse(self, page: Page, key: str) -> Profile:
        """The profile of a page that has the mark. `key` is the one that the page's address stands for."""

    def pictures(self, page: Page, profile: Profile) -> tuple[ImageRecord, ...]:
        """The images on one of the profile's `galleries` that show this person alone."""
        return ()

    def search(self, name: str) -> str:
        """The address that searches for a name; empty where the site has no usable search."""
        return ""

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The hits of a search."""
        return ()

    def read(self, page: Page, asked: str) -> Profile:
        """The profile that the page shows, asked for by the key `asked`.

        Raises SourceError: not_found for a page that the site has not (any more), ambiguous where it leads to somebody
        else's, parse_error for anything that is not a profile.
        """
        if self.is_missing(page):
            raise SourceError(self.name, Outcome.NOT_FOUND, "the site has no such page")
        key = self.key_of(page)
        if key is None:
            # Sent to a search, a list or the front page: the site's word for no.
            raise SourceError(self.name, Outcome.NOT_FOUND, "it leads away from profiles")
        page.need(self.mark)
        if key != asked and not (self.follows or asked.startswith(("legacy:", "perfid:"))):
            raise SourceError(self.name, Outcome.AMBIGUOUS, "the page leads to another profile")
        profile = self.parse(page, key)
        if not fold(profile.name):
            raise page.strange(f"name in {self.mark}")
        return profile

    def key_of(self, page: Page) -> str | None:
        """The key of the page's own address, None when it is no profile."""
        found = parse_profile(page.url)
        return found.key.key if found is not None and found.key.site == self.name else None
