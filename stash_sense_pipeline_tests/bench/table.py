"""The rows of the table of benchmarks, the time of each part, and how both are printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class PartTime:
    """How long a part took, in seconds, and the processor time of it and its child processes."""

    part: str
    seconds: float
    processor: float


def time_lines(times: Sequence[PartTime]) -> Iterator[str]:
    """The lines of the table of times, with the sum in the last one."""
    yield f"{'part':<28} {'seconds':>8} {'processor':>10}"
    total = PartTime("all", sum(each.seconds for each in times), sum(each.processor for each in times))
    for each in (*times, total):
        yield f"{each.part:<28} {each.seconds:>8.0f} {each.processor:>10.0f}"
