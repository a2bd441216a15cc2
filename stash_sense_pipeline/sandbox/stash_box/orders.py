"""The sort orders of performers, with the ties that they leave open."""

from __future__ import annotations

import itertools
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stash_sense_pipeline.sandbox.stash_box.rows import PerformerRow, Ties


@dataclass(frozen=True)
class PageQuery:
    """One page of performers: `sort` is a PerformerSortEnum value; `matches` None lets all rows through."""

    sort: str
    descending: bool
    limit: int
    offset: int
    matches: Callable[[PerformerRow], bool] | None = None


class PerformerOrders:
    """The performers by id, and sorted lists of the live ones in the orders that queries read often.

    Callers hold the lock of the box.
    """

    def __init__(self) -> None:
        self.rows: dict[str, PerformerRow] = {}
        # Counts up with every write of a row, like the tuple ids of PostgreSQL.
        self._tuple_ids: dict[str, int] = {}
        self._tuple_counter = itertools.count()
        self._names: list[tuple[str, str, int, str]] = []
        self._updated: list[tuple[int, str]] = []
        self._created: list[tuple[int, str]] = []

    @property
    def live(self) -> int:
        """How many live performers there are."""
        return len(self._names)

    def put(self, row: PerformerRow) -> None:
        """Adds a performer, or replaces it."""
        if row.id in self.rows:
            self._unindex(self.rows[row.id])
        self._write(row)
        if not row.deleted:
            insort(self._names, self._name_key(row))
            insort(self._updated, (row.updated, row.id))
            insort(self._created, (row.created, row.id))

    def remove(self, row: PerformerRow) -> None:
        """Removes a performer."""
        self._unindex(row)
        del self.rows[row.id], self._tuple_ids[row.id]

    def load(self, rows: Collection[PerformerRow]) -> None:
        """Adds or replaces many performers, and sorts once."""
        for row in rows:
            self._write(row)
        live = [row for row in self.rows.values() if not row.deleted]
        self._names = sorted(self._name_key(row) for row in live)
        self._updated = sorted((row.updated, row.id) for row in live)
        self._created = sorted((row.created, row.id) for row in live)

    def page(self, query: PageQuery, ties: Ties, salt: str, request: int) -> list[PerformerRow]:
        """Live performers of one page. `salt` names the state of the box; it decides the order of ties."""
        ordered, tie_width = self._ordered(query.sort, query.matches)
        total = len(ordered)
        start, stop = min(query.offset, total), min(query.offset + query.limit, total)
        if tie_width is None or ties is Ties.STABLE:
            keys = ordered[total - stop : total - start][::-1] if query.descending else ordered[start:stop]
        else:
            if ties is Ties.REQUEST:
                salt = f"{salt} {request}"
            keys = _shuffled_slice(ordered, start, stop, query.descending, zlib.crc32(salt.encode()))
        return [self.rows[key[-1]] for key in keys]

    def _ordered(
        self, sort: str, matches: Callable[[PerformerRow], bool] | None
    ) -> tuple[Sequence[tuple[Any, ...]], int | None]:
        """Sort keys that end in an id, ascending, and how many leading values rows may tie on (None: no ties)."""
        indexed: Mapping[str, tuple[Sequence[tuple[Any, ...]], int | None]] = {
            "NAME": (self._names, None),
            "UPDATED_AT": (self._updated, 1),
            "CREATED_AT": (self._created, 1),
        }
        if sort in indexed:
            keys, ties = indexed[sort]
            if matches is not None:
                keys = [key for key in keys if matches(self.rows[key[-1]])]
            return keys, ties
        key_of, ties = _SORTS[sort]
        rows = (row for row in self.rows.values() if not row.deleted and (not matches or matches(row)))
        return sorted((*key_of(row), row.id) for row in rows), ties

    def _write(self, row: PerformerRow) -> None:
        self.rows[row.id] = row
        self._tuple_ids[row.id] = next(self._tuple_counter)

    def _name_key(self, row: PerformerRow) -> tuple[str, str, int, str]:
        # A missing disambiguation sorts last, like NULL. Rows that tie on both come in the order of their last write.
        blank = "\U0010ffff" if row.disambiguation is None else row.disambiguation
        return (row.name, blank, self._tuple_ids[row.id], row.id)

    def _unindex(self, row: PerformerRow) -> None:
        if not row.deleted:
            _discard(self._names, self._name_key(row))
            _discard(self._updated, (row.updated, row.id))
            _discard(self._created, (row.created, row.id))


def _discard(ordered: list[Any], key: tuple[Any, ...]) -> None:
    position = bisect_left(ordered, key)
    if position == len(ordered) or ordered[position] != key:
        raise AssertionError(f"the index has no {key}")
    del ordered[position]


def _shuffled_slice(
    ordered: Sequence[tuple[Any, ...]], start: int, stop: int, descending: bool, salt: int
) -> list[tuple[Any, ...]]:
    """Positions start..stop of an order on the first value alone. `salt` decides the order of equal values."""
    total = len(ordered)
    answer: list[tuple[Any, ...]] = []
    position = start
    while position < stop:
        key = ordered[total - 1 - position] if descending else ordered[position]
        value = key[0]
        low = bisect_left(ordered, value, key=_first)
        high = bisect_right(ordered, value, key=_first)
        if high - low == 1:
            answer.append(key)
            position += 1
            continue
        begin, end = (total - high, total - low) if descending else (low, high)
        mixed = np.random.default_rng([salt, begin]).permutation(high - low)
        last = min(end, stop)
        answer.extend(ordered[low + int(k)] for k in mixed[position - begin : last - begin])
        position = last
    return answer


def _first(key: tuple[Any, ...]) -> Any:
    return key[0]


def _nullable(value: Any) -> tuple[bool, Any]:
    """A sort key that puts None last, like NULL in ascending order."""
    return (value is None, value if value is not None else 0)


_SORTS: Mapping[str, tuple[Callable[[PerformerRow], tuple[Any, ...]], int | None]] = {
    "BIRTHDATE": (lambda row: (_nullable(row.birth_date),), 1),
    "DEATHDATE": (lambda row: (_nullable(row.death_date),), 1),
    "CAREER_START_YEAR": (lambda row: (_nullable(row.career_start_year),), 1),
    "SCENE_COUNT": (lambda row: (row.scene_count, row.name), None),
    "POPULARITY": (lambda row: (row.scene_count, row.name), None),
    "DEBUT": (lambda row: (_nullable(row.career_start_year), row.name), None),
    "LAST_SCENE": (lambda row: (_nullable(row.career_end_year), row.name), None),
}
