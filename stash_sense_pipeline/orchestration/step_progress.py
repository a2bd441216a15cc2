"""Progress of a running step: lines of its log, and observations that the page of the asset shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import dagster as dg

from stash_sense_pipeline.foundation.progress import Progress, Rate, log_progress, remaining_text

# (context of the step, source or asset it works on) -> Progress
ProgressFactory = Callable[[dg.AssetExecutionContext, str], Progress]

_FIRST_OBSERVATION_SECONDS = 30.0
_BETWEEN_OBSERVATIONS_SECONDS = 300.0


def log_step_progress(context: dg.AssetExecutionContext, subject: str) -> Progress:
    """Logs a line for each stage once a minute, and records an observation of the asset every five minutes.

    The page of an asset shows the newest observation while the step runs. A step that computes several assets records
    none.
    """
    logged = log_progress(context.log, subject)
    rates: dict[str, Rate] = {}
    due = time.monotonic() + _FIRST_OBSERVATION_SECONDS

    def report(stage: str, done: int, total: int | None, /, **counts: int) -> None:
        nonlocal due
        logged(stage, done, total, **counts)
        rate = rates.setdefault(stage, Rate(done))
        now = time.monotonic()
        if now >= due and len(context.selected_asset_keys) == 1:
            due = now + _BETWEEN_OBSERVATIONS_SECONDS
            _observe(context, stage, {"done": done, "total": total, **counts}, rate.per_second(done))

    return report


def _observe(
    context: dg.AssetExecutionContext, stage: str, counts: Mapping[str, int | None], per_second: float
) -> None:
    done, total = counts["done"] or 0, counts["total"]
    left = remaining_text(done, total, per_second)
    context.log_event(
        dg.AssetObservation(
            asset_key=context.asset_key,
            partition=context.partition_key if context.has_partition_key else None,
            description=f"{stage}: {done}" + (f" of {total}" if total is not None else ""),
            metadata={
                "stage": stage,
                **{name: value for name, value in counts.items() if value is not None},
                "per_minute": round(per_second * 60, 1),
                **({"time_left": left} if left else {}),
            },
        )
    )
