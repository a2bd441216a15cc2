"""Visits the listed profiles that are due, and decides what each visit changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from stash_sense_pipeline.catalog.queries import enrichment
from stash_sense_pipeline.catalog.queries.enrichment import KnownRecord, LastVisit
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.records.profile_urls import stash_box_performer
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.sources.reference_sites.enrichment.context import URL, EnrichContext
from stash_sense_pipeline.sources.reference_sites.enrichment.listing import ListedProfile, Listing
from stash_sense_pipeline.sources.reference_sites.enrichment.profile_matching import claimants_of
from stash_sense_pipeline.sources.reference_sites.enrichment.visit_queue import VisitQueue
from stash_sense_pipeline.sources.reference_sites.enrichment.visit_recorder import VisitRecorder
from stash_sense_pipeline.sources.reference_sites.site import Target, Visit

# A page must be missing in two visits so far apart before its record is removed.
_MISSING_FOR = timedelta(days=1)


class ListedVisits:
    """Visits to the profiles of a listing.

    `confirm`: the time until a stored profile that is missing is visited again. `records`: the stash-box records that
    list each profile, by its key.
    """

    def __init__(
        self, context: EnrichContext, listing: Listing, recorder: VisitRecorder, confirm: timedelta
    ) -> None:
        self._context = context
        self._listing = listing
        self._recorder = recorder
        self._confirm = confirm
        self._answers = recorder.answers
        self._store = recorder.store
        self._records: Mapping[str, Sequence[KnownRecord]] = {}
        # Stored records that are missing for the second time: the hash of the item, and the answer to note.
        self._missing: dict[str, tuple[str, LastVisit]] = {}

    async def run(self) -> None:
        """Visits every profile that is due. Raises SourceError when the site as a whole fails."""
        queue = await asyncio.to_thread(self._load)
        self._context.progress("profiles", 0, len(queue.due))
        looking = False

        async def ask(keys: Sequence[str]) -> None:
            nonlocal looking
            targets = [self._target(key, queue.last_visit(key)) for key in keys if key not in queue.done]
            async for visit in self._context.connector.visit(targets):
                key = visit.target.key
                queue.done.add(key)
                await self._take(visit, self._listing.profiles[key], queue.last_visit(key))
                self._context.progress("profiles", queue.due_done, len(queue.due))
                if self._answers.is_suspect and not looking:
                    looking = True
                    await self._answers.look_elsewhere(queue.samples(), lambda key: ask([key]))
                    looking = False

        for keys in batched(queue.due, self._context.connector.batch):
            await ask(keys)

    def remove_missing(self) -> None:
        """Removes the records that were missing twice, if the run read any page: otherwise it may be an outage."""
        if not self._answers.pages:
            return
        for source_id, (item, gone) in self._missing.items():
            self._store.remove([source_id])
            self._answers.outcomes[Outcome.GONE.value] += 1
            self._store.note_later(URL, item, gone)

    def _load(self) -> VisitQueue:
        """Reads the records that list the profiles. The queue has the profiles of a person with a wanted gender."""
        context, profiles = self._context, self._listing.profiles
        wanted: set[RecordKey] = {record for listed in profiles.values() for record in listed.by}
        with reading(context.engine) as connection:
            known = enrichment.known_records(connection, list(context.boxes), wanted)
            visited = enrichment.visits(connection, context.source, URL)
        self._records = {
            key: [known[record] for record in listed.by if record in known]
            for key, listed in profiles.items()
        }
        hashes = {
            key: context.item_hash(key)
            for key in profiles
            if any(context.wants_gender(record.gender) for record in self._records[key])
        }
        return VisitQueue(hashes, visited, context.clock.now())

    def _target(self, key: str, before: LastVisit | None) -> Target:
        """The target, with the validators of the last visit when an unchanged page would change nothing here."""
        target, held = self._listing.profiles[key].target, self._listing.held_for(key)
        if before is None or held is None or before.outcome != Outcome.FOUND:
            return target
        links = {stash_box_performer(url) for url in held.urls} - {None}
        own = (stash_box_performer(self._context.performer_url(record)) for record in self._records[key])
        if links and links.isdisjoint(own):
            return target
        return replace(target, etag=before.etag, last_modified=before.last_modified)

    async def _take(self, visit: Visit, listed: ListedProfile, before: LastVisit | None) -> None:
        item = self._context.item_hash(visit.target.key)
        if await self._recorder.is_unread(item, visit):
            return
        if visit.error is not None:
            if self._answers.failed(visit.error):
                await self._recorder.postpone(item, visit.error, before)
            else:
                await self._absent(item, visit, visit.error.outcome, before)
            return
        self._recorder.read(item)
        if visit.profile is None:
            self._answers.outcomes["unchanged"] += 1
            await self._recorder.note(item, self._recorder.answer_of(visit, Outcome.FOUND))
            return
        await self._take_profile(item, visit, listed)

    async def _take_profile(self, item: str, visit: Visit, listed: ListedProfile) -> None:
        """Stores a profile that shows a person of the records which list it; otherwise removes a stored record of it."""
        profile = visit.profile
        assert profile is not None
        records = self._records[visit.target.key]
        claimants = (
            claimants_of(profile, records, same_person_only=not listed.proves)
            if self._context.wants_gender(profile.gender)
            else ()
        )
        if not claimants or profile.key in self._listing.rejected or self._store.is_suppressed(profile):
            if profile.key in self._listing.held:
                self._store.remove([profile.key])
            await self._recorder.conclude(item, visit, Outcome.AMBIGUOUS)
            return
        urls = [visit.target.url]
        if not listed.proves:
            urls.append(self._context.performer_url(claimants[0]))
        await self._store.add(profile, claimants, URL, urls)
        await self._recorder.conclude(item, visit, Outcome.FOUND)

    async def _absent(self, item: str, visit: Visit, outcome: Outcome, before: LastVisit | None) -> None:
        """The page is missing, or it is another person's. A stored record of another person's page is removed at once;
        one of a missing page when a later run confirms it."""
        held = self._listing.held_for(visit.target.key)
        if outcome is Outcome.AMBIGUOUS or held is None:
            if held is not None:
                self._store.remove([held.source_id])
            await self._recorder.note(item, self._recorder.answer_of(visit, outcome))
            return
        now = self._context.clock.now()
        since = before.missing_since if before is not None else None
        if since is not None and now - since >= _MISSING_FOR:
            gone = replace(self._recorder.answer_of(visit, Outcome.GONE), missing_since=since)
            self._missing[held.source_id] = (item, gone)
            return
        first = self._recorder.answer_of(visit, Outcome.NOT_FOUND)
        await self._recorder.note(
            item, replace(first, missing_since=since or now, next_visit_at=now + self._confirm)
        )
