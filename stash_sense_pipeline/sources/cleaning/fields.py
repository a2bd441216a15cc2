"""The optional fields of one record: values that cannot be used are left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from stash_sense_pipeline.sources.cleaning.dates import instant, means_no_date
from stash_sense_pipeline.sources.cleaning.text import MAX_ITEMS, T, clean_text, distinct, is_blank


class Fields:
    """Reads the optional fields of one record. Unusable values are left out, and counted by field in `left_out`.

    A null or blank value of a field means unknown and is not counted; among the items of a list it is counted. A list
    may arrive as an object: PHP encodes a list with gaps that way.
    """

    __slots__ = ("_left_out", "_lost", "_row")

    def __init__(self, row: Mapping[str, Any], left_out: Counter[str]) -> None:
        self._row = row
        self._left_out = left_out
        self._lost: set[str] | None = None

    def has_lost(self, name: str) -> bool:
        """True when values of this field were left out: what the record lacks may still exist at the source."""
        return self._lost is not None and name in self._lost

    def one(self, name: str, clean: Callable[[Any], T | None]) -> T | None:
        """The value of a field, cleaned by `clean`; None when it is unknown or unusable."""
        value = self._row.get(name)
        if value is None:
            return None
        found = clean(value)
        if found is None and not is_blank(value):
            self._lose(name, 1)
        return found

    def number(self, name: str, clean: Callable[[Any], int | None]) -> int | None:
        """As `one`, for a number. 0 and negative numbers mean unknown."""
        value = self._row.get(name)
        if value is None or (isinstance(value, int) and value <= 0):
            return None
        return self.one(name, clean)

    def date(self, name: str, clean: Callable[[Any], str | None]) -> str | None:
        """As `one`, for birth_date and death_date: a value that stands for an unknown date is not counted."""
        value = self._row.get(name)
        if value is None:
            return None
        found = clean(value)
        if (
            found is None
            and not is_blank(value)
            and not (isinstance(value, str) and means_no_date(clean_text(value)))
        ):
            self._lose(name, 1)
        return found

    def moment(self, name: str) -> datetime | None:
        """The time of a field; None when it is unknown or unreadable."""
        value: Any = self._row.get(name)
        if value is None or value == "":
            return None
        try:
            return instant(value)
        except (TypeError, ValueError):
            self._lose(name, 1)
            return None

    def items(self, name: str) -> Sequence[Any]:
        """The items of a list, at most MAX_ITEMS; empty for another type."""
        value = self._row.get(name)
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, list):
            if not is_blank(value):
                self._lose(name, 1)
            return ()
        if len(value) > MAX_ITEMS:
            self._lose(name, len(value) - MAX_ITEMS)
        return value[:MAX_ITEMS]

    def each(self, name: str, clean: Callable[[Any], T | None]) -> tuple[T, ...]:
        """The distinct items of a list, cleaned by `clean`; unusable items are left out."""
        items = self.items(name)
        if not items:
            return ()
        cleaned = [clean(item) for item in items]
        if None in cleaned:
            self._lose(name, cleaned.count(None))
        return distinct(cleaned)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The items of a list that are objects; others are left out."""
        items = self.items(name)
        found = [item for item in items if isinstance(item, dict)]
        if len(found) < len(items):
            self._lose(name, len(items) - len(found))
        return found

    def lose(self, name: str, count: int = 1) -> None:
        """Counts values of a field that the caller left out."""
        self._lose(name, count)

    def _lose(self, name: str, count: int) -> None:
        self._left_out[name] += count
        self._lost = {name} if self._lost is None else self._lost | {name}
