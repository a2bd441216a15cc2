"""The check that names the recommended distance, with the table of what each distance means."""

from __future__ import annotations

from collections.abc import Sequence

from stash_sense_pipeline.release.checks.accuracy.thresholds import (
    MOST_STRANGERS,
    Thresholds,
    describe_recommendation,
    table_rows,
)
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity

RECOMMENDED_DISTANCE = "recommended_distance"


def threshold_check(thresholds: Thresholds) -> CheckResult:
    """The recommended distance. A warning when no distance keeps strangers without a name."""
    recommended = thresholds.recommended
    numbers: dict[str, float] = {"people": recommended.people, "limit": MOST_STRANGERS}
    row = recommended.row
    if row is not None:
        numbers |= {"distance": row.distance, "proven": float(recommended.proven)}
        for name, share in (("found", row.found), ("strangers", row.strangers)):
            if share is not None:
                numbers |= {name: share.share, f"{name}_low": share.low, f"{name}_high": share.high}
    return CheckResult(
        RECOMMENDED_DISTANCE,
        row is not None,
        describe_recommendation(recommended),
        Severity.WARNING,
        numbers=numbers,
        table=tuple(table_rows(thresholds)),
    )


def recommended_distance(checks: Sequence[CheckResult]) -> float | None:
    """The recommended distance of a release, from the results of its checks. None when there is none or it is not known."""
    return next(
        (check.numbers.get("distance") for check in checks if check.name == RECOMMENDED_DISTANCE), None
    )
