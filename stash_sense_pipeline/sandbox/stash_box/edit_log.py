"""The closed edits of a stash-box, and those that wait to be closed."""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stash_sense_pipeline.sandbox.invented.clock import Clock
from stash_sense_pipeline.sandbox.stash_box.rows import Edit

_SHOWN_DETAILS = ("name", "disambiguation", "gender", "country")
_HOUR = 3_600_000_000  # microseconds


class EditLog:
    """Edits by id, in the order (closed, id). Callers hold the lock of the box."""

    def __init__(self, clock: Clock, rng: random.Random, new_id: Callable[[], str]) -> None:
        self.edits: dict[str, Edit] = {}
        self._clock = clock
        self._random = rng
        self._new_id = new_id
        self._order: list[tuple[int, str]] = []
        self._held: list[Edit] = []
        self._is_holding = False

    def record(
        self, operation: str, target: str, sources: tuple[str, ...], details: Mapping[str, Any], stamp: int
    ) -> None:
        """Adds an applied edit. `stamp` is the moment that its transaction began."""
        status = "ACCEPTED" if self._random.random() < 0.5 else "IMMEDIATE_ACCEPTED"
        # The application closes the edit by its own clock, after the transaction that the stamp is of.
        closed = self._clock.now()
        edit = Edit(
            id=self._new_id(),
            operation=operation,
            status=status,
            target=target,
            merge_sources=sources,
            details={key: details.get(key) for key in _SHOWN_DETAILS},
            created=min(stamp, closed) - _HOUR,
            updated=closed,
            closed=closed,
            bot=self._random.random() < 0.2,
        )
        if self._is_holding:
            self._held.append(edit)
        else:
            self._close(edit)

    def hold(self) -> None:
        """Keeps new edits open until `close_held`, although their changes are applied."""
        self._is_holding = True

    def close_held(self) -> None:
        """Closes the edits that were kept open, at the present moment of the clock."""
        self._is_holding = False
        held, self._held = self._held, []
        for edit in held:
            closed = self._clock.stamp()
            self._close(replace(edit, closed=closed, updated=closed))

    def delete(self, edit_id: str) -> bool:
        """Removes a closed edit; its change stays. Returns whether it was there."""
        edit = self.edits.pop(edit_id, None)
        if edit is not None:
            self._order.remove(edit.order)
        return edit is not None

    def page(
        self, *, descending: bool, limit: int, offset: int, matches: Callable[[Edit], bool]
    ) -> tuple[int, list[Edit]]:
        """How many closed edits match, and those of one page."""
        keys = reversed(self._order) if descending else iter(self._order)
        found = [edit for key in keys if matches(edit := self.edits[key[1]])]
        return len(found), found[offset : offset + limit]

    def _close(self, edit: Edit) -> None:
        self.edits[edit.id] = edit
        insort(self._order, edit.order)
