"""How often each field was found on the pages of a site, and the drift of these shares between runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import sqrt
from typing import Any, Final

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.sync_state import load_states
from stash_sense_pipeline.catalog.transactions import reading

# Key of SyncState.detail for the history of a source.
FIELDS: Final = "fields"
# A share of fewer pages says little: they are counted together with those of the next runs.
ENOUGH_PAGES: Final = 20
# A share has fallen when it is at most half of the usual one, and the difference is this many standard errors of a
# difference between two shares (two-proportion z-test). 90 % of 20 pages to none of 20 is 5.7; chance reaches 5 once in
# three million comparisons.
_STANDARD_ERRORS: Final = 5.0
# A site may drop a field for good. After this time its absence is the usual state.
_ACCEPTED_AFTER: Final = timedelta(days=30)


class FieldCounts:
    """The pages of each type that were read, and how many of them had each field.

    A field that was never found is counted too, so that it is known with 0 pages.
    """

    def __init__(self) -> None:
        self._pages: Counter[str] = Counter()
        self._found: dict[str, Counter[str]] = {}

    def note(self, page_type: str, fields: Mapping[str, bool]) -> None:
        """Counts a page and the fields that it has."""
        self._pages[page_type] += 1
        found = self._found.setdefault(page_type, Counter())
        for name, is_there in fields.items():
            found[name] += is_there

    def of_types(self) -> dict[str, PageCounts]:
        """The counts by page type."""
        return {
            kind: PageCounts(pages, dict(self._found[kind])) for kind, pages in sorted(self._pages.items())
        }


@dataclass(frozen=True)
class PageCounts:
    """How many pages of one type were read, and how many of them had each field."""

    pages: int
    found: Mapping[str, int]

    def __add__(self, other: PageCounts) -> PageCounts:
        found = Counter(dict(self.found))
        found.update(other.found)
        return PageCounts(self.pages + other.pages, dict(found))


@dataclass(frozen=True)
class FieldDrift:
    """A field that was found far less often than usual. `was_found` of `was_pages` is the usual share."""

    page_type: str
    field: str
    was_found: int
    was_pages: int
    found: int
    pages: int

    def __str__(self) -> str:
        return (
            f"{self.field} of {self.page_type} pages: on {self.found} of {self.pages},"
            f" usually on {self.was_found} of {self.was_pages}"
        )


@dataclass(frozen=True)
class FieldHistory:
    """The counts of earlier runs of one source.

    `usual`: the last reading of each page type that showed no drift. `recent`: pages since the last reading, too few for
    one. `drifts` of the last reading, since the time of `drifting_since`, by page type.
    """

    usual: Mapping[str, PageCounts] = field(default_factory=dict)
    recent: Mapping[str, PageCounts] = field(default_factory=dict)
    drifts: Sequence[FieldDrift] = ()
    drifting_since: Mapping[str, datetime] = field(default_factory=dict)

    def after(self, counts: Mapping[str, PageCounts], now: datetime) -> FieldHistory:
        """The history after a run. A page type with enough pages gets a new reading: its drifts, or a new usual share."""
        usual, recent, since = dict(self.usual), dict(self.recent), dict(self.drifting_since)
        drifts = list(self.drifts)
        for kind, counted in counts.items():
            read = recent.pop(kind, _NO_PAGES) + counted
            if read.pages < ENOUGH_PAGES:
                recent[kind] = read
                continue
            drifts = [drift for drift in drifts if drift.page_type != kind]
            fallen = _fallen(kind, usual[kind], read) if kind in usual else []
            began = since.pop(kind, now)
            if fallen and now - began < _ACCEPTED_AFTER:
                drifts += fallen
                since[kind] = began
            else:
                usual[kind] = read
        return FieldHistory(usual, recent, tuple(drifts), since)

    def detail(self) -> dict[str, Any]:
        """The history as JSON values."""
        return {
            "usual": {kind: vars(counts) for kind, counts in self.usual.items()},
            "recent": {kind: vars(counts) for kind, counts in self.recent.items()},
            "drifts": [vars(drift) for drift in self.drifts],
            "drifting_since": {kind: at.isoformat() for kind, at in self.drifting_since.items()},
        }

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any] | None) -> FieldHistory:
        """The history that `detail` gave; an empty one for None."""
        if detail is None:
            return cls()
        return cls(
            {kind: PageCounts(**counts) for kind, counts in detail["usual"].items()},
            {kind: PageCounts(**counts) for kind, counts in detail["recent"].items()},
            tuple(FieldDrift(**drift) for drift in detail["drifts"]),
            {kind: datetime.fromisoformat(at) for kind, at in detail["drifting_since"].items()},
        )


def stored_drifts(engine: sa.Engine, sources: Collection[str]) -> dict[str, Sequence[FieldDrift]]:
    """The drifts of the last reading of each of `sources` that has any."""
    with reading(engine) as connection:
        states = load_states(connection)
    drifts = {
        source: FieldHistory.from_detail(state.detail.get(FIELDS)).drifts
        for source, state in states.items()
        if source in sources
    }
    return {source: found for source, found in sorted(drifts.items()) if found}


_NO_PAGES = PageCounts(0, {})


def _fallen(kind: str, usual: PageCounts, now: PageCounts) -> list[FieldDrift]:
    return [
        FieldDrift(kind, name, was, usual.pages, now.found.get(name, 0), now.pages)
        for name, was in sorted(usual.found.items())
        if _has_fallen(was, usual.pages, now.found.get(name, 0), now.pages)
    ]


def _has_fallen(was_found: int, was_pages: int, found: int, pages: int) -> bool:
    was, share = was_found / was_pages, found / pages
    pooled = (was_found + found) / (was_pages + pages)
    error = sqrt(pooled * (1 - pooled) * (1 / was_pages + 1 / pages))
    return share <= was / 2 and error > 0 and (was - share) / error >= _STANDARD_ERRORS
