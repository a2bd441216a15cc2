"""Collects records, removals and visits of an enrichment run, and commits them in batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries import enrichment, performers
from stash_sense_pipeline.catalog.queries.enrichment import KnownRecord, LastVisit
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.reference_sites.enrichment.context import NAME, URL, EnrichContext
from stash_sense_pipeline.sources.reference_sites.enrichment.profile_matching import AliasHashes, record_of
from stash_sense_pipeline.sources.reference_sites.site import Profile

_BATCH_SECONDS = 2.0
_BATCH_VISITS = 50


@dataclass
class _Pending:
    """What is not committed yet."""

    records: list[PerformerRecord] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    visited: dict[str, dict[str, LastVisit]] = field(default_factory=lambda: {URL: {}, NAME: {}})
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.visited[URL]) + len(self.visited[NAME]) + len(self.gone)


class ProfileStore:
    """Writes the results of a run. `stored`: the keys of profiles that this run stores."""

    def __init__(self, context: EnrichContext, writer: CatalogWriter) -> None:
        self._context = context
        self._writer = writer
        self._pending = _Pending()
        self.stored: set[str] = set()

    def is_suppressed(self, profile: Profile) -> bool:
        """True when the suppression list covers the profile, so it must not be stored. Counts it in the tally."""
        pages = (*profile.urls, *profile.links)
        degree = self._context.suppressions.degree(self._context.source, [profile.key], pages)
        if degree is not None:
            self._writer.tally.suppressed.add(profile.key)
        return degree is not None

    async def add(
        self, profile: Profile, records: Sequence[KnownRecord], found_by: str, urls: Sequence[str]
    ) -> None:
        """Stores a profile of the person of these stash-box `records`, unless this run has stored it already.

        `urls`: addresses to store with it, besides those of the profile itself.
        """
        if profile.key in self.stored:
            return
        self.stored.add(profile.key)
        hashes = await asyncio.to_thread(self._corroborated, records) if profile.aliases else frozenset()
        self._pending.records.append(
            record_of(
                profile,
                records,
                found_by=found_by,
                extra_urls=urls,
                alias_hashes=AliasHashes(self._context.alias_hash, hashes),
            )
        )

    def remove(self, source_ids: Sequence[str]) -> None:
        """Removes stored records with the next commit."""
        self._pending.gone += source_ids

    def note_later(self, mode: str, item: str, visited: LastVisit) -> None:
        """Notes an answer about an item (by its hash), to be committed with what comes next."""
        self._pending.visited[mode][item] = visited

    async def note(self, mode: str, item: str, visited: LastVisit) -> None:
        """Notes an answer about an item (by its hash), and commits what waits when that is enough or old enough."""
        self.note_later(mode, item, visited)
        if len(self._pending) >= _BATCH_VISITS or time.monotonic() - self._pending.since >= _BATCH_SECONDS:
            await self.flush()

    async def flush(self) -> None:
        """Commits records, removals and visits in one transaction. A cancellation does not interrupt it."""
        pending, self._pending = self._pending, _Pending()
        if not pending and not pending.records:
            return

        def also(connection: sa.Connection) -> None:
            gone = dict.fromkeys(pending.gone)
            source, now = self._context.source, self._context.clock.now()
            tombstoned = performers.tombstone_records(connection, source, gone, now)
            self._writer.tally.removed += tombstoned.removed
            for mode, visited in pending.visited.items():
                enrichment.store_visits(connection, source, mode, visited)

        await asyncio.shield(self._writer.store(pending.records, also))

    async def finish(self) -> None:
        """Commits what is left, and removes images without a record."""
        await self.flush()
        await self._writer.remove_orphaned_images()

    def unread_records(self) -> list[UnreadRecord]:
        """The records that the database refused, each by the hash of its id."""
        hashed = [(each, self._context.item_hash(each.label)) for each in self._writer.unread]
        return [replace(each, label=digest, source_id=digest) for each, digest in hashed]

    def _corroborated(self, records: Sequence[KnownRecord]) -> frozenset[str]:
        """Hashes of the aliases that profiles of other sites show for the same person."""
        ids = {record.performer_id for record in records if record.performer_id is not None}
        with reading(self._context.engine) as connection:
            return enrichment.alias_hashes(connection, ids, self._context.source)
