"""Finds records by URL, id or slug, and images by URL."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import islice

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import performer_urls, source_images, source_performers
from stash_sense_pipeline.privacy.url_forms import plain_url
from stash_sense_pipeline.records import profile_urls
from stash_sense_pipeline.records.record_key import OTHER_IDS, ImageKey, RecordKey

# With more fragments than this a look at each URL costs more than parsing it.
_MOST_FRAGMENTS = 60
# Letters may be written in other ways in such URLs, so that no fragment need be in them.
_SHORTEST = 3
_ODD = r"[%+]|[^\x00-\x7f]"


def records_listing(connection: sa.Connection, urls: Collection[str]) -> dict[str, set[RecordKey]]:
    """For each of these URLs, the records that list it in any of its forms, or another URL of the same profile."""
    wanted: dict[str, list[str]] = {}
    for url in urls:
        for form in _forms(url):
            wanted.setdefault(form, []).append(url)
    found: dict[str, set[RecordKey]] = {url: set() for url in urls}
    table = performer_urls
    rows = streamed(connection, sa.select(table.c.source, table.c.source_id, table.c.url)) if urls else ()
    may_be = _prefilter(urls)
    for source, source_id, url in rows:
        if may_be is None or may_be.search(url.lower()):
            for form in _forms(url):
                for asked in wanted.get(form, ()):
                    found[asked].add((source, source_id))
    return found


def records_called(
    connection: sa.Connection, names: Collection[RecordKey]
) -> dict[RecordKey, set[RecordKey]]:
    """For each (source, id), the records of that id, or those that the source calls so as well: see OTHER_IDS."""
    table = source_performers
    found: dict[RecordKey, set[RecordKey]] = {name: set() for name in names}
    wanted: dict[RecordKey, list[RecordKey]] = {}
    for asked in found:
        for form in {asked[1], asked[1].casefold()}:
            wanted.setdefault((asked[0], form), []).append(asked)
    columns = sa.select(table.c.source, table.c.source_id)
    for chosen in of_records(table.c.source, table.c.source_id, wanted):
        for source, source_id in connection.execute(columns.where(chosen)):
            for asked in wanted[source, source_id]:
                found[asked].add((source, source_id))
    unknown = {source for (source, _), records in found.items() if not records}
    others = sa.select(
        table.c.source, table.c.source_id, *(table.c.raw[name].as_string() for name in OTHER_IDS)
    )
    for source, source_id, *called in streamed(connection, others.where(table.c.source.in_(unknown))):
        for other in filter(None, called):
            for asked in wanted.get((source, other.casefold()), ()):
                found[asked].add((source, source_id))
    return found


def pictures_at(connection: sa.Connection, urls: Collection[str]) -> dict[str, set[ImageKey]]:
    """For each of these URLs, the images that sources list under it."""
    wanted: dict[str, list[str]] = {}
    for url in urls:
        wanted.setdefault(plain_url(url), []).append(url)
    found: dict[str, set[ImageKey]] = {url: set() for url in urls}
    table = source_images
    rows = streamed(connection, sa.select(table.c.source, table.c.image_id, table.c.url)) if urls else ()
    may_be = _prefilter(urls)
    for source, image_id, url in rows:
        if may_be is None or may_be.search(url.lower()):
            for asked in wanted.get(plain_url(url), ()):
                found[asked].add((source, image_id))
    return found


def _forms(url: str) -> Iterator[str]:
    yield plain_url(url)
    profile = profile_urls.canonical_profile(url)
    if profile is not None:
        # A blank cannot be in a plain URL's host.
        yield f"{profile.site} {profile.key}"


def _prefilter(urls: Collection[str]) -> re.Pattern[str] | None:
    """What every URL of the same page must contain; None when nothing short can be said."""
    fragments: set[str] = set()
    for url in islice(urls, _MOST_FRAGMENTS + 1):
        profile = profile_urls.canonical_profile(url)
        # The same plain form means the same profile, if there is one: then its key says it all.
        text = profile.key if profile is not None else plain_url(url).partition("/")[2].lower()
        # The parts of a key are joined with a colon; of what kind the page is need not be in the URL in that order.
        words = re.findall(r"[a-z0-9]+", max(text.split(":"), key=len) if profile is not None else text)
        if len("".join(words)) < _SHORTEST:
            return None
        fragments.add("[^a-z0-9]*".join(words))
    if len(fragments) > _MOST_FRAGMENTS or not fragments:
        return None
    return re.compile("|".join([*sorted(fragments), _ODD]))
