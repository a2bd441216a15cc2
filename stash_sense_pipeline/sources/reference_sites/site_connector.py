"""The connector of a site: profile pages, name search, image requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.enrichment import held_records, owners_of_images
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import Outcome, SourceError, UnreadRecordError
from stash_sense_pipeline.records.performer_record import ImageRecord, unique_images
from stash_sense_pipeline.records.profile_urls import canonical_profile
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.cleaning.addresses import address, link
from stash_sense_pipeline.sources.cleaning.ids import MAX_ID_BYTES
from stash_sense_pipeline.sources.cleaning.text import clean_text, distinct, fits, required_text, text
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.json_fields import FieldError
from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import FieldCounts
from stash_sense_pipeline.sources.reference_sites.page import Page
from stash_sense_pipeline.sources.reference_sites.page_fetcher import Fetcher
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline.sources.reference_sites.site import Hit, Profile, Site, Target, Visit
from stash_sense_pipeline.sources.reference_sites.site_address import Base

T = TypeVar("T")


class SiteConnector:
    """One reference site, reached at `settings.url`. Methods raise SourceError unless they say otherwise.

    `left_out` counts by field the values of profiles that cannot be used, `fields` how often each field was found.
    """

    def __init__(self, settings: ReferenceSiteSettings, client: PoliteClient, fetcher: Fetcher) -> None:
        self.client = client
        self.source = settings.name
        self.site: Site = SITES[settings.name]
        self.base = Base(self.site.home, settings.url.rstrip("/"), self.site.hosts)
        self.fetcher = fetcher
        # Image address → profile address, for sites that want it as Referer of a request for an image.
        self.referers: Mapping[str, str] = {}
        self.left_out: Counter[str] = Counter()
        self.fields = FieldCounts()
        self._by_name = settings.reference_mode == "name"

    async def check_allowed(self) -> None:
        """Reads robots.txt, one request. Raises SourceError when it is unreadable, or forbids profiles or the search."""
        search = self.site.search("example") if self._by_name else ""
        for page in filter(None, (self.site.example, search)):
            await self.client.check_allowed(self.base.fetchable(page))

    @property
    def batch(self) -> int:
        """How many profiles are visited together."""
        return self.site.batch

    def image_request(self, url: str) -> tuple[str, dict[str, str]]:
        """Address and headers for the bytes of an image."""
        headers = {**self.site.headers, **self.fetcher.image_headers()}
        if self.site.referer:
            headers["Referer"] = self.base.fetchable(self.referers.get(url, f"{self.base.real}/"))
        return url, headers

    async def visit(self, targets: Sequence[Target]) -> AsyncIterator[Visit]:
        """Visits profiles, up to `batch` of them. Their profiles can be stored; failures are in the visits."""
        async for visit in self.site.visit(targets, self):
            yield self._storable(visit)

    async def find(self, name: str) -> tuple[Hit, ...]:
        """The profiles that the site's search shows under exactly this name, each once."""
        return await self.site.find(name, self)

    async def page(self, url: str, headers: Mapping[str, str] | None = None) -> Page:
        """The page at one of the site's real addresses."""
        fetched = await self.fetcher.get(self.base.fetchable(url), {**self.site.headers, **(headers or {})})
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

    def note_fields(self, page_type: str, fields: Mapping[str, bool]) -> None:
        """Counts a page that was read, with the fields that it has and those that it lacks."""
        self.fields.note(page_type, fields)

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """Turns errors that a page with unexpected content causes into SourceError (parse_error)."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = type(error).__name__
            raise SourceError(
                self.source, Outcome.PARSE_ERROR, f"a page could not be read ({what})"
            ) from error

    def _storable(self, visit: Visit) -> Visit:
        if visit.profile is None:
            return visit
        profile = replace(visit.profile, images=self._fetchable(visit.profile.images))
        try:
            return replace(visit, profile=self._cleaned(profile))
        except SourceError as error:
            return Visit(visit.target, error=error)

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

    def _fetchable(self, images: Sequence[ImageRecord]) -> tuple[ImageRecord, ...]:
        """The images on the site's hosts, at addresses to fetch, each once."""
        return unique_images(
            replace(image, url=self.base.fetchable(image.url))
            for image in images
            if self.base.may_have_images(image.url)
        )


def read_referers(engine: sa.Engine, connector: SiteConnector) -> dict[str, str]:
    """The profile address of each image that waits, by image address; empty for a site that wants no Referer."""
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
