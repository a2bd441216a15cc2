"""Finds records by URL, id or slug, and images by URL."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import islice

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import performer_urls, source_images, source_performers
from stash_sense_pipeline.privacy.url_forms import ParsedUrl, parse_url, plain_url
from stash_sense_pipeline.records.record_key import OTHER_IDS, ImageKey, RecordKey

# With more fragments than this, searching a URL for them takes longer than parsing it.
_MOST_FRAGMENTS = 60
# Marks a URL with escaped or non-ASCII letters: it need not contain the fragment, and is parsed.
_SHORTEST = 3
_ODD = r"[%+]|[^\x00-\x7f]"


def records_listing(connection: sa.Connection, pages: Collection[ParsedUrl]) -> dict[str, set[RecordKey]]:
    """For the URL of each page, the records that list it in any form, or list another URL of the same profile."""
    wanted: dict[str, list[str]] = {}
    for page in pages:
        for form in _forms(page):
            wanted.setdefault(form, []).append(page.url)
    found: dict[str, set[RecordKey]] = {page.url: set() for page in pages}
    table = performer_urls
    rows = streamed(connection, sa.select(table.c.source, table.c.source_id, table.c.url)) if pages else ()
    may_be = _prefilter(pages)
    for source, source_id, url in rows:
        if may_be is None or may_be.search(url.lower()):
            for form in _forms(parse_url(url)):
                for asked in wanted.get(form, ()):
                    found[asked].add((source, source_id))
    return found


def records_called(
    connection: sa.Connection, names: Collection[RecordKey]
) -> dict[RecordKey, set[RecordKey]]:
    """For each (source, id), the records with that id, or with that slug or other id (OTHER_IDS) at the source."""
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


def images_at(connection: sa.Connection, urls: Collection[str]) -> dict[str, set[ImageKey]]:
    """For each URL, the images that sources list under it."""
    wanted: dict[str, list[str]] = {}
    for url in urls:
        wanted.setdefault(plain_url(url), []).append(url)
    found: dict[str, set[ImageKey]] = {url: set() for url in urls}
    table = source_images
    rows = streamed(connection, sa.select(table.c.source, table.c.image_id, table.c.url)) if urls else ()
    may_be = _prefilter([parse_url(url) for url in urls])
    for source, image_id, url in rows:
        if may_be is None or may_be.search(url.lower()):
            for asked in wanted.get(plain_url(url), ()):
                found[asked].add((source, image_id))
    return found


def _forms(page: ParsedUrl) -> Iterator[str]:
    yield page.plain
    if page.profile is not None:
        # The blank keeps it apart from a plain URL: no host has one.
        yield f"{page.profile.site} {page.profile.key}"


def _in_all_forms(key: str) -> str:
    """The part of a profile's key that all forms of its URL contain, in lower case.

    The parts of a key are joined with a colon. The first of several is a kind such as `legacy`, which no URL contains.
    """
    parts = key.lower().split(":")
    return max(parts[1:] or parts, key=len)


def _prefilter(pages: Collection[ParsedUrl]) -> re.Pattern[str] | None:
    """A pattern that every URL of these pages matches; None when no short pattern is possible."""
    fragments: set[str] = set()
    for page in islice(pages, _MOST_FRAGMENTS + 1):
        profile = page.profile
        text = _in_all_forms(profile.key) if profile is not None else page.plain.partition("/")[2].lower()
        words = re.findall(r"[a-z0-9]+", text)
        if len("".join(words)) < _SHORTEST:
            return None
        fragments.add("[^a-z0-9]*".join(words))
    if len(fragments) > _MOST_FRAGMENTS or not fragments:
        return None
    return re.compile("|".join([*sorted(fragments), _ODD]))
