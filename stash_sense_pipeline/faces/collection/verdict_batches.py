"""Commits verdicts in batches: ledger, faces and crops of a batch in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.faces import (
    forget_first,
    forget_second,
    store_faces,
    store_second_verdicts,
)
from stash_sense_pipeline.catalog.queries.image_requeueing import (
    record_outcomes,
    seen_by_second,
    still_listed,
)
from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooScan, lacks_scan, replace_scan
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.faces.collection.current_suppressions import CurrentSuppressions
from stash_sense_pipeline.faces.collection.run_context import RunContext
from stash_sense_pipeline.faces.collection.run_refusals import RunRefusals
from stash_sense_pipeline.faces.collection.run_state import RunCounts
from stash_sense_pipeline.faces.collection.verdicts import ImageVerdict, suppressed


@dataclass(eq=False)
class VerdictBatches:
    """Collects verdicts, and commits them when a batch is full or its time is over.

    `flushed` is called after every flush.
    """

    context: RunContext
    suppressions: CurrentSuppressions
    counts: RunCounts
    refusals: RunRefusals
    flushed: Callable[[], None]
    _batch: list[ImageVerdict] = field(default_factory=list)

    async def add(self, verdict: ImageVerdict) -> None:
        """Adds a verdict; with a full batch waits until it is committed."""
        self._batch.append(verdict)
        if len(self._batch) >= self.context.limits.batch_size:
            await self.flush()

    async def flush(self) -> None:
        """Commits the verdicts so far, and waits until they are written."""
        batch, self._batch = self._batch, []
        if batch:
            # A batch that is queued is committed even when the waiting task is cancelled.
            stored = self.context.threads.in_catalog(lambda: self._commit(batch))
            for verdict in await asyncio.shield(stored):
                self.counts.add(verdict)
        self.flushed()

    async def flush_regularly(self, ended: asyncio.Event) -> None:
        """Flushes every `batch_seconds` until `ended` is set."""
        while not ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.context.limits.batch_seconds):
                    await ended.wait()
            await self.flush()

    def _commit(self, verdicts: Sequence[ImageVerdict]) -> Sequence[ImageVerdict]:
        """Returns the verdicts as committed.

        The suppression list is read again inside the transaction, because it may have grown during the run.
        """
        source, now = self.context.source.name, self.context.clock()
        with writing(self.context.engine) as connection:
            if self.suppressions.refresh(connection):
                verdicts = [
                    suppressed(verdict.image) if self.suppressions.covers_verdict(verdict) else verdict
                    for verdict in verdicts
                ]
            listed = still_listed(connection, source, [verdict.image.image_id for verdict in verdicts])
            batch = self._without_other_looks(
                connection, [verdict for verdict in verdicts if verdict.image.image_id in listed]
            )
            self._forget(connection, batch)
            found = [(verdict.image.image_id, verdict.face) for verdict in batch if verdict.face is not None]
            store_faces(connection, source, found, now)
            self._store_second(connection, batch, now)
            self._store_scans(connection, batch, now)
            first = [verdict for verdict in batch if not verdict.kept]
            record_outcomes(
                connection, source, [self._row(verdict, now) for verdict in first if not verdict.postponed]
            )
            record_outcomes(connection, source, [_postponement(each) for each in first if each.postponed])
            record_outcomes(connection, source, [_look(verdict) for verdict in batch if verdict.kept])
        self.refusals.note(batch)
        return verdicts

    def _forget(self, connection: sa.Connection, batch: Sequence[ImageVerdict]) -> None:
        """Removes the faces from before an image was due again: those of a pack that judged it now, or of other bytes."""
        source = self.context.source.name
        lost = [each for each in batch if each.is_final]
        forget_first(connection, source, [each.image.image_id for each in lost])
        again = [
            each.image.image_id
            for each in batch
            if each.second is not None
            or (each.is_final and not each.is_seen)
            or (each.judged and each.image.ledger.sha256 not in (None, each.sha256))
        ]
        forget_second(connection, source, again)

    def _without_other_looks(
        self, connection: sa.Connection, batch: Sequence[ImageVerdict]
    ) -> Sequence[ImageVerdict]:
        """A look that was given up is none of the second pack when that one has seen the picture before."""
        second = self.context.second
        given_up = [each.image.image_id for each in batch if each.given_up]
        if not given_up:
            return batch
        seen = set(given_up)
        if second is not None:
            seen = seen_by_second(
                connection, self.context.source.name, given_up, second.pack.detector.finding_digest
            )
        return [
            replace(each, second=None) if each.given_up and each.image.image_id in seen else each
            for each in batch
        ]

    def _store_scans(self, connection: sa.Connection, batch: Sequence[ImageVerdict], now: datetime) -> None:
        """Stores the tattoos that looks have found. A look that was given up is noted as a picture without a search."""
        tattoo, source = self.context.pack.tattoo, self.context.source.name
        if tattoo is None:
            return
        for verdict in batch:
            scan, image_id = verdict.scan, verdict.image.image_id
            if verdict.given_up and lacks_scan(connection, source, image_id, tattoo.models):
                scan = TattooScan(tattoo.models.detector, None)
            if scan is not None:
                replace_scan(connection, source, image_id, scan, now)

    def _store_second(self, connection: sa.Connection, batch: Sequence[ImageVerdict], now: datetime) -> None:
        second, source = self.context.second, self.context.source.name
        judged = [(each.image.image_id, each.second) for each in batch if each.second is not None]
        if second is None or not judged:
            return
        found = [(image_id, each.face) for image_id, each in judged if each.face is not None]
        store_faces(connection, source, found, now, second=True)
        rows = [
            {
                "source": source,
                "image_id": image_id,
                "detector_digest": second.pack.detector.finding_digest,
                "state": ImageState.REJECTED if each.face is None else ImageState.DONE,
                "reason": each.reason,
                "judged_by": second.criteria.text,
                "processed_at": now,
            }
            for image_id, each in judged
        ]
        store_second_verdicts(connection, rows)

    def _row(self, verdict: ImageVerdict, now: datetime) -> dict[str, Any]:
        sha256, picture = verdict.sha256, verdict.picture_hash
        if (
            picture is None
            and verdict.next_attempt_at is not None
            and verdict.image.ledger.picture_hash is not None
        ):
            # An image with a later attempt keeps its face, and the hashes by which erasure finds that face.
            sha256, picture = verdict.image.ledger.sha256, verdict.image.ledger.picture_hash
        return {
            "image_id": verdict.image.image_id,
            "state": verdict.state,
            "reason": verdict.reason,
            "attempts": verdict.attempts,
            "next_attempt_at": verdict.next_attempt_at,
            "refusals": verdict.refusals,
            "sha256": sha256,
            "picture_hash": picture,
            "detector_digest": verdict.detector_digest,
            "judged_by": self.context.criteria.text if verdict.judged else None,
            "processed_at": now,
        }


def _look(verdict: ImageVerdict) -> dict[str, Any]:
    """The columns of an image that was requested for the second pack; all others keep their values."""
    return {
        "image_id": verdict.image.image_id,
        "attempts": verdict.attempts,
        "next_attempt_at": verdict.next_attempt_at,
        "refusals": verdict.refusals,
        "picture_hash": verdict.picture_hash or verdict.image.ledger.picture_hash,
    }


def _postponement(verdict: ImageVerdict) -> dict[str, Any]:
    """The columns of an image that was not requested; all others keep their values."""
    return {
        "image_id": verdict.image.image_id,
        "state": verdict.state,
        "reason": verdict.reason,
        "next_attempt_at": verdict.next_attempt_at,
    }
