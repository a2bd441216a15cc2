"""A row of the table of benchmarks, and how the table is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measurement with the bound it must keep: `value` is at most or at least `bound`, both in `unit`."""

    name: str
    value: float
    unit: str
    bound: float
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Is the value on the right side of its bound?"""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """The table, a line at a time, each as soon as its row is measured."""
    yield f"{'benchmark':<58} {'measured':>12} {'bound':>12}"
    for row in rows:
        sign = ">=" if row.at_least else "<="
        verdict = "" if row.kept else "  MISSED"
        yield f"{row.name:<58} {row.value:>8.2f} {row.unit:<3} {sign} {row.bound:>6.2f} {row.unit:<3}{verdict}"
