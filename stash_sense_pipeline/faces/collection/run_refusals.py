"""Counts the refusals of a run at its end, or discards them all when there are too many."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from stash_sense_pipeline.catalog.queries.faces import forget_faces
from stash_sense_pipeline.catalog.queries.image_requeueing import record_refusals
from stash_sense_pipeline.catalog.queries.sync_state import MASS_REFUSAL, load_state, save_state
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.faces.collection.image_refusals import next_look
from stash_sense_pipeline.faces.collection.run_context import RunContext
from stash_sense_pipeline.faces.collection.verdicts import ImageVerdict, is_first_request

log = logging.getLogger(__name__)

_REFUSALS_A_TRANSACTION = 500


@dataclass(frozen=True)
class _RefusedImage:
    """The part of a refused image that the end of the run needs."""

    image_id: str
    url: str
    reason: str
    refusals: int
    is_first: bool
    sha256: str | None
    picture_hash: str | None

    @classmethod
    def of(cls, verdict: ImageVerdict) -> Self:
        ledger = verdict.image.ledger
        return cls(
            image_id=ledger.image_id,
            url=ledger.url,
            reason=str(verdict.reason),
            refusals=ledger.refusals,
            is_first=is_first_request(verdict.image),
            sha256=ledger.sha256,
            picture_hash=ledger.picture_hash,
        )


class RunRefusals:
    """The refused images of a run. Its methods block; they run in the catalog thread."""

    def __init__(self, context: RunContext) -> None:
        # The numbers of a mass refusal; empty when the refusals were counted.
        self.mass_refusal: Mapping[str, int] = {}
        self._context = context
        self._refused: list[_RefusedImage] = []

    def note(self, verdicts: Sequence[ImageVerdict]) -> None:
        """Notes the refused images among committed verdicts."""
        self._refused += [_RefusedImage.of(verdict) for verdict in verdicts if verdict.refused]

    def store(self, first_asked: int, ran_through: bool) -> None:
        """Counts the refusals, and removes the faces of images with their final refusal.

        With more first refusals than the limit allows of `first_asked` images none is counted: all are requested again
        the next day, and the state of the source keeps the numbers. A run that `ran_through` without a mass refusal
        deletes the numbers of an earlier one.
        """
        source = self._context.source.name
        first = len({refused.url for refused in self._refused if refused.is_first})
        allowed = self._context.limits.refusals.allowed(first_asked)
        if first > allowed:
            self.mass_refusal = {"refused": first, "asked": first_asked, "allowed": allowed}
            log.warning(
                "%s: %d of %d images were refused, more than %d: they are asked for again",
                source,
                *self.mass_refusal.values(),
            )
        else:
            for batch in batched(self._refused, _REFUSALS_A_TRANSACTION):
                self._store_batch(batch)
        if self.mass_refusal or ran_through:
            self._store_mass_refusal()

    def _store_batch(self, batch: Sequence[_RefusedImage]) -> None:
        source, now = self._context.source.name, self._context.clock()
        rows, final = [], []
        for refused in batch:
            later = next_look(refused.refusals + 1, now)
            if later is None:
                final.append(refused.image_id)
            rows.append(
                {
                    "image_id": refused.image_id,
                    "reason": refused.reason,
                    "refusals": refused.refusals + 1,
                    "next_attempt_at": later,
                    "sha256": refused.sha256 if later is not None else None,
                    "picture_hash": refused.picture_hash if later is not None else None,
                }
            )
        with writing(self._context.engine) as connection:
            record_refusals(connection, source, rows)
            forget_faces(connection, source, final)

    def _store_mass_refusal(self) -> None:
        with writing(self._context.engine) as connection:
            state = load_state(connection, self._context.source.name)
            detail = {key: value for key, value in state.detail.items() if key != MASS_REFUSAL}
            if self.mass_refusal:
                detail[MASS_REFUSAL] = dict(self.mass_refusal)
            if detail != state.detail:
                save_state(connection, replace(state, detail=detail))
