"""Writes the records of a sync to the catalog in batches, off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.data_errors import is_about_data
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.privacy.erasure import erase_alone, erase_awaited, erase_records
from stash_sense_pipeline.privacy.intake.adults import why_no_adult
from stash_sense_pipeline.privacy.intake.holding import reason_of, release_allowed, remember_held
from stash_sense_pipeline.privacy.intake.record_evidence import Relatives, Told, compare, remember_personas
from stash_sense_pipeline.privacy.linked_records import own_pages
from stash_sense_pipeline.privacy.redaction.report_redaction import erase_traces, texts_locked
from stash_sense_pipeline.privacy.suppression.suppression_list import NAMED, Suppressions, remember_met
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.records.record_key import OTHER_IDS, RecordKey

# A batch is one transaction, begun when the one before is through and there is enough; it takes all that came
# meanwhile. Ids are random, so that each page of an index is written once a batch, and large ones are cheaper. What a
# kill can lose is the batch that is being stored, and three seconds of reading.
_LEAST_RECORDS = 2000
_MOST_RECORDS = 8000
_BATCH_SECONDS = 3.0
# Who was no adult may be one later.
_WITHHELD_FOR = timedelta(days=30)
_SUPPRESSED = "suppressed"
_EVER = datetime(1970, 1, 1, tzinfo=UTC)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Tally:
    """What a run did so far. `suppressed`, `not_adult` and `held` are the ids of records that were not stored."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    merged: int = 0
    images_added: int = 0
    suppressed: set[str] = field(default_factory=set)
    not_adult: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)


class WriteBehindBuffer:
    """Collects records and has them stored while further ones are fetched, one batch at a time.

    Leaving the context stores what is left, also when the source failed: what was fetched is not lost.
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
        """Adds records; waits only when a batch is being stored and the next one is full."""
        self._waiting += records
        if self._under_way is not None:
            if not self._under_way.done() and len(self._waiting) < _MOST_RECORDS:
                return
            await self._finished()
        due = time.monotonic() - self._since >= _BATCH_SECONDS
        if due or len(self._waiting) >= _LEAST_RECORDS:
            self._begin()

    async def flush(self) -> None:
        """Begins to store what is left; leaving the context waits for it."""
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


class _Withheld(NamedTuple):
    """Why a record is not stored. `is_person`: it is the very person of a suppressed record; `is_near`: it shares
    something with one, or was met before; `is_chained`: it shares something with one that was met.
    """

    reason: str
    is_person: bool = False
    is_near: bool = False
    is_chained: bool = False


class CatalogWriter:
    """Reads and writes the records of one source, off the event loop, one transaction a call.

    `data_dir` is where reports and logs are, which forget an erased person before the catalog does; None where none
    are written. `relatives` finds stored records of a person whose record is refused before identities link them.
    """

    def __init__(
        self,
        engine: sa.Engine,
        source: str,
        refusals: Suppressions,
        clock: Clock,
        data_dir: Path | None = None,
        relatives: Relatives | None = None,
    ) -> None:
        self.source = source
        self.tally = Tally()
        # Records that the database refused, each with the kind of its error.
        self.unread: list[UnreadRecord] = []
        self._engine = engine
        self._refusals = refusals
        self._clock = clock
        self._data_dir = data_dir
        self._relatives = relatives
        # Refused records that are new to this run, each with its version, until erase_linked has looked for others.
        self._refused: dict[Told, datetime | None] = {}
        self._shows_awaited = False

    async def read(
        self, query: Callable[Concatenate[sa.Connection, str, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """`query(connection, source, ...)` on a snapshot of the catalog."""

        def run() -> T:
            with reading(self._engine) as connection:
                return query(connection, self.source, *args, **named)

        return await asyncio.to_thread(run)

    async def store(
        self, records: Sequence[PerformerRecord], also: Callable[[sa.Connection], None] | None = None
    ) -> None:
        """Stores live records, but none that must not be stored: what is there of those is deleted.

        The suppression list is asked inside the transaction: somebody may have been added while this run reads. `also`
        writes further rows in it. A batch that the database refuses is stored in halves, down to the records that it
        refuses alone: these are `unread`, and the others are stored.
        """
        if records or also is not None:
            await asyncio.to_thread(self._store, records, also)

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
            self._refusals = self._refusals.refreshed(connection)
            verdicts = [(record, self._verdict(record)) for record in records]
            withheld = [(record, why) for record, why in verdicts if why is not None]
            self._forget(until_committed, self._withhold(connection, withheld))
            allowed = [self._with_shown_images(record) for record, why in verdicts if why is None]
            release_allowed(connection, self._refusals, self.source, [record.source_id for record in allowed])
            counts = performers.store_records(connection, self.source, allowed, self._clock.now())
            if also is not None:
                also(connection)
            return counts

    async def versions(self, source_ids: Collection[str]) -> dict[str, datetime | None]:
        """The source's time of last change of each of these records that we read, stored or withheld."""
        known = await self.read(performers.live_versions, source_ids)
        return known | await self.withheld([each for each in source_ids if each not in known])

    async def withheld(self, source_ids: Collection[str]) -> dict[str, datetime | None]:
        """The source's time of last change of those of these records that were withheld not long ago."""
        if not source_ids:
            return {}
        hashes = {self._refusals.withheld_hash(self.source, source_id): source_id for source_id in source_ids}
        since = self._clock.now() - _WITHHELD_FOR
        return await self.read(performers.withheld_versions, hashes, since)

    async def tombstone(self, gone: Mapping[str, str | None]) -> None:
        """Makes tombstones; `gone` maps ids to those of the survivors of a merge, or to None.

        Who was merged with somebody suppressed, in either direction, is the same person, and is erased.
        """

        def run() -> performers.TombstoneCounts:
            with ExitStack() as until_committed, writing(self._engine) as connection:
                self._refusals = self._refusals.refreshed(connection)
                told = {key: target for key, target in gone.items() if not self.is_suppressed(key)}
                into = {
                    key for key, target in told.items() if target is not None and self.is_suppressed(target)
                }
                survivors = {
                    target for key, target in gone.items() if target is not None and self.is_suppressed(key)
                }
                self._forget(until_committed, self._erase(connection, into | survivors))
                kept = {key: target for key, target in told.items() if key not in into | survivors}
                return performers.tombstone_records(connection, self.source, kept, self._clock.now())

        if gone:
            counts = await asyncio.to_thread(run)
            self.tally.removed += counts.removed
            self.tally.merged += counts.merged

    async def erase_linked(self) -> None:
        """Erases the people of stored records that link to what this run refused, by the rules of identity, and the
        people who show an image that the suppression list awaited.

        Once a run, as it reads the whole catalog. A run that is killed before it leaves the refused records without a
        version, so that the next one reads them again and looks again.
        """
        if self._shows_awaited:
            await asyncio.to_thread(self._erase_awaited)
        if self._refused and self._relatives is not None:
            await asyncio.to_thread(self._erase_linked, self._relatives)

    def _erase_awaited(self) -> None:
        with ExitStack() as until_committed, writing(self._engine) as connection:
            self._refusals = self._refusals.refreshed(connection)
            traces = erase_awaited(connection, self._refusals, self._clock.now(), self._relatives)
            self._forget(until_committed, traces)
        self._shows_awaited = False

    def _erase_linked(self, relatives: Relatives) -> None:
        now = self._clock.now()
        with ExitStack() as until_committed, writing(self._engine) as connection:
            self._refusals = self._refusals.refreshed(connection)
            linked = relatives.of(connection, (), list(self._refused), self._refusals.is_other)
            self._forget(until_committed, self._erase_records(connection, linked))
            rows = [
                self._withheld_row(told.source_id, version, _SUPPRESSED)
                for told, version in self._refused.items()
            ]
            performers.withhold_records(connection, self.source, rows, now)
        self._refused = {}

    async def remove_orphaned_images(self) -> int:
        """Removes images without a performer. Only after a whole run, as a merge moves images."""

        def run() -> int:
            with writing(self._engine) as connection:
                return performers.remove_orphaned_images(connection, self.source)

        return await asyncio.to_thread(run)

    def is_suppressed(self, source_id: str) -> bool:
        """True for an id that must not be stored, not even as a tombstone."""
        return self._refusals.covers_record(self.source, source_id)

    def without_suppressed(self, source_ids: Collection[str]) -> list[str]:
        """The ids that may be stored, in their order."""
        return [source_id for source_id in source_ids if not self.is_suppressed(source_id)]

    def _verdict(self, record: PerformerRecord) -> _Withheld | None:
        """Why a record must not be stored, None when it may be."""
        found = compare(self._refusals, self._told(record))
        if found.degree is not None:
            self.tally.suppressed.add(record.source_id)
            is_near = found.degree == NAMED or found.by_id is not None
            return _Withheld(_SUPPRESSED, found.by_id == NAMED, is_near, is_chained=not is_near)
        problem = why_no_adult(record.birth_date, record.career_start_year, self._clock.now().date())
        if problem is not None:
            self.tally.not_adult.add(record.source_id)
            return _Withheld(problem)
        if found.is_held:
            self.tally.held.add(record.source_id)
            return _Withheld(reason_of(found), is_chained=True)
        return None

    def _told(self, record: PerformerRecord) -> Told:
        # A new record under the slug of an erased one is at the address of that.
        called = tuple(str(record.raw[name]) for name in OTHER_IDS if record.raw.get(name))
        return Told(
            self.source,
            record.source_id,
            record.name,
            record.aliases,
            record.birth_date,
            record.gender,
            record.country,
            record.urls,
            record.merged_ids,
            called,
        )

    def _withhold(
        self, connection: sa.Connection, withheld: Sequence[tuple[PerformerRecord, _Withheld]]
    ) -> tuple[str, ...]:
        """Returns the texts by which what was deleted can be found in files."""
        if not withheld:
            return ()
        now = self._clock.now()
        self._remember(connection, withheld, now)
        people = [record.source_id for record, why in withheld if why.is_person]
        traces = self._erase(connection, performers.liveness(connection, self.source, people))
        refused = performers.liveness(connection, self.source, [record.source_id for record, _ in withheld])
        traces += erase_alone(connection, {(self.source, source_id) for source_id in refused}, now)
        unsearched = self._new_people(connection, withheld)
        self._refused |= unsearched
        rows = [
            self._withheld_row(
                record.source_id,
                None if self._told(record) in unsearched else record.updated_at,
                why.reason,
            )
            for record, why in withheld
        ]
        performers.withhold_records(connection, self.source, rows, now)
        return traces

    def _remember(
        self,
        connection: sa.Connection,
        withheld: Sequence[tuple[PerformerRecord, _Withheld]],
        now: datetime,
    ) -> None:
        """Keeps of refused and held records, as hashes, by what others of the same person are recognised."""
        near = [record for record, why in withheld if why.is_near]
        met = {record.source_id: record.urls for record in near}
        # Of a record that was somebody's until now it is known which pages are others' too: these refuse nobody.
        own = {
            source_id: own_pages(connection, (self.source, source_id), met[source_id])
            for source_id in performers.liveness(connection, self.source, list(met))
        }
        remember_met(connection, self._refusals, self.source, list({**met, **own}.items()), now)
        remember_personas(connection, self._refusals, [self._told(record) for record in near], now)
        chained = [self._told(record) for record, why in withheld if why.is_chained]
        remember_held(connection, self._refusals, chained)

    def _new_people(
        self, connection: sa.Connection, withheld: Sequence[tuple[PerformerRecord, _Withheld]]
    ) -> dict[Told, datetime | None]:
        """Of the suppressed people, the records whose version no run has refused before."""
        if self._relatives is None:
            return {}
        people = {record.source_id: record for record, why in withheld if why.is_person}
        hashes = {self._refusals.withheld_hash(self.source, each): each for each in people}
        known = performers.withheld_versions(connection, self.source, hashes, _EVER)
        return {
            self._told(record): record.updated_at
            for source_id, record in people.items()
            if record.updated_at is None or known.get(source_id) != record.updated_at
        }

    def _withheld_row(
        self, source_id: str, version: datetime | None, reason: str
    ) -> performers.WithheldRecord:
        id_hash = self._refusals.withheld_hash(self.source, source_id)
        shown = None if reason == _SUPPRESSED else source_id
        return performers.WithheldRecord(id_hash, version, reason, shown)

    def _erase(self, connection: sa.Connection, source_ids: Collection[str]) -> tuple[str, ...]:
        if not source_ids:
            return ()
        return self._erase_records(connection, [(self.source, source_id) for source_id in source_ids])

    def _erase_records(self, connection: sa.Connection, records: Collection[RecordKey]) -> tuple[str, ...]:
        if not records:
            return ()
        now = self._clock.now()
        return erase_records(connection, self._refusals, records, now, self._relatives).traces

    def _forget(self, until_committed: ExitStack, traces: Sequence[str]) -> None:
        """Removes what was written about erased people in files, which nothing could find after the commit."""
        if traces and self._data_dir is not None:
            until_committed.enter_context(texts_locked(self._data_dir))
            erase_traces(self._data_dir, traces, staged=True)

    def _with_shown_images(self, record: PerformerRecord) -> PerformerRecord:
        """The record without images that are suppressed. An awaited one stays until it is known who else shows it."""
        covered = [
            image
            for image in record.images
            if self._refusals.covers_picture(self.source, image.image_id, image.url)
        ]
        awaited = [image for image in covered if self._refusals.awaits_image(image.url)]
        self._shows_awaited = self._shows_awaited or bool(awaited)
        if len(awaited) == len(covered):
            return record
        shown = tuple(image for image in record.images if image not in covered or image in awaited)
        return replace(record, images=shown)
