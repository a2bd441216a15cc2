"""How far a step is: into the run's log by default, onto a progress bar in the command line."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger

# (stage, items done, items in all or None where nobody knows)
Progress = Callable[[str, int, int | None], None]
# (log of the step, source or asset it works on) -> Progress
ProgressFactory = Callable[[Logger, str], Progress]

_SECONDS_BETWEEN_LINES = 15.0


def log_progress(log: Logger, subject: str) -> Progress:
    """A line for each stage at its first and last item, and every 15 s between them."""
    last: dict[str, float] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage in last and done != total and now - last[stage] < _SECONDS_BETWEEN_LINES:
            return
        last[stage] = now
        log.info("%s: %s %s", subject, stage, f"{done}/{total}" if total is not None else str(done))

    return report
