"""Progress reporting: the callback type, rates and times left, log lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from logging import Logger
from typing import Protocol

_SECONDS_BETWEEN_LINES = 60.0


class Progress(Protocol):
    """Receives a stage, its items done, its items in all (None when unknown), and counts such as faces=12."""

    def __call__(self, stage: str, done: int, total: int | None, /, **counts: int) -> None:
        """Reports that `done` items of the stage are done."""
        ...


class Rate:
    """The rate of a stage since it was first seen. Items done before do not count."""

    def __init__(self, done: int) -> None:
        self._first = done
        self._started = time.monotonic()

    def per_second(self, done: int) -> float:
        """Items a second; 0 at the beginning."""
        seconds = time.monotonic() - self._started
        return (done - self._first) / seconds if seconds > 0 else 0.0


def remaining_text(done: int, total: int | None, per_second: float) -> str:
    """The time left at this rate, as `2 h 44 min`; empty when it is unknown."""
    if total is None or per_second <= 0 or done >= total:
        return ""
    return duration_text((total - done) / per_second)


def duration_text(seconds: float) -> str:
    """A duration for people: `42 s`, `7 min`, `2 h 44 min`, `3 days 4 h`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"


def progress_text(stage: str, done: int, total: int | None, counts: Mapping[str, int], rate: float) -> str:
    """One line: `images 1,200 of 40,000, 3.9/s, 2 h 44 min left, 800 faces, 3 failed`. `rate`: items a second."""
    parts = [f"{stage} {done:,}" + (f" of {total:,}" if total is not None else "")]
    if rate > 0:
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
    left = remaining_text(done, total, rate)
    if left:
        parts.append(f"{left} left")
    parts += [f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()]
    return ", ".join(parts)


def log_progress(log: Logger, subject: str) -> Progress:
    """Logs a line for each stage at its first and last item, and once a minute between them."""
    last: dict[str, float] = {}
    rates: dict[str, Rate] = {}

    def report(stage: str, done: int, total: int | None, /, **counts: int) -> None:
        now = time.monotonic()
        rate = rates.setdefault(stage, Rate(done))
        if stage in last and done != total and now - last[stage] < _SECONDS_BETWEEN_LINES:
            return
        last[stage] = now
        log.info("%s: %s", subject, progress_text(stage, done, total, counts, rate.per_second(done)))

    return report


def silent_progress(stage: str, done: int, total: int | None, /, **counts: int) -> None:
    """Discards progress reports."""
