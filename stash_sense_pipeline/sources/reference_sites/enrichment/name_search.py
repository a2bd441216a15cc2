"""Searches a site by name for performers without a listed profile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from stash_sense_pipeline.catalog.queries import enrichment
from stash_sense_pipeline.catalog.queries.enrichment import KnownRecord, LastVisit
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.sources.reference_sites.enrichment.context import NAME, EnrichContext
from stash_sense_pipeline.sources.reference_sites.enrichment.listing import Listing
from stash_sense_pipeline.sources.reference_sites.enrichment.profile_matching import (
    any_order,
    genders_agree,
    is_called,
    is_full_name,
)
from stash_sense_pipeline.sources.reference_sites.enrichment.visit_queue import VisitQueue
from stash_sense_pipeline.sources.reference_sites.enrichment.visit_recorder import VisitRecorder
from stash_sense_pipeline.sources.reference_sites.page import fold
from stash_sense_pipeline.sources.reference_sites.site import Profile, Target, Visit


@dataclass(frozen=True)
class _Search:
    """One search: the hash of its item, the record that it is for, that record's page, and the name to search for."""

    item: str
    person: KnownRecord
    link: str
    name: str


class NameSearch:
    """Searches for the performers that no stash-box links to the site, each by one full name that no other person has."""

    def __init__(self, context: EnrichContext, listing: Listing, recorder: VisitRecorder) -> None:
        self._context = context
        self._listing = listing
        self._recorder = recorder
        self._answers = recorder.answers
        self._store = recorder.store

    async def run(self) -> None:
        """Searches for every person that is due. Raises SourceError when the site as a whole fails."""
        known, visited = await asyncio.to_thread(self._load)
        linked = {record for listed in self._listing.profiles.values() for record in listed.by}
        searches: dict[str, _Search] = {}
        for person, name in self._people(known, linked):
            key = f"{person.source}:{person.source_id}"
            link = self._context.performer_url(person)
            searches[key] = _Search(self._context.item_hash(key), person, link, name)
        hashes = {key: search.item for key, search in searches.items()}
        queue = VisitQueue(hashes, visited, self._context.clock.now())
        self._context.progress("names", 0, len(queue.due))

        async def ask(key: str) -> None:
            queue.done.add(key)
            await self._search(searches[key], queue.last_visit(key))
            self._context.progress("names", queue.due_done, len(queue.due))

        for key in queue.due:
            if key in queue.done:
                continue
            await ask(key)
            if self._answers.is_suspect:
                await self._answers.look_elsewhere(queue.samples(), ask)

    def _load(self) -> tuple[list[KnownRecord], dict[str, LastVisit]]:
        with reading(self._context.engine) as connection:
            return (
                list(enrichment.known_records(connection, list(self._context.boxes)).values()),
                enrichment.visits(connection, self._context.source, NAME),
            )

    def _people(
        self, known: Collection[KnownRecord], linked: Collection[RecordKey]
    ) -> Iterator[tuple[KnownRecord, str]]:
        """One record of each person to search for, with the name to search for. Names of two people are left out."""
        by_name: dict[str, list[KnownRecord]] = defaultdict(list)
        holders: dict[str, list[KnownRecord]] = defaultdict(list)
        for record in known:
            by_name[any_order(record.name)].append(record)
            for called in {any_order(name) for name in (record.name, *record.aliases)}:
                holders[called].append(record)
        found: set[str] = set()
        for records in by_name.values():
            if any((record.source, record.source_id) in linked for record in records) or not any(
                self._context.wants_gender(record.gender) for record in records
            ):
                continue
            records.sort(key=lambda record: self._context.by_rank((record.source, record.source_id)))
            name = _searchable_name(records)
            if name is None:
                continue
            if _may_be_several(holders[any_order(name)]):
                self._answers.outcomes[Outcome.AMBIGUOUS.value] += 1
                continue
            if any_order(name) not in found:
                found.add(any_order(name))
                yield records[0], name

    async def _search(self, search: _Search, before: LastVisit | None) -> None:
        try:
            hits = await self._context.connector.find(search.name)
        except SourceError as error:
            if self._answers.failed(error):
                await self._recorder.postpone(search.item, error, before)
            else:
                await self._recorder.note(search.item, self._recorder.answer_now(error.outcome))
            return
        self._answers.answered(page=False)
        if not hits:
            await self._recorder.conclude_search(search.item, Outcome.NOT_FOUND)
        elif len(hits) > 1 or self._is_taken(hits[0].key, search.link):
            await self._recorder.conclude_search(search.item, Outcome.AMBIGUOUS)
        else:
            async for visit in self._context.connector.visit([Target(hits[0].key, hits[0].url)]):
                await self._take(search, visit, before)

    def _is_taken(self, key: str, link: str) -> bool:
        """True when a profile is listed, or belongs to another person of the same name."""
        held = self._listing.held.get(key)
        return (
            key in self._listing.profiles
            or key in self._store.stored
            or (held is not None and link not in held.urls)
        )

    async def _take(self, search: _Search, visit: Visit, before: LastVisit | None) -> None:
        if await self._recorder.is_unread(search.item, visit):
            return
        if visit.error is not None:
            if self._answers.failed(visit.error):
                await self._recorder.postpone(search.item, visit.error, before)
            else:
                answer = self._recorder.answer_of(visit, visit.error.outcome)
                await self._recorder.note(search.item, answer)
            return
        self._recorder.read(search.item)
        profile = visit.profile
        assert profile is not None
        if not self._fits(profile, search, visit.target.url):
            await self._recorder.conclude(search.item, visit, Outcome.AMBIGUOUS)
            return
        await self._store.add(profile, [search.person], NAME, [visit.target.url, search.link])
        await self._recorder.conclude(search.item, visit, Outcome.FOUND)

    def _fits(self, profile: Profile, search: _Search, url: str) -> bool:
        """True when the page is the person's, and may be stored."""
        return (
            is_full_name(search.name)
            and is_called(profile, search.name, self._context.connector.site.either_order)
            and genders_agree(profile.gender, search.person.gender)
            and self._context.wants_gender(profile.gender)
            and profile.key not in self._listing.rejected
            and not self._store.is_suppressed(profile)
            and not self._context.suppressions.covers_url(url)
        )


def _searchable_name(records: Sequence[KnownRecord]) -> str | None:
    """The first name of at least two words in Latin letters, main names first. Searches do not work with others."""
    names = [record.name for record in records] + [a for record in records for a in record.aliases]
    return next((each for each in names if " " in fold(each) and fold(each).isascii()), None)


def _may_be_several(records: Sequence[KnownRecord]) -> bool:
    """True when the records that have one name, as main name or alias, have several identities, or two are of one
    stash-box."""
    ids = {record.performer_id for record in records if record.performer_id is not None}
    return len(ids) > 1 or len({record.source for record in records}) < len(records)
