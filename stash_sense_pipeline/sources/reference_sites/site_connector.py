"""The connector of a site: profile pages, name search, image requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.enrichment import held_records, owners_of_images
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import Outcome, RobotsRefusalError, SourceError, UnreadRecordError
from stash_sense_pipeline.records.performer_record import ImageRecord, unique_images
from stash_sense_pipeline.records.profile_urls import canonical_profile, parse_profile
from stash_sense_pipeline.settings.known_sources import KNOWN_REFERENCE_SITES
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.cleaning.addresses import address, link
from stash_sense_pipeline.sources.cleaning.ids import MAX_ID_BYTES
from stash_sense_pipeline.sources.cleaning.text import clean_text, distinct, fits, label, required_text, text
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.json_fields import FieldError
from stash_sense_pipeline.sources.reference_sites.page import Page, fold
from stash_sense_pipeline.sources.reference_sites.page_fetcher import Fetcher
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline.sources.reference_sites.site import Profile, Site
from stash_sense_pipeline.sources.reference_sites.site_address import Base
from stash_sense_pipeline.sources.reference_sites.sites.boobpedia import BATCH, Boobpedia, WikiPage, images_of

T = TypeVar("T")

# The wiki tells the rest of a long answer in further ones; so many of them are no wiki.
_MOST_CONTINUATIONS = 20


@dataclass(frozen=True)
class Target:
    """A profile to visit: its key, its real address, and the validators of the last visit."""

    key: str
    url: str
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Visit:
    """What a visit gave: a profile, or `unchanged`, or an error. The validators are for the next visit."""

    target: Target
    profile: Profile | None = None
    error: SourceError | None = None
    unchanged: bool = False
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Hit:
    """A profile that a search shows under exactly the name asked for."""

    key: str
    url: str


class SiteConnector:
    """One reference site, reached at `settings.url`. Methods raise SourceError where not said otherwise.

    `left_out` counts by field what was left out of profiles because it cannot be used.
    """

    def __init__(self, settings: ReferenceSiteSettings, client: PoliteClient, fetcher: Fetcher) -> None:
        self.client = client
        self.source = settings.name
        self.site: Site = SITES[settings.name]
        real = str(KNOWN_REFERENCE_SITES[settings.name]["url"])
        self.base = Base(real, settings.url.rstrip("/"), self.site.hosts)
        self.fetcher = fetcher
        # Image address → profile address, for sites whose images want it as Referer.
        self.referers: Mapping[str, str] = {}
        self.left_out: Counter[str] = Counter()

    @property
    def batch(self) -> int:
        """How many profiles are visited together."""
        return BATCH if isinstance(self.site, Boobpedia) else 1

    def image_request(self, url: str) -> tuple[str, dict[str, str]]:
        """Address and headers for the bytes of an image."""
        headers = {**self.site.headers, **self.fetcher.image_headers()}
        if self.site.referer:
            headers["Referer"] = self.base.fetchable(self.referers.get(url, f"{self.base.real}/"))
        return url, headers

    async def visit(self, targets: Sequence[Target]) -> AsyncIterator[Visit]:
        """Visits profiles, up to `batch` of them; failures are in the visits."""
        if isinstance(self.site, Boobpedia):
            async for visit in self._visit_wiki(self.site, targets):
                yield visit
            return
        for target in targets:
            yield await self._visit(target)

    async def find(self, name: str) -> tuple[Hit, ...]:
        """The profiles that the site's search shows under exactly this name, each once."""
        if isinstance(self.site, Boobpedia):
            return await self._find_title(self.site, name)
        page = await self._page(self.site.search(name))
        wanted, found = fold(name), {}
        with self._reading():
            candidates = self.site.candidates(page)
        for candidate in candidates:
            profile = parse_profile(candidate.url)
            if profile is None or profile.key.site != self.source or profile.url is None:
                continue
            if wanted in map(fold, candidate.names):
                found[profile.key.key] = Hit(profile.key.key, profile.url)
        return tuple(found.values())

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever a page holds that its reader did not expect is a parse error, and not ours to stumble over."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = type(error).__name__
            raise SourceError(
                self.source, Outcome.PARSE_ERROR, f"a page could not be read ({what})"
            ) from error

    async def _page(self, url: str, validators: Mapping[str, str] | None = None) -> Page:
        fetched = await self.fetcher.get(
            self.base.fetchable(url), {**self.site.headers, **(validators or {})}
        )
        return Page(
            source=self.source,
            url=self.base.public(fetched.url),
            body=fetched.body,
            base=self.base,
            content_type=fetched.content_type,
            rendered=fetched.rendered,
            not_modified=fetched.not_modified,
            etag=fetched.etag,
            last_modified=fetched.last_modified,
        )

    async def _visit(self, target: Target) -> Visit:
        validators = {"If-None-Match": target.etag, "If-Modified-Since": target.last_modified}
        sent = {name: value for name, value in validators.items() if value}
        try:
            page = await self._page(self.site.address(target.url), sent)
            if page.not_modified:
                return Visit(target, unchanged=True, etag=target.etag, last_modified=target.last_modified)
            with self._reading():
                profile = self.site.read(page, target.key)
            profile = self._cleaned(replace(profile, images=await self._images(profile), galleries=()))
        except SourceError as error:
            return Visit(target, error=error)
        return Visit(target, profile, etag=text(page.etag), last_modified=text(page.last_modified))

    def _cleaned(self, profile: Profile) -> Profile:
        """The profile as it can be stored. Raises UnreadRecordError when its key or its name cannot be used."""
        key = profile.key
        if clean_text(key) != key or not key or not fits(key, MAX_ID_BYTES):
            raise UnreadRecordError(
                self.source, f"its key is longer than {MAX_ID_BYTES} bytes, or is not shown"
            )
        try:
            name = required_text(profile.name, "its name")
        except FieldError as error:
            raise UnreadRecordError(self.source, str(error)) from error
        return replace(
            profile,
            name=name,
            aliases=self._kept("aliases", profile.aliases, text),
            credited=self._kept("credited", profile.credited, text),
            links=self._kept("links", profile.links, link),
            urls=self._kept("urls", profile.urls, link),
            images=self._kept("images", profile.images, _with_address),
        )

    def _kept(self, field: str, items: Sequence[T], clean: Callable[[T], T | None]) -> tuple[T, ...]:
        cleaned = [clean(item) for item in items if item != ""]
        if lost := cleaned.count(None):
            self.left_out[field] += lost
        return distinct(cleaned)

    async def _images(self, profile: Profile) -> tuple[ImageRecord, ...]:
        """The images of the profile and its first galleries, at addresses to fetch, on the site's hosts only."""
        images = list(profile.images)
        for url in filter(address, profile.galleries[: self.site.galleries]):
            try:
                page = await self._page(url)
                with self._reading():
                    images += self.site.pictures(page, profile)
            except RobotsRefusalError:
                continue
            except SourceError as error:
                # A gallery that is gone says nothing about the profile.
                if not error.outcome.is_answer:
                    raise
        return self._fetchable(images)

    def _fetchable(self, images: Sequence[ImageRecord]) -> tuple[ImageRecord, ...]:
        return unique_images(
            replace(image, url=self.base.fetchable(image.url))
            for image in images
            if self.base.may_have_images(image.url)
        )

    # --- the wiki -------------------------------------------------------------------------------------------------

    async def _visit_wiki(self, wiki: Boobpedia, targets: Sequence[Target]) -> AsyncIterator[Visit]:
        titles = {wiki.title_of(target.url): target for target in targets}
        try:
            pages = await self._ask_titles(wiki, list(titles))
        except SourceError as error:
            for target in targets:
                yield Visit(target, error=error)
            return
        by_title = {asked: page for page in pages for asked in page.asked}
        found: list[tuple[Target, Profile, WikiPage]] = []
        for title, target in titles.items():
            page = by_title.get(title)
            if page is not None and page.revision is not None and page.revision == target.etag:
                yield Visit(target, unchanged=True, etag=target.etag)
                continue
            try:
                found.append((target, await self._article(wiki, page), page or _NO_PAGE))
            except SourceError as error:
                yield Visit(target, error=error)
        try:
            files = await self._ask_files(
                wiki, [name for _, profile, _ in found for name in profile.galleries]
            )
        except SourceError as error:
            for target, _, _ in found:
                yield Visit(target, error=error)
            return
        for target, profile, page in found:
            images = self._fetchable(images_of(profile, files))
            try:
                cleaned = self._cleaned(replace(profile, images=images, galleries=()))
            except SourceError as error:
                yield Visit(target, error=error)
                continue
            yield Visit(target, cleaned, etag=label(page.revision))

    async def _article(self, wiki: Boobpedia, page: WikiPage | None) -> Profile:
        if page is None or page.page_id is None:
            raise SourceError(self.source, Outcome.NOT_FOUND, "the wiki has no such article")
        named = wiki.key_of_title(page.title)
        if named is None or not page.is_person:
            raise SourceError(self.source, Outcome.AMBIGUOUS, "the article is not one person's")
        article = await self._page(wiki.article(page.page_id))
        with self._reading():
            return wiki.parse(article, named[0])

    async def _ask_titles(self, wiki: Boobpedia, titles: Sequence[str]) -> list[WikiPage]:
        """The pages of up to fifty titles; answers that are continued are put together."""
        found: dict[str, WikiPage] = {}
        more: dict[str, str] = {}
        for _ in range(_MOST_CONTINUATIONS):
            answer = await self._page(wiki.question(titles, more))
            with self._reading():
                pages, more = wiki.read_titles(answer)
            for page in pages:
                known = found.get(page.title)
                found[page.title] = page if known is None else _joined(known, page)
            if not more:
                return list(found.values())
        raise SourceError(self.source, Outcome.PARSE_ERROR, "the API's answer has no end")

    async def _ask_files(self, wiki: Boobpedia, titles: Sequence[str]) -> dict[str, ImageRecord]:
        wanted = list(dict.fromkeys(titles))
        found: dict[str, ImageRecord] = {}
        for start in range(0, len(wanted), BATCH):
            answer = await self._page(wiki.files(wanted[start : start + BATCH]))
            with self._reading():
                found.update(wiki.read_files(answer))
        return found

    async def _find_title(self, wiki: Boobpedia, name: str) -> tuple[Hit, ...]:
        """An article or redirect of that name, or else hits of the search in titles."""
        pages = [page for page in await self._ask_titles(wiki, [name]) if page.page_id is not None]
        titles = [page.title for page in pages]
        if not titles:
            titles = wiki.read_hits(await self._page(wiki.search(name)), name)
        named = filter(None, map(wiki.key_of_title, titles))
        return tuple({key: Hit(key, url) for key, url in named}.values())


def read_referers(engine: sa.Engine, connector: SiteConnector) -> dict[str, str]:
    """For the images that wait, where the site wants to hear it: image address to profile address."""
    if not connector.site.referer:
        return {}
    with reading(engine) as connection:
        owners = owners_of_images(connection, connector.source)
        held = held_records(connection, connector.source)
    profiles = {
        source_id: url
        for source_id, record in held.items()
        for url in record.urls
        if canonical_profile(url) == (connector.source, source_id)
    }
    return {url: profiles[source_id] for url, source_id in owners.items() if source_id in profiles}


def _with_address(image: ImageRecord) -> ImageRecord | None:
    return image if address(image.url) is not None else None


_NO_PAGE = WikiPage(None, "", None, (), False)


def _joined(first: WikiPage, second: WikiPage) -> WikiPage:
    return WikiPage(
        page_id=first.page_id or second.page_id,
        title=first.title,
        revision=first.revision or second.revision,
        asked=tuple(sorted({*first.asked, *second.asked})),
        is_person=first.is_person and second.is_person,
    )
