"""Reads the performers of a stash-box into the catalog: whole lists, and single performers by id."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter, WriteBehindBuffer
from stash_sense_pipeline.sources.http.ordered_prefetch import ordered_prefetch
from stash_sense_pipeline.sources.stash_boxes.stash_box_connector import StashBoxConnector
from stash_sense_pipeline.sources.stash_boxes.stash_box_queries import Direction
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import Details, Listed, RecordPage
from stash_sense_pipeline.sources.unread import UnreadNotes

# Ids looked up between two transactions.
_LOOKED_UP = 100
_UNSEEN = object()
_Held = Mapping[str, performers.HeldRecord]


class RecordLookup:
    """Requests performers by id and stores them, or writes their tombstones.

    `survivors` maps merged ids that live records name to the id of that record.
    """

    def __init__(self, connector: StashBoxConnector, writer: CatalogWriter, unread: UnreadNotes) -> None:
        self.survivors: dict[str, str] = {}
        self._connector = connector
        self._writer = writer
        self._unread = unread

    async def look_up(self, source_ids: Sequence[str], *, again: bool = False) -> None:
        """Requests performers by id and stores the result; the survivors of merges are requested too.

        With `again` a performer that lost all of its lists is stored without another request.
        """
        waiting = list(source_ids)
        while waiting:
            stale: set[str] = set()
            for batch in batched(waiting, _LOOKED_UP):
                stale |= await self._store_details(await self._connector.details(batch), again=again)
            waiting = sorted(stale)

    async def _store_details(self, details: Details, *, again: bool) -> set[str]:
        """Stores records and tombstones. Returns survivors of merges that may be stored in an old version."""
        self._unread.note(details.unread)
        self._unread.read(details.records)
        self._unread.forget(details.absent)
        knows_target = "merged_into_id" in (await self._connector.describe()).performer_fields
        gone: dict[str, str | None] = dict.fromkeys(details.absent)
        live = []
        for record in details.records.values():
            if not record.deleted:
                live.append(record)
            elif knows_target:
                gone[record.source_id] = record.merged_into
            else:
                gone[record.source_id] = self.survivors.get(record.source_id)
        await self.store(live, again=again)
        was_live = await self._writer.read(performers.liveness, list(gone))
        # An id that does not exist at the source needs a tombstone only when the catalog has its record.
        await self._writer.tombstone(
            {key: gone[key] for key in gone if key in details.records or key in was_live}
        )
        return {
            target
            for key, target in gone.items()
            if was_live.get(key) and target is not None and self.survivors.get(key) != target
        }

    async def store(self, records: Sequence[PerformerRecord], *, again: bool = False) -> None:
        """Stores live records.

        The server can return a performer that is being deleted as live, with empty lists. So a performer that lost all
        of its images, aliases and URLs is requested again.
        """
        bare = [
            record.source_id for record in records if not (record.images or record.aliases or record.urls)
        ]
        had = {} if again else await self._writer.read(performers.held_records, bare)
        doubtful = {source_id for source_id, record in had.items() if record.image_ids}
        sure = [record for record in records if record.source_id not in doubtful]
        for record in sure:
            self.survivors.update(dict.fromkeys(record.merged_ids, record.source_id))
        await self._writer.store(sure)
        if doubtful:
            await self.look_up(sorted(doubtful), again=True)


class Enumeration:
    """Reads the whole list of a stash-box. `listed` has the last change of each performer that any pass showed."""

    def __init__(
        self, connector: StashBoxConnector, writer: CatalogWriter, unread: UnreadNotes, lookup: RecordLookup
    ) -> None:
        self.listed: dict[str, datetime | None] = {}
        self._connector = connector
        self._writer = writer
        self._rules = writer.context.rules
        self._progress = writer.context.progress
        self._unread = unread
        self._lookup = lookup
        # The number of performers that the server reports.
        self._count = 0
        # Rows without a valid id, in the pass that had the most of them.
        self._without_id = self._without_id_in_pass = 0
        self._passes = 0

    @property
    def seen(self) -> int:
        """The number of performers that were listed, those without a valid id included."""
        return len(self.listed) + self._without_id

    async def read_all(self) -> None:
        """Reads all records in one direction, lists them in the other, and reads the records that only the list shows."""
        async with WriteBehindBuffer(self._lookup.store) as storing:
            async with self._one_pass(), aclosing(self._connector.records("ASC")) as pages:
                async for page in pages:
                    await storing.put(page.rows)
                    self._unread.read(record.source_id for record in page.rows)
                    self.listed.update((record.source_id, record.updated_at) for record in page.rows)
                    self._note(page)
            await storing.flush()
            wanted = await self._list_different("DESC")
        await self._lookup.look_up(await self._read_dense_pages("DESC", wanted))

    async def compare(self, direction: Direction) -> None:
        """Lists all performers, and reads those that differ from the catalog, or from an earlier list of this run."""
        wanted = await self._list_different(direction)
        await self._lookup.look_up(await self._read_dense_pages(direction, wanted))

    async def _list_different(self, direction: Direction) -> dict[str, int]:
        """The ids of all listed performers that must be read, each with its position in the list."""
        if self.listed:
            return await self._list(direction, None)
        # One catalog query for the whole list is cheaper than one a page, and runs while the server lists. The server is
        # described first: the query would delay the answer to that.
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
                    await self._add_wanted(waiting, held, positions, wanted)
                    waiting = []
        await self._add_wanted(waiting, held, positions, wanted)
        return wanted

    async def _add_wanted(
        self,
        pages: Iterable[RecordPage[Listed]],
        held: asyncio.Task[_Held] | None,
        positions: Iterator[int],
        wanted: dict[str, int],
    ) -> None:
        """Records the rows of pages as listed, and adds to `wanted` the performers that must be read."""
        for page in pages:
            news = [row for row in page.rows if self.listed.get(row.source_id, _UNSEEN) != row.updated]
            different = await self._different(news, await held if held is not None else None)
            for row, position in zip(page.rows, positions, strict=False):
                self.listed[row.source_id] = row.updated
                self._lookup.survivors.update(dict.fromkeys(row.merged_ids, row.source_id))
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
        # Rows without an id are noted in the first pass only: other passes request other fields, so the digest differs.
        self._unread.note([*named, *(nameless if self._passes == 1 else ())])
        self._progress("records", len(self.listed), page.count)

    @asynccontextmanager
    async def _one_pass(self) -> AsyncIterator[None]:
        """One pass over the whole list."""
        self._passes += 1
        self._without_id_in_pass = 0
        yield
        self._without_id = max(self._without_id, self._without_id_in_pass)

    async def _different(self, rows: Sequence[Listed], held: _Held | None) -> set[str]:
        """The ids of rows that differ from the catalog. `held` are the records of the catalog, if already read."""
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
        """Reads whole pages where that takes fewer requests than look-ups by id. Returns the remaining ids."""
        size = self._connector.records_a_page
        in_page: dict[int, int] = defaultdict(int)
        for position in wanted.values():
            in_page[position // size] += 1
        numbers = [page + 1 for page, count in in_page.items() if count > self._connector.details_a_request]
        left = set(wanted)
        questions = [partial(self._connector.records_page, direction, size, number) for number in numbers]
        async with (
            WriteBehindBuffer(self._lookup.store) as storing,
            aclosing(ordered_prefetch(questions)) as pages,
        ):
            async for page in pages:
                rows = [record for record in page.rows if record.source_id in left]
                await storing.put(rows)
                self._unread.read(record.source_id for record in rows)
                unread = [each for each in page.unread if each.source_id in left]
                self._unread.note(unread)
                left -= {record.source_id for record in rows}
                left -= {each.label for each in unread}
        return [source_id for source_id in wanted if source_id in left]

    async def complete(self, directions: Iterable[Direction]) -> None:
        """Repeats the list until as many distinct performers were seen as the server counts.

        Raises SourceError (parse_error) when too many are missing after that.
        """
        for direction in directions:
            if self.seen >= self._count:
                return
            await self.compare(direction)
        short = self._count - self.seen
        if short > self._rules.allowed_short(self._count):
            raise SourceError(
                self._writer.source,
                Outcome.PARSE_ERROR,
                f"the server counts {self._count} performers but lists only {len(self.listed)}",
            )


def _differs(row: Listed, held: performers.HeldRecord) -> bool:
    # A record without a time of change must be read to find out whether it changed.
    if row.updated is None or held.updated_at != row.updated:
        return True
    return row.image_ids is not None and held.image_ids != row.image_ids
