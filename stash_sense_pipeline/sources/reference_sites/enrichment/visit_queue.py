"""A queue of profiles or names: the due ones in order, and those that are done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from stash_sense_pipeline.catalog.queries.enrichment import LastVisit
from stash_sense_pipeline.foundation.errors import Outcome

# After failures in a row, so many other items show whether the whole site fails or only the last pages.
_SAMPLES = 2


class VisitQueue:
    """Items (profile keys, or records to search for) with their hashes and their last answers.

    `due` holds the items to ask for at `now`: first those without an answer, then those that have waited longest.
    `done` holds the items that were asked for in this run.
    """

    def __init__(self, hashes: Mapping[str, str], visited: Mapping[str, LastVisit], now: datetime) -> None:
        """`hashes`: the hash of each item; `visited`: the last answer by that hash."""
        self.hashes = hashes
        self._visited = visited
        self.done: set[str] = set()
        due = [
            item for item in hashes if (last := self.last_visit(item)) is None or last.next_visit_at <= now
        ]
        self.due = sorted(due, key=self._order)

    def last_visit(self, item: str) -> LastVisit | None:
        """The last answer about an item; None when there was none."""
        return self._visited.get(self.hashes[item])

    @property
    def due_done(self) -> int:
        """How many of the due items are done."""
        return len(self.done.intersection(self.due))

    def samples(self) -> list[str]:
        """Items that show whether the site still answers: some that were found before, or else some that are due."""
        found = [
            item
            for item in self.hashes
            if item not in self.done
            and (last := self.last_visit(item)) is not None
            and last.outcome == Outcome.FOUND
        ]
        among = sorted(found) or [item for item in self.due if item not in self.done]
        step = max(1, len(among) // (_SAMPLES + 1))
        return among[step::step][:_SAMPLES] or among[:_SAMPLES]

    def _order(self, item: str) -> tuple[str, str]:
        last = self.last_visit(item)
        return (last.next_visit_at.isoformat() if last is not None else "", item)
