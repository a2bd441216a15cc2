"""Sync of a stash-box: backfill by name, increments by time of change, full sweeps."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.sync_state import SyncState
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter, WriteBehindBuffer
from stash_sense_pipeline.sources.http.ordered_prefetch import ordered_prefetch
from stash_sense_pipeline.sources.stash_boxes.stash_box_connector import (
    Details,
    Direction,
    Listed,
    RecordPage,
    StashBoxConnector,
)
from stash_sense_pipeline.sources.sync_rules import SyncRules, judge_missing
from stash_sense_pipeline.sources.unread import UnreadNotes

# Rows of a head read beyond those that we know to be in its window, and by how much the next one is longer.
_HEAD_MARGIN = 200
_HEAD_GROWTH = 4
_HEAD_PASSES = 5
# Ids looked up between two transactions.
_LOOKED_UP = 100
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_UNSEEN = object()
_Held = Mapping[str, performers.HeldRecord]


class StashBoxSync:
    """One run for one stash-box. Records are stored as they come; the state moves when a run is through."""

    def __init__(
        self,
        connector: StashBoxConnector,
        writer: CatalogWriter,
        state: SyncState,
        rules: SyncRules,
        now: datetime,
        progress: Progress,
    ) -> None:
        self.listed: dict[str, datetime | None] = {}
        self._connector = connector
        self._writer = writer
        self._state = state
        self._rules = rules
        self._now = now
        self._progress = progress
        self._count = 0
        # Merged-away ids that live records name, each with the id of that record.
        self._survivors: dict[str, str] = {}
        self.unread = UnreadNotes(writer.source, state.detail.get("unread"))
        # Rows without an id that can be used, in the pass over the list that showed most of them.
        self._without_id = self._without_id_in_pass = 0
        self._passes = 0
        self._watermark = state.updated_watermark
        self._edits_watermark = state.edits_watermark
        self._version = state.server_version

    async def backfill(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Reads everything. A run that was cut off is continued: only what differs is read again.

        Returns the outcome, a message, and the fields of the state that it changes.
        """
        head = await self._connector.head(1)
        self._watermark = self._edits_watermark = self._newest(self._watermark, head.rows)
        if await self._writer.read(performers.has_read_records):
            await self._compare("ASC")
            await self._compare("DESC")
        else:
            await self._read_all()
        await self._complete(("ASC", "DESC"))
        return await self._finish_sweep(backfilled_at=self._now)

    async def increment(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Reads what changed since the watermark."""
        await self._catch_up()
        self.unread.note(self._writer.unread)
        self.unread.check()
        return Outcome.FOUND, None, self._changes(missing={})

    async def sweep(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Compares everything: finds hard deletions, and changes that move no time stamp."""
        await self._compare("ASC")
        await self._complete(("DESC",))
        return await self._finish_sweep()

    async def _finish_sweep(self, **changes: Any) -> tuple[Outcome, str | None, dict[str, Any]]:
        # What the list shows and could not be read before is asked for once more.
        await self._look_up(sorted(self.unread.source_ids & self.listed.keys()))
        self.unread.check(len(self.listed) + self._without_id)
        await self._catch_up()
        buried = await self._writer.read(performers.tombstones)
        if "merged_into_id" in (await self._connector.describe()).performer_fields:
            moved = [
                key
                for key, target in buried.items()
                if target is not None and key not in self.listed and self._survivors.get(key) != target
            ]
            await self._look_up(moved)
        outcome, message, missing = await self._settle_absent()
        self.unread.note(self._writer.unread)
        self.unread.keep_only(self.listed.keys())
        self.unread.check(len(self.listed) + self._without_id)
        return outcome, message, self._changes(missing=missing, last_sweep_at=self._now, **changes)

    def _changes(self, missing: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        detail = {key: value for key, value in self._state.detail.items() if key not in ("unread", "missing")}
        if self.unread:
            detail["unread"] = self.unread.detail()
        if missing or ("last_sweep_at" not in more and "missing" in self._state.detail):
            detail["missing"] = missing or self._state.detail["missing"]
        return {
            "updated_watermark": self._watermark,
            "edits_watermark": self._edits_watermark,
            "server_version": self._version,
            "detail": detail,
            **more,
        }

    # --- enumeration ------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        """Reads all records in one direction and lists them in the other; what that shows besides is read too."""
        async with WriteBehindBuffer(self._store) as storing:
            async with self._one_pass(), aclosing(self._connector.records("ASC")) as pages:
                async for page in pages:
                    await storing.put(page.rows)
                    self.unread.read(record.source_id for record in page.rows)
                    self.listed.update((record.source_id, record.updated_at) for record in page.rows)
                    self._note(page)
            await storing.flush()
            wanted = await self._list_different("DESC")
        await self._look_up(await self._read_dense_pages("DESC", wanted))

    async def _compare(self, direction: Direction) -> None:
        """Lists everything, and reads again what differs from the catalog, or from an earlier list of this run."""
        wanted = await self._list_different(direction)
        await self._look_up(await self._read_dense_pages(direction, wanted))

    async def _list_different(self, direction: Direction) -> dict[str, int]:
        """The ids of all listed performers that must be read, each with its position in the list."""
        if self.listed:
            return await self._list(direction, None)
        # For a whole list one query is cheaper than one a page; the server goes on listing meanwhile. It is asked for its
        # description first: the query would keep us from hearing the answer.
        await self._connector.describe()
        held = asyncio.create_task(self._writer.read(performers.held_records))
        try:
            return await self._list(direction, held)
        finally:
            await asyncio.gather(held, return_exceptions=True)

    async def _list(self, direction: Direction, held: asyncio.Task[_Held] | None) -> dict[str, int]:
        wanted: dict[str, int] = {}
        positions = itertools.count()
        waiting: list[RecordPage[Listed]] = []
        listing = self._connector.listing(direction, brief=bool(self.listed))
        async with self._one_pass(), aclosing(listing) as pages:
            async for page in pages:
                waiting.append(page)
                if held is None or held.done():
                    await self._sift(waiting, held, positions, wanted)
                    waiting = []
        await self._sift(waiting, held, positions, wanted)
        return wanted

    async def _sift(
        self,
        pages: Iterable[RecordPage[Listed]],
        held: asyncio.Task[_Held] | None,
        positions: Iterator[int],
        wanted: dict[str, int],
    ) -> None:
        """Notes what pages list, and adds to `wanted` what must be read."""
        for page in pages:
            news = [row for row in page.rows if self.listed.get(row.source_id, _UNSEEN) != row.updated]
            different = await self._different(news, await held if held is not None else None)
            for row, position in zip(page.rows, positions, strict=False):
                self.listed[row.source_id] = row.updated
                self._survivors.update(dict.fromkeys(row.merged_ids, row.source_id))
                if row.source_id in different:
                    wanted[row.source_id] = position
            self._note(page)

    def _note(self, page: RecordPage[Any]) -> None:
        self._count = page.count
        named = [each for each in page.unread if each.source_id is not None]
        nameless = [each for each in page.unread if each.source_id is None]
        for each in named:
            self.listed.setdefault(str(each.source_id), each.version)
        self._without_id_in_pass += len(nameless)
        # Later passes show the same rows with other fields, under another digest.
        self.unread.note([*named, *(nameless if self._passes == 1 else ())])
        self._progress("records", len(self.listed), page.count)

    @asynccontextmanager
    async def _one_pass(self) -> AsyncIterator[None]:
        """One look at the whole list."""
        self._passes += 1
        self._without_id_in_pass = 0
        yield
        self._without_id = max(self._without_id, self._without_id_in_pass)

    async def _different(self, rows: Sequence[Listed], held: _Held | None) -> set[str]:
        """The ids of rows that say something else than the catalog; `held` is what it has, if that was read before."""
        if held is None:
            held = await self._writer.read(performers.held_records, [row.source_id for row in rows])
        unknown = [row.source_id for row in rows if row.source_id not in held]
        withheld = await self._writer.withheld(unknown)
        different = {
            row.source_id
            for row in rows
            if (
                _differs(row, held[row.source_id])
                if row.source_id in held
                else withheld.get(row.source_id, _UNSEEN) != row.updated
            )
        }
        return set(self._writer.without_suppressed(different))

    async def _read_dense_pages(self, direction: Direction, wanted: Mapping[str, int]) -> list[str]:
        """Reads whole pages where that needs fewer requests than look-ups; returns the ids that are left."""
        size = self._connector.records_a_page
        in_page: dict[int, int] = defaultdict(int)
        for position in wanted.values():
            in_page[position // size] += 1
        numbers = [page + 1 for page, count in in_page.items() if count > self._connector.details_a_request]
        left = set(wanted)
        questions = [partial(self._connector.records_page, direction, size, number) for number in numbers]
        async with WriteBehindBuffer(self._store) as storing, aclosing(ordered_prefetch(questions)) as pages:
            async for page in pages:
                rows = [record for record in page.rows if record.source_id in left]
                await storing.put(rows)
                self.unread.read(record.source_id for record in rows)
                unread = [each for each in page.unread if each.source_id in left]
                self.unread.note(unread)
                left -= {record.source_id for record in rows}
                left -= {each.label for each in unread}
        return [source_id for source_id in wanted if source_id in left]

    async def _complete(self, directions: Iterable[Direction]) -> None:
        """Goes over the list again until as many distinct performers were seen as the server counts."""
        for direction in directions:
            if len(self.listed) + self._without_id >= self._count:
                return
            await self._compare(direction)
        short = self._count - len(self.listed) - self._without_id
        if short > self._rules.allowed_short(self._count):
            raise SourceError(
                self._writer.source,
                Outcome.PARSE_ERROR,
                f"the server counts {self._count} performers but lists only {len(self.listed)}",
            )

    # --- changes ----------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Reads what changed since the watermark, oldest first, then merges and deletions."""
        description = await self._connector.describe()
        self._version = description.version
        cutoff = None if self._watermark is None else self._watermark - self._rules.overlap
        if description.has_changelog:
            changes = await self._connector.changes(cutoff or _BEGINNING)
            rows = [Listed(change.source_id, change.updated) for change in changes if not change.deleted]
            gone = {change.source_id for change in changes if change.deleted}
            newest = self._newest(self._watermark, [Listed(each.source_id, each.updated) for each in changes])
        else:
            rows = list(reversed(await self._head(cutoff)))
            gone = set()
            newest = self._newest(self._watermark, rows)
        versions = await self._writer.versions([row.source_id for row in rows])
        changed = [
            row.source_id
            for row in rows
            if (row.source_id not in versions or versions[row.source_id] != row.updated)
            and not self.unread.is_known(row.source_id, row.updated)
        ]
        again = sorted(self.unread.to_ask_again)
        await self._look_up([*dict.fromkeys([*again, *self._writer.without_suppressed(changed)])])
        if not description.has_changelog:
            gone = await self._removed_by_edits()
        await self._look_up(sorted(await self._writer.read(performers.live_versions, sorted(gone))))
        await self._settle_merges()
        self._watermark = newest

    async def _removed_by_edits(self) -> set[str]:
        since = None if self._edits_watermark is None else self._edits_watermark - self._rules.overlap
        removals = await self._connector.removals(since)
        times = [Listed("", removals.newest)]
        self._edits_watermark = self._newest(self._edits_watermark, times)
        return set(removals.source_ids)

    async def _head(self, cutoff: datetime | None) -> Sequence[Listed]:
        """The performers changed at `cutoff` or later, newest first, from one statement of the server."""
        rows = _HEAD_MARGIN
        if cutoff is not None:
            rows += await self._writer.read(performers.count_changed_since, cutoff)
        while True:
            page = await self._connector.head(rows)
            self._note_head(page)
            if _reaches(page, cutoff) or page.length >= page.count:
                return _since(page.rows, cutoff)
            if page.length < rows:
                return _since(await self._head_by_pages(page.length, cutoff), cutoff)
            rows *= _HEAD_GROWTH

    def _note_head(self, page: RecordPage[Listed]) -> None:
        self.unread.came(row.source_id for row in page.rows)
        self.unread.note(page.unread)

    async def _head_by_pages(self, size: int, cutoff: datetime | None) -> list[Listed]:
        """The same from a server that caps its pages: what moves between two of them is found by another pass.

        A pass that gives rows twice has pages without a fixed order, and loses as many; then only the list by
        name tells what changed.
        """
        found: dict[str, Listed] = {}
        for _ in range(_HEAD_PASSES):
            before = dict(found)
            rows: list[Listed] = []
            seen, number = 0, 1
            while True:
                page = await self._connector.head(size, number)
                self._note_head(page)
                rows += page.rows
                seen += page.length
                number += 1
                if not page.length or _reaches(page, cutoff) or seen >= page.count:
                    break
            ids = {row.source_id for row in rows}
            found.update({row.source_id: row for row in rows})
            if len(ids) < len(rows):
                await self._compare("ASC")
            if len(ids) < len(rows) or before == found:
                break
        return sorted(found.values(), key=lambda row: row.updated or _BEGINNING, reverse=True)

    def _newest(self, known: datetime | None, rows: Iterable[Listed]) -> datetime | None:
        """The newest time that can be true; one far ahead of our clock would hide later changes."""
        latest = self._now + self._rules.overlap
        times = [row.updated for row in rows if row.updated is not None and row.updated <= latest]
        return max([known, *times] if known is not None else times, default=None)

    # --- single performers ------------------------------------------------------------------------

    async def _look_up(self, source_ids: Sequence[str], *, again: bool = False) -> None:
        """Asks for single performers and stores or buries them; merges lead on to their survivors."""
        waiting = list(source_ids)
        while waiting:
            stale: set[str] = set()
            for batch in batched(waiting, _LOOKED_UP):
                stale |= await self._take(await self._connector.details(batch), again=again)
            waiting = sorted(stale)

    async def _take(self, details: Details, *, again: bool) -> set[str]:
        """Stores or buries what was answered. Returns survivors of merges that may be stale."""
        self.unread.note(details.unread)
        self.unread.read(details.records)
        self.unread.forget(details.absent)
        knows_target = "merged_into_id" in (await self._connector.describe()).performer_fields
        gone: dict[str, str | None] = dict.fromkeys(details.absent)
        live = []
        for record in details.records.values():
            if not record.deleted:
                live.append(record)
            elif knows_target:
                gone[record.source_id] = record.merged_into
            else:
                gone[record.source_id] = self._survivors.get(record.source_id)
        await self._store(live, again=again)
        was_live = await self._writer.read(performers.liveness, list(gone))
        # An id that does not exist at the source needs no tombstone, unless we held it.
        await self._writer.tombstone(
            {key: gone[key] for key in gone if key in details.records or key in was_live}
        )
        return {
            target
            for key, target in gone.items()
            if was_live.get(key) and target is not None and self._survivors.get(key) != target
        }

    async def _store(self, records: Sequence[PerformerRecord], *, again: bool = False) -> None:
        """Stores live records.

        A performer that is being deleted can show as live with empty lists: one that lost all is asked for again.
        """
        bare = [
            record.source_id for record in records if not (record.images or record.aliases or record.urls)
        ]
        had = {} if again else await self._writer.read(performers.held_records, bare)
        doubtful = {source_id for source_id, record in had.items() if record.image_ids}
        sure = [record for record in records if record.source_id not in doubtful]
        for record in sure:
            self._survivors.update(dict.fromkeys(record.merged_ids, record.source_id))
        await self._writer.store(sure)
        if doubtful:
            await self._look_up(sorted(doubtful), again=True)

    async def _settle_merges(self) -> None:
        """Buries what was merged into live performers; what we hold as live is asked for first."""
        losers = [key for key in self._survivors if key not in self.listed]
        if not losers:
            return
        live = await self._writer.read(performers.live_versions, losers)
        buried = await self._writer.read(performers.tombstones)
        repointed = [key for key in losers if key in buried and buried[key] != self._survivors[key]]
        await self._look_up([*live, *repointed])
        unseen = [key for key in losers if key not in live and key not in buried]
        await self._writer.tombstone({key: self._survivors[key] for key in unseen})

    async def _settle_absent(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Asks for live records that the list lacked, unless too many are missing for the first time.

        Those that we have from hearsay alone never count: the source may never have had them.
        """
        hearsay = await self._writer.read(performers.unread_records)
        await self._look_up(sorted(hearsay.difference(self.listed)))
        live, missing = await self._writer.read(performers.live_besides, self.listed)
        verdict = judge_missing(self._rules, live, missing, self._state.detail.get("missing", {}))
        await self._look_up(verdict.believed)
        outcome = Outcome.AMBIGUOUS if verdict.refused else Outcome.FOUND
        return outcome, verdict.message, dict(verdict.refused)


def _differs(row: Listed, held: performers.HeldRecord) -> bool:
    # Without a time, only reading it again tells whether it changed.
    if row.updated is None or held.updated_at != row.updated:
        return True
    return row.image_ids is not None and held.image_ids != row.image_ids


def _reaches(page: RecordPage[Listed], cutoff: datetime | None) -> bool:
    """Whether the page goes down below `cutoff`."""
    last = next((row.updated for row in reversed(page.rows) if row.updated is not None), None)
    return cutoff is not None and last is not None and last < cutoff


def _since(rows: Sequence[Listed], cutoff: datetime | None) -> list[Listed]:
    return [row for row in rows if cutoff is None or row.updated is None or row.updated >= cutoff]
