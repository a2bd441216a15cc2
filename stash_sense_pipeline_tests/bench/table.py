"""A row of the table of benchmarks, and how the table is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measurement. With a `bound`, `value` must be at most `bound` (with `at_least`: at least), in `unit`."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """True when the value keeps its bound."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the table, each as soon as its row is measured."""
    yield f"{'benchmark':<58} {'measured':>8} {'bound':>16}"
    for row in rows:
        sign = ">=" if row.at_least else "<="
        verdict = "" if row.kept else "  MISSED"
        bound = "" if row.bound is None else f"{sign} {row.bound:>6.2f} {row.unit:<3}"
        yield f"{row.name:<58} {row.value:>8.2f} {row.unit:<6} {bound}{verdict}".rstrip()
