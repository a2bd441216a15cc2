"""Notes how visits end, and when their items are due again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from stash_sense_pipeline.catalog.queries.enrichment import LastVisit
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import Outcome, SourceError, UnreadRecordError
from stash_sense_pipeline.records.performer_record import UnreadRecord
from stash_sense_pipeline.sources.reference_sites.enrichment.answer_log import AnswerLog
from stash_sense_pipeline.sources.reference_sites.enrichment.profile_store import ProfileStore
from stash_sense_pipeline.sources.reference_sites.site import Visit


class VisitRecorder:
    """Writes answers about items of one mode (`url` or `name`). Items are given by their hashes.

    `revisit`: the time until an item with an answer is due again.
    """

    def __init__(
        self, mode: str, answers: AnswerLog, store: ProfileStore, clock: Clock, revisit: timedelta
    ) -> None:
        self.mode = mode
        self.answers = answers
        self.store = store
        self._clock = clock
        self._revisit = revisit

    def answer_now(self, outcome: Outcome) -> LastVisit:
        """An answer that came now, without a page."""
        now = self._clock.now()
        return LastVisit(outcome.value, now, now + self._revisit)

    def answer_of(self, visit: Visit, outcome: Outcome) -> LastVisit:
        """The answer that a visit gave, with the validators of its page."""
        return replace(self.answer_now(outcome), etag=visit.etag, last_modified=visit.last_modified)

    async def note(self, item: str, visited: LastVisit) -> None:
        """Notes an answer that is counted already."""
        await self.store.note(self.mode, item, visited)

    async def conclude(self, item: str, visit: Visit, outcome: Outcome) -> None:
        """Counts and notes the outcome of a visit to a page that was read."""
        self.answers.outcomes[outcome.value] += 1
        await self.note(item, self.answer_of(visit, outcome))

    async def conclude_search(self, item: str, outcome: Outcome) -> None:
        """Counts and notes the outcome of a search that leads to no page."""
        self.answers.outcomes[outcome.value] += 1
        await self.note(item, self.answer_now(outcome))

    async def is_unread(self, item: str, visit: Visit) -> bool:
        """True when a profile came and cannot be used; it is noted then. A stored record of it stays, and the item is due
        again after the usual time."""
        if not isinstance(visit.error, UnreadRecordError):
            return False
        self.answers.answered(page=True)
        self.answers.outcomes["unread"] += 1
        self.answers.unread.note([UnreadRecord(item, visit.error.reason, item)])
        await self.note(item, self.answer_of(visit, Outcome.AMBIGUOUS))
        return True

    def read(self, item: str) -> None:
        """Counts a profile page that was read, or is unchanged."""
        self.answers.answered(page=True)
        self.answers.unread.read([item])

    async def postpone(self, item: str, error: SourceError, before: LastVisit | None) -> None:
        """Makes an item without an answer due now, behind the others: the next run asks for it last. The outcome that is
        stored for it stays."""
        if error.outcome is Outcome.DISALLOWED:
            return  # no request was sent
        now = self._clock.now()
        known = before or LastVisit(error.outcome.value, now, now)
        await self.note(item, replace(known, next_visit_at=now))
