"""Sync of a stash-box: backfill by name, increments by time of change, full sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.sync_state import SyncState
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.stash_boxes.stash_box_connector import StashBoxConnector
from stash_sense_pipeline.sources.stash_boxes.stash_box_reading import Enumeration, RecordLookup
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import Listed, RecordPage
from stash_sense_pipeline.sources.sync_rules import judge_missing
from stash_sense_pipeline.sources.unread import UnreadNotes

# The newest rows are read as one request, the head: the rows expected in the window and this margin. When the head is
# too short, the next one is longer by the factor.
_HEAD_MARGIN = 200
_HEAD_GROWTH = 4
_HEAD_PASSES = 5
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class StashBoxSync:
    """One sync of a stash-box. Records are stored as they arrive; the state changes only when a run is complete."""

    def __init__(self, connector: StashBoxConnector, writer: CatalogWriter, state: SyncState) -> None:
        self._connector = connector
        self._writer = writer
        self._state = state
        self._rules = writer.context.rules
        self._now = writer.context.clock.now()
        self.unread = UnreadNotes(writer.source, state.detail.get("unread"))
        self._lookup = RecordLookup(connector, writer, self.unread)
        self._enumeration = Enumeration(connector, writer, self.unread, self._lookup)
        self._watermark = state.updated_watermark
        self._edits_watermark = state.edits_watermark
        self._version = state.server_version

    @property
    def listed(self) -> Mapping[str, datetime | None]:
        """The last change of each performer that a list showed."""
        return self._enumeration.listed

    async def backfill(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Reads all performers. After an interrupted run, only performers that differ from the catalog are read.

        Returns the outcome, a message, and the changed fields of the state.
        """
        head = await self._connector.head(1)
        self._watermark = self._edits_watermark = self._newest(self._watermark, head.rows)
        if await self._writer.read(performers.has_read_records):
            await self._enumeration.compare("ASC")
            await self._enumeration.compare("DESC")
        else:
            await self._enumeration.read_all()
        await self._enumeration.complete(("ASC", "DESC"))
        return await self._finish_sweep(backfilled_at=self._now)

    async def increment(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Reads the performers that changed since the watermark."""
        await self._catch_up()
        self.unread.note(self._writer.unread)
        self.unread.check()
        return Outcome.FOUND, None, self._changes(missing={})

    async def sweep(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Compares all performers: finds hard deletions, and changes that leave the time of change as it was."""
        await self._enumeration.compare("ASC")
        await self._enumeration.complete(("DESC",))
        return await self._finish_sweep()

    async def _finish_sweep(self, **changes: Any) -> tuple[Outcome, str | None, dict[str, Any]]:
        # Unread records that the list shows are requested once more.
        await self._lookup.look_up(sorted(self.unread.source_ids & self.listed.keys()))
        self.unread.check(self._enumeration.seen)
        await self._catch_up()
        tombstones = await self._writer.read(performers.tombstones)
        if "merged_into_id" in (await self._connector.describe()).performer_fields:
            moved = [
                key
                for key, target in tombstones.items()
                if target is not None and key not in self.listed and self._lookup.survivors.get(key) != target
            ]
            await self._lookup.look_up(moved)
        outcome, message, missing = await self._settle_absent()
        self.unread.note(self._writer.unread)
        self.unread.keep_only(self.listed.keys())
        self.unread.check(self._enumeration.seen)
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

    async def _catch_up(self) -> None:
        """Reads the performers that changed since the watermark, oldest first, then merges and deletions."""
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
        await self._lookup.look_up([*dict.fromkeys([*again, *self._writer.without_suppressed(changed)])])
        if not description.has_changelog:
            gone = await self._removed_by_edits()
        await self._lookup.look_up(sorted(await self._writer.read(performers.live_versions, sorted(gone))))
        await self._settle_merges()
        self._watermark = newest

    async def _removed_by_edits(self) -> set[str]:
        since = None if self._edits_watermark is None else self._edits_watermark - self._rules.overlap
        removals = await self._connector.removals(since)
        times = [Listed("", removals.newest)]
        self._edits_watermark = self._newest(self._edits_watermark, times)
        return set(removals.source_ids)

    async def _head(self, cutoff: datetime | None) -> Sequence[Listed]:
        """The performers changed at `cutoff` or later, newest first, read by the server in one statement."""
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
        """As `_head`, for a server that limits its pages: passes are repeated to find rows that moved between pages.

        A pass with repeated rows has pages without a fixed order, so it misses other rows. Then the whole list by name
        is compared.
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
                await self._enumeration.compare("ASC")
            if len(ids) < len(rows) or before == found:
                break
        return sorted(found.values(), key=lambda row: row.updated or _BEGINNING, reverse=True)

    def _newest(self, known: datetime | None, rows: Iterable[Listed]) -> datetime | None:
        """The newest plausible time. A time far ahead of the local clock is ignored: it would hide later changes."""
        latest = self._now + self._rules.overlap
        times = [row.updated for row in rows if row.updated is not None and row.updated <= latest]
        return max([known, *times] if known is not None else times, default=None)

    async def _settle_merges(self) -> None:
        """Writes tombstones for merged ids that live performers name; requests those that are live in the catalog."""
        losers = [key for key in self._lookup.survivors if key not in self.listed]
        if not losers:
            return
        live = await self._writer.read(performers.live_versions, losers)
        tombstones = await self._writer.read(performers.tombstones)
        repointed = [
            key for key in losers if key in tombstones and tombstones[key] != self._lookup.survivors[key]
        ]
        await self._lookup.look_up([*live, *repointed])
        unseen = [key for key in losers if key not in live and key not in tombstones]
        await self._writer.tombstone({key: self._lookup.survivors[key] for key in unseen})

    async def _settle_absent(self) -> tuple[Outcome, str | None, dict[str, Any]]:
        """Requests live records that the list lacked, unless too many are missing for the first time.

        Unverified imports never count as missing: the source may never have had them.
        """
        unverified = await self._writer.read(performers.unread_records)
        await self._lookup.look_up(sorted(unverified.difference(self.listed)))
        live, missing = await self._writer.read(performers.live_besides, self.listed)
        verdict = judge_missing(self._rules, live, missing, self._state.detail.get("missing", {}))
        await self._lookup.look_up(verdict.believed)
        outcome = Outcome.AMBIGUOUS if verdict.refused else Outcome.FOUND
        return outcome, verdict.message, dict(verdict.refused)


def _reaches(page: RecordPage[Listed], cutoff: datetime | None) -> bool:
    """True when the page has a row from before `cutoff`."""
    last = next((row.updated for row in reversed(page.rows) if row.updated is not None), None)
    return cutoff is not None and last is not None and last < cutoff


def _since(rows: Sequence[Listed], cutoff: datetime | None) -> list[Listed]:
    return [row for row in rows if cutoff is None or row.updated is None or row.updated >= cutoff]
