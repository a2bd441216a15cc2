"""The interface of a site that has one HTML page per profile."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from stash_sense_pipeline.foundation.errors import Outcome, RobotsRefusalError, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.cleaning.addresses import address
from stash_sense_pipeline.sources.cleaning.text import text
from stash_sense_pipeline.sources.reference_sites.page import Page, fold
from stash_sense_pipeline.sources.reference_sites.site import (
    GALLERY_PAGE,
    PROFILE_PAGE,
    SEARCH_PAGE,
    Hit,
    Pages,
    Profile,
    Site,
    Target,
    Visit,
)


@dataclass(frozen=True)
class Candidate:
    """A hit of a search: the names it shows, and the address of the profile."""

    names: tuple[str, ...]
    url: str


class PageSite(Site):
    """A site with one page per profile. The methods of a subclass are pure: they take pages and addresses and
    return records.

    `galleries`: how many pages with pictures are read for a person at most. `follows`: a redirect to another profile
    leads to a newer address of the same person.
    """

    galleries: ClassVar[int] = 0
    follows: ClassVar[bool] = False

    def address(self, url: str) -> str:
        """The address to fetch for a profile, given its canonical address."""
        return url

    def is_missing(self, page: Page) -> bool:
        """True when the page is the site's own "no such page"."""
        return False

    @abstractmethod
    def parse(self, page: Page, key: str) -> Profile:
        """The profile of a page that has the page selector. `key` is the key of the page's address."""

    def pictures(self, page: Page, profile: Profile) -> tuple[ImageRecord, ...]:
        """The images on one of the profile's `galleries` that show this person alone."""
        return ()

    def searches(self, name: str) -> tuple[str, ...]:
        """The addresses to ask for a name, where one list does not hold all people."""
        return (self.search(name),)

    def candidates(self, page: Page) -> tuple[Candidate, ...]:
        """The hits of a search."""
        return ()

    def read(self, page: Page, asked: str) -> Profile:
        """The profile on a page that was fetched for the key `asked`.

        Raises SourceError: not_found when the site has no such page (any more), ambiguous when it redirects to another
        profile, parse_error when the page is no profile.
        """
        if self.is_missing(page):
            raise SourceError(self.name, Outcome.NOT_FOUND, "the site has no such page")
        key = self.key_of(page)
        if key is None:
            # A redirect to a search, a list or the front page means that the profile does not exist.
            raise SourceError(self.name, Outcome.NOT_FOUND, "it leads away from profiles")
        page.need(self.page_selector)
        if key != asked and not (self.follows or asked.startswith(("legacy:", "perfid:"))):
            raise SourceError(self.name, Outcome.AMBIGUOUS, "the page leads to another profile")
        profile = self.parse(page, key)
        if not fold(profile.name):
            raise page.layout_mismatch(f"name in {self.page_selector}")
        return profile

    def key_of(self, page: Page) -> str | None:
        """The key of the page's own address; None when it is no profile of the site."""
        found = parse_profile(page.url)
        return found.key.key if found is not None and found.key.site == self.name else None

    async def visit(self, targets: Sequence[Target], pages: Pages) -> AsyncIterator[Visit]:
        """Fetches each profile page with the target's validators, and the profile's first galleries."""
        for target in targets:
            try:
                visit = await _visit_page(self, target, pages)
            except SourceError as error:
                visit = Visit(target, error=error)
            yield visit

    async def find(self, name: str, pages: Pages) -> tuple[Hit, ...]:
        """The candidates on the pages of the search that show the name."""
        wanted, found = fold(name), {}
        candidates: list[Candidate] = []
        for address_of_list in self.searches(name):
            page = await pages.page(address_of_list)
            with pages.parsing():
                listed = self.candidates(page)
            pages.note_fields(SEARCH_PAGE, {"hits": bool(listed)})
            candidates += listed
        for candidate in candidates:
            profile = parse_profile(candidate.url)
            if profile is None or profile.key.site != self.name or profile.url is None:
                continue
            if wanted in map(fold, candidate.names):
                found[profile.key.key] = Hit(profile.key.key, profile.url)
        return tuple(found.values())


async def _visit_page(site: PageSite, target: Target, pages: Pages) -> Visit:
    validators = {"If-None-Match": target.etag, "If-Modified-Since": target.last_modified}
    sent = {name: value for name, value in validators.items() if value}
    page = await pages.page(site.address(target.url), sent)
    if page.not_modified:
        return Visit(target, unchanged=True, etag=target.etag, last_modified=target.last_modified)
    with pages.parsing():
        profile = site.read(page, target.key)
    pages.note_fields(PROFILE_PAGE, profile.has(site.usual_fields))
    profile = replace(profile, images=await _all_images(site, profile, pages), galleries=())
    return Visit(target, profile, etag=text(page.etag), last_modified=text(page.last_modified))


async def _all_images(site: PageSite, profile: Profile, pages: Pages) -> tuple[ImageRecord, ...]:
    """The images of the profile and of its first galleries."""
    images = list(profile.images)
    for url in filter(address, profile.galleries[: site.galleries]):
        try:
            page = await pages.page(url)
            with pages.parsing():
                pictures = site.pictures(page, profile)
            pages.note_fields(GALLERY_PAGE, {"pictures": bool(pictures)})
            images += pictures
        except RobotsRefusalError:
            continue
        except SourceError as error:
            # A missing gallery says nothing about the profile.
            if not error.outcome.is_answer:
                raise
    return tuple(images)
