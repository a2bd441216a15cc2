"""Sync of ThePornDB, which has no timestamps: content hashes and confirmed 404s."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any

from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.sync_state import SyncState
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.stash_boxes.item_failures import MOST_BROKEN_IN_A_ROW, may_be_item_failure
from stash_sense_pipeline.sources.stash_boxes.theporndb_connector import Performers, ThePornDbConnector
from stash_sense_pipeline.sources.sync_rules import judge_missing
from stash_sense_pipeline.sources.unread import ANOTHER_ANSWERED, NOT_ANSWERED, UnreadNotes

# The list by last change is read until this many consecutive pages hold no new record.
_QUIET_PAGES = 2
# `changed_since` takes a day of the server's calendar, which may differ from the local one.
_CHANGES_OVERLAP = timedelta(days=2)


class ThePornDbSync:
    """One sync of ThePornDB. Records are stored as they arrive; the state changes only when a run is complete."""

    def __init__(self, connector: ThePornDbConnector, writer: CatalogWriter, state: SyncState) -> None:
        self.listed: set[str] = set()
        self.unread = UnreadNotes(writer.source, state.detail.get("unread"))
        self._connector = connector
        self._writer = writer
        self._state = state
        self._rules = writer.context.rules
        self._now = writer.context.clock.now()
        self._progress = writer.context.progress

    async def backfill(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Reads all performers. Returns the outcome, a message, and the changed fields of the state."""
        outcome, message, changes = await self.sweep()
        return outcome, message, {**changes, "backfilled_at": self._now}

    async def increment(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Reads the performers by last change, until the list brings nothing new."""
        last = self._state.last_sync_at or self._now
        changed = await self._connector.changed_since((last - _CHANGES_OVERLAP).date()) or frozenset()
        live = await self._writer.read(performers.liveness, sorted(changed))
        expected = {source_id for source_id in changed if live.get(source_id, True)}
        quiet, pages_left = 0, _QUIET_PAGES + len(expected) // 50
        async with aclosing(self._connector.recently_updated()) as pages:
            async for page in pages:
                quiet = 0 if await self._store(page) else quiet + 1
                expected -= self.listed
                pages_left -= 1
                if quiet >= _QUIET_PAGES and (not expected or pages_left <= 0):
                    break
        await self._look_up(sorted(expected | self.unread.to_ask_again))
        self.unread.note(self._writer.unread)
        self.unread.check()
        return Outcome.FOUND, None, {"detail": self._detail(dict(self._state.detail.get("missing", {})))}

    async def sweep(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Reads all performers, and requests those of the catalog that the list lacks."""
        async with aclosing(self._connector.all_records()) as pages:
            async for page in pages:
                await self._store(page)
        self.unread.note(self._writer.unread)
        self.unread.keep_only(self.listed)
        self.unread.check(len(self.listed))
        live, missing = await self._writer.read(performers.live_besides, self.listed)
        verdict = judge_missing(self._rules, live, missing, self._state.detail.get("missing", {}))
        await self._look_up(verdict.believed)
        self.unread.note(self._writer.unread)
        outcome = Outcome.AMBIGUOUS if verdict.refused else Outcome.FOUND
        return (
            outcome,
            verdict.message,
            {
                "detail": self._detail(verdict.refused),
                "last_sweep_at": self._now,
            },
        )

    def _detail(self, missing: Mapping[str, Any]) -> dict[str, Any]:
        """The `detail` of the state for the next run."""
        detail = {key: value for key, value in self._state.detail.items() if key not in ("missing", "unread")}
        found = {"missing": missing, "unread": self.unread.detail()}
        return {**detail, **{key: value for key, value in found.items() if value}}

    async def _store(self, page: Performers) -> bool:
        """Stores records. Returns True when one of them was new or changed."""
        self.unread.note(each for each in page.unread if each.source_id not in self.listed)
        # Unread performers exist at the source too.
        self.listed.update(each.label for each in page.unread)
        fresh = [record for record in page.rows if record.source_id not in self.listed]
        self.listed.update(record.source_id for record in fresh)
        self.unread.read(record.source_id for record in fresh)
        before = self._writer.tally.added + self._writer.tally.updated
        withheld = await self._writer.withheld([record.source_id for record in fresh])
        await self._writer.store(fresh)
        self._progress("records", len(self.listed), None)
        left_out = self._writer.tally.other_gender.intersection(record.source_id for record in fresh)
        changed = self._writer.tally.added + self._writer.tally.updated > before
        # A record that the gender filter leaves out has no version here; it is new when no run has left it out.
        return changed or not left_out <= withheld.keys()

    async def _look_up(self, source_ids: Sequence[str]) -> None:
        """Requests performers by id, and writes a tombstone for each that the server does not find twice.

        The tombstone names a survivor when the slug leads to another performer of the same name.
        """
        doubtful = []
        broken = 0
        # The order differs in each run, so that the same broken records do not always come first.
        shuffled = random.Random(self._now.isoformat()).sample(source_ids, len(source_ids))
        for source_id in shuffled:
            try:
                record = await self._connector.performer(source_id)
            except SourceError as error:
                broken += 1
                if not may_be_item_failure(error) or broken >= MOST_BROKEN_IN_A_ROW:
                    raise
                await self._connector.check_answering()
                self.unread.note([UnreadRecord(source_id, NOT_ANSWERED, source_id)])
                continue
            broken = 0
            if isinstance(record, UnreadRecord):
                self.unread.note([replace(record, label=source_id, source_id=source_id)])
            elif record is not None and record.source_id != source_id:
                self.unread.note([UnreadRecord(source_id, ANOTHER_ANSWERED, source_id)])
            elif record is not None:
                self.unread.read([source_id])
                await self._writer.store([record])
            else:
                self.unread.forget([source_id])
                doubtful.append(source_id)
        held = await self._writer.read(performers.slugs, doubtful)
        for source_id, (name, slug) in held.items():
            if await self._connector.performer(source_id) is None:
                other = await self._connector.performer(slug) if slug else None
                is_same = (
                    isinstance(other, PerformerRecord) and other.name == name and other.source_id != source_id
                )
                survivor = other.source_id if other is not None and is_same else None
                await self._writer.tombstone({source_id: survivor})
