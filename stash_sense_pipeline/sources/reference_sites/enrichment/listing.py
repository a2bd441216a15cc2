"""Reads which profiles of a site the stash-boxes list, and what the catalog stores of the site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from stash_sense_pipeline.catalog.queries import enrichment
from stash_sense_pipeline.catalog.queries.enrichment import StoredProfile
from stash_sense_pipeline.catalog.queries.site_records import rejected_since
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.records.profile_sites import site as site_of
from stash_sense_pipeline.records.profile_urls import canonical_profile, parse_profile
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.sources.reference_sites.enrichment.context import URL, EnrichContext
from stash_sense_pipeline.sources.reference_sites.site import Target


@dataclass(frozen=True)
class ListedProfile:
    """A profile that stash-boxes list: its address, and the records that list it, the most trusted first.

    `proves`: identity linkage reads the link of these records itself. Otherwise our record must link to its person.
    """

    target: Target
    by: tuple[RecordKey, ...]
    proves: bool


@dataclass(frozen=True)
class Listing:
    """The state at the start of a run: listed `profiles` by key, stored records (`held`) by key, and the keys of profiles
    that were `rejected` because their faces were another person's. `suppressed`: listed keys that are never asked for.
    """

    source: str
    profiles: Mapping[str, ListedProfile]
    held: Mapping[str, StoredProfile]
    rejected: frozenset[str]
    suppressed: frozenset[str]

    def held_for(self, key: str) -> StoredProfile | None:
        """The stored record of a profile. A key with a colon is an old id; its record may be stored under a newer one."""
        if key in self.held:
            return self.held[key]
        if ":" not in key:
            return None
        return next((held for held in self.held.values() if key in self._keys_of(held)), None)

    def unlisted(self, stored: set[str]) -> list[str]:
        """Records that were found by a listed URL and are now neither listed nor in `stored`."""
        return [
            held.source_id
            for held in self.held.values()
            if held.found_by == URL
            and held.source_id not in stored
            and self.profiles.keys().isdisjoint(self._keys_of(held))
        ]

    def _keys_of(self, held: StoredProfile) -> set[str]:
        pages = (canonical_profile(url) for url in held.urls)
        return {
            held.source_id,
            *(page.key for page in pages if page is not None and page.site == self.source),
        }


def read_listing(context: EnrichContext, doubt: timedelta) -> Listing:
    """The profiles that live records of stash-boxes list, with what is stored of the site.

    `doubt`: how long a rejected profile stays rejected.
    """
    source, base, suppressions = context.source, context.connector.base, context.suppressions
    place = site_of(source)
    identity_grade = place is not None and place.identity_grade
    parts = [host.rpartition(".")[0] for host in base.hosts]
    parts += [base.configured.partition("://")[2]] if base.is_elsewhere else []
    found: dict[str, list[RecordKey]] = defaultdict(list)
    urls: dict[str, str] = {}
    proves: set[str] = set()
    suppressed: set[str] = set()
    with reading(context.engine) as connection:
        for record, url in enrichment.listed_urls(connection, list(context.boxes), parts):
            public = base.public(url)
            profile = parse_profile(public)
            if profile is None or profile.key.site != source:
                continue
            key = profile.key.key
            if suppressions.covers_url(public) or suppressions.covers_record(source, key):
                suppressed.add(key)
                continue
            if record not in found[key]:
                found[key].append(record)
            urls.setdefault(key, profile.url or public)
            if identity_grade and canonical_profile(url) == profile.key:
                proves.add(key)
        held = enrichment.held_records(connection, source)
        rejected = rejected_since(connection, source, context.clock.now() - doubt)
    profiles = {
        key: ListedProfile(Target(key, urls[key]), tuple(sorted(by, key=context.by_rank)), key in proves)
        for key, by in found.items()
    }
    return Listing(source, profiles, held, rejected, frozenset(suppressed))
