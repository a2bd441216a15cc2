"""Writes the records of a sync to the catalog in batches, off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.data_errors import is_about_data
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import TrialEndedError
from stash_sense_pipeline.privacy.intake.withholding import WithheldIds, Withholding
from stash_sense_pipeline.privacy.redaction.report_redaction import erase_traces, texts_locked
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.sources.ingest_context import IngestContext

# A batch is one transaction. It begins when the previous one is committed and enough records wait, and takes all that
# wait. Ids are random, so that nearly every index page is written in each batch: large batches are cheaper. A kill loses
# the batch that is being stored, and at most three seconds of reading.
_LEAST_RECORDS = 2000
_MOST_RECORDS = 8000
_BATCH_SECONDS = 3.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Tally:
    """Counts of a run. `suppressed`, `not_adult`, `held` and `other_gender` are the ids of records that were not stored."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    merged: int = 0
    images_added: int = 0
    suppressed: set[str] = field(default_factory=set)
    not_adult: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    other_gender: set[str] = field(default_factory=set)


class WriteBehindBuffer:
    """Collects records and stores them in batches, one at a time, while further records are fetched.

    Leaving the context stores the remaining records, also when the source failed, so that no fetched record is lost.
    """

    def __init__(self, store: Callable[[Sequence[PerformerRecord]], Coroutine[Any, Any, None]]) -> None:
        self._store = store
        self._waiting: list[PerformerRecord] = []
        self._under_way: asyncio.Task[None] | None = None
        self._since = time.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.flush()
        await self._finished()

    async def put(self, records: Sequence[PerformerRecord]) -> None:
        """Adds records. Waits only when a batch is being stored and the next one is full."""
        self._waiting += records
        if self._under_way is not None:
            if not self._under_way.done() and len(self._waiting) < _MOST_RECORDS:
                return
            await self._finished()
        due = time.monotonic() - self._since >= _BATCH_SECONDS
        if due or len(self._waiting) >= _LEAST_RECORDS:
            self._begin()

    async def flush(self) -> None:
        """Begins to store the remaining records. Leaving the context waits until they are stored."""
        await self._finished()
        self._begin()

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        self._since = time.monotonic()
        if batch:
            self._under_way = asyncio.create_task(self._store(batch))

    async def _finished(self) -> None:
        task, self._under_way = self._under_way, None
        if task is not None:
            await task


class CatalogWriter:
    """Reads and writes the records of one source, off the event loop, in one transaction per call.

    Withholding decides which records are stored; the writer carries it out.
    """

    def __init__(self, context: IngestContext, source: str) -> None:
        self.context = context
        self.source = source
        self.tally = Tally()
        # Records that the database refused, each with the type of the error.
        self.unread: list[UnreadRecord] = []
        self._taken = 0
        self._engine = context.engine
        self._clock = context.clock
        self._data_dir = context.data_dir
        tally = self.tally
        ids = WithheldIds(tally.suppressed, tally.not_adult, tally.held, tally.other_gender)
        self._withholding = Withholding(source, context.suppressions, context.clock, ids, context.relatives)
        self._withholding.genders = context.genders

    async def read(
        self, query: Callable[Concatenate[sa.Connection, str, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """Runs `query(connection, source, ...)` on a snapshot of the catalog."""

        def run() -> T:
            with reading(self._engine) as connection:
                return query(connection, self.source, *args, **named)

        return await asyncio.to_thread(run)

    async def store(
        self, records: Sequence[PerformerRecord], also: Callable[[sa.Connection], None] | None = None
    ) -> None:
        """Stores live records. What the catalog has of records that must not be stored is deleted.

        The suppression list is read again inside the transaction, as a person may have been added while this run reads.
        `also` writes further rows in the same transaction. A batch that the database refuses is split in halves, down to
        single records: those that it refuses are added to `unread`, and the others are stored.
        """
        most = self.context.max_records
        wanted = records if most is None else records[: max(0, most - self._taken)]
        self._taken += len(wanted)
        if wanted or also is not None:
            await asyncio.to_thread(self._store, wanted, also)
        if most is not None and self._taken >= most:
            raise TrialEndedError(self.source, most)

    def _store(
        self, records: Sequence[PerformerRecord], also: Callable[[sa.Connection], None] | None
    ) -> None:
        try:
            counts = self._store_together(records, also)
        except Exception as error:
            if not records or not is_about_data(error):
                raise
            if len(records) == 1:
                (record,) = records
                reason = f"the database refused it ({type(error).__name__})"
                self.unread.append(
                    UnreadRecord(record.source_id, reason, record.source_id, record.updated_at)
                )
            else:
                middle = len(records) // 2
                self._store(records[:middle], None)
                self._store(records[middle:], None)
            if also is not None:
                self._store((), also)
            return
        self.tally.added += counts.added
        self.tally.updated += counts.updated
        self.tally.images_added += counts.images_added

    def _store_together(
        self, records: Sequence[PerformerRecord], also: Callable[[sa.Connection], None] | None
    ) -> performers.StoreCounts:
        with ExitStack() as until_committed, writing(self._engine) as connection:
            admitted = self._withholding.admit(connection, records)
            self._forget(until_committed, admitted.traces)
            counts = performers.store_records(connection, self.source, admitted.records, self._clock.now())
            if also is not None:
                also(connection)
            return counts

    async def versions(self, source_ids: Collection[str]) -> dict[str, datetime | None]:
        """The source's time of last change of each of these records that is stored or was withheld."""
        known = await self.read(performers.live_versions, source_ids)
        return known | await self.withheld([each for each in source_ids if each not in known])

    async def withheld(self, source_ids: Collection[str]) -> dict[str, datetime | None]:
        """The source's time of last change of each of these records that was withheld in the last 30 days."""
        if not source_ids:
            return {}

        def run() -> dict[str, datetime | None]:
            with reading(self._engine) as connection:
                return self._withholding.withheld_versions(connection, source_ids)

        return await asyncio.to_thread(run)

    async def tombstone(self, gone: Mapping[str, str | None]) -> None:
        """Writes tombstones. `gone` maps ids to the ids of the survivors of a merge, or to None.

        A record that was merged with a suppressed one, in either direction, is the same person, and is erased.
        """

        def run() -> performers.TombstoneCounts:
            with ExitStack() as until_committed, writing(self._engine) as connection:
                admitted = self._withholding.admit_tombstones(connection, gone)
                self._forget(until_committed, admitted.traces)
                return performers.tombstone_records(connection, self.source, admitted.gone, self._clock.now())

        if gone:
            counts = await asyncio.to_thread(run)
            self.tally.removed += counts.removed
            self.tally.merged += counts.merged

    async def leave_out_genders(self) -> None:
        """Deletes stored records that the gender filter of the source does not let through."""
        await asyncio.to_thread(self._erase, self._withholding.leave_out_genders)

    async def erase_linked(self) -> None:
        """Erases the people of stored records that link to records which this run refused, by the rules of identity.

        Erases also the people who alone show an image that the suppression list awaited. Call it once a run, as it reads
        the whole catalog. When a run is killed before it, the refused records have no version in the catalog, so that the
        next run reads them again and searches again.
        """
        if self._withholding.shows_awaited:
            await asyncio.to_thread(self._erase, self._withholding.erase_awaited)
        if self._withholding.has_unsearched:
            await asyncio.to_thread(self._erase, self._withholding.erase_linked)

    def _erase(self, erase: Callable[[sa.Connection], tuple[str, ...]]) -> None:
        with ExitStack() as until_committed, writing(self._engine) as connection:
            self._forget(until_committed, erase(connection))

    async def remove_orphaned_images(self) -> int:
        """Removes images without a performer. Call it only after a complete run, as a merge moves images."""

        def run() -> int:
            with writing(self._engine) as connection:
                return performers.remove_orphaned_images(connection, self.source)

        return await asyncio.to_thread(run)

    def is_suppressed(self, source_id: str) -> bool:
        """True for an id that must not be stored, not even as a tombstone."""
        return self._withholding.is_suppressed(source_id)

    def without_suppressed(self, source_ids: Collection[str]) -> list[str]:
        """The ids that may be stored, in their order."""
        return [source_id for source_id in source_ids if not self.is_suppressed(source_id)]

    def _forget(self, until_committed: ExitStack, traces: Sequence[str]) -> None:
        """Removes the names of erased people from files. After the commit no search could find these names any more."""
        if traces and self._data_dir is not None:
            until_committed.enter_context(texts_locked(self._data_dir))
            erase_traces(self._data_dir, traces, staged=True)
