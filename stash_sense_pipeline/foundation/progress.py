"""Progress reporting: the callback type, log lines, terminal bars."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger
from typing import Never

# (stage, items done, items in all or None when unknown)
Progress = Callable[[str, int, int | None], None]


# (log of the step, source or asset it works on) -> Progress
ProgressFactory = Callable[[Logger, str], Progress]


_SECONDS_BETWEEN_LINES = 15.0


def log_progress(log: Logger, subject: str) -> Progress:
    """Logs a line for each stage at its first and last item, and every 15 s between them."""
    last: dict[str, float] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage in last and done != total and now - last[stage] < _SECONDS_BETWEEN_LINES:
            return
        last[stage] = now
        log.info("%s: %s %s", subject, stage, f"{done}/{total}" if total is not None else str(done))

    return report


def progress_bars(log: Logger, subject: str) -> Progress:
    """Shows a terminal bar for each stage of `subject`, or nothing when the output is not a terminal.

    When a stage ends, the bars of all stages are closed.
    """
    from tqdm import tqdm

    bars: dict[str, tqdm[Never]] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        if stage not in bars:
            bars[stage] = tqdm(desc=f"{subject} {stage}", total=total, leave=False, disable=None)
        bar = bars[stage]
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            for each in bars.values():
                each.close()
            bars.clear()

    return report


def silent_progress(stage: str, done: int, total: int | None) -> None:
    """Discards progress reports."""
