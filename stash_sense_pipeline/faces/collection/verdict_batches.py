"""Commits verdicts in batches: ledger, faces and crops of a batch in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stash_sense_pipeline.catalog.queries.faces import forget_faces, store_faces
from stash_sense_pipeline.catalog.queries.image_requeueing import record_outcomes, still_listed
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
            batch = [verdict for verdict in verdicts if verdict.image.image_id in listed]
            # An image may have a face from before it was due again.
            forget_faces(
                connection, source, [verdict.image.image_id for verdict in batch if verdict.is_final]
            )
            found = [(verdict.image.image_id, verdict.face) for verdict in batch if verdict.face is not None]
            store_faces(connection, source, found, now)
            asked = [self._row(verdict, now) for verdict in batch if not verdict.postponed]
            record_outcomes(connection, source, asked)
            record_outcomes(connection, source, [_postponement(each) for each in batch if each.postponed])
        self.refusals.note(batch)
        return verdicts

    def _row(self, verdict: ImageVerdict, now: datetime) -> dict[str, Any]:
        sha256, picture = verdict.sha256, None
        if verdict.face is not None:
            picture = verdict.face.picture_hash
        elif verdict.next_attempt_at is not None and verdict.image.ledger.picture_hash is not None:
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


def _postponement(verdict: ImageVerdict) -> dict[str, Any]:
    """The columns of an image that was not requested; all others keep their values."""
    return {
        "image_id": verdict.image.image_id,
        "state": verdict.state,
        "reason": verdict.reason,
        "next_attempt_at": verdict.next_attempt_at,
    }
