"""The asset checks of a release, and which of them block publication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.orchestration import names

if TYPE_CHECKING:
    from stash_sense_pipeline.release.checks.check_result import CheckResult


@dataclass(frozen=True)
class ReleaseCheck:
    """One asset check: the results whose name `takes` accepts, together."""

    name: str
    description: str
    takes: Callable[[str], bool]
    blocking: bool = True


def _named(*wanted: str) -> Callable[[str], bool]:
    return lambda name: name in wanted


def _ending(suffix: str) -> Callable[[str], bool]:
    return lambda name: name.endswith(suffix)


_PROOFS = (
    ReleaseCheck(
        "enough_faces",
        "Each index has the 100 faces that the sidecar asks for in a query.",
        _ending("_enough_faces"),
        blocking=False,
    ),
    ReleaseCheck(
        "asset_size",
        "The release is below nine tenths of GitHub's limit for an asset, 2 GiB.",
        _named("size"),
        blocking=False,
    ),
    ReleaseCheck(
        "suppressed",
        "Nobody of the suppression list is in the release: no record, address, picture or refused face.",
        _named("suppressed", "suppressed_people", "suppressed_images", "refused_faces"),
    ),
    ReleaseCheck("nobody_deleted", "No record is one that its source has deleted.", _named("nobody_deleted")),
    ReleaseCheck("one_pack", "Every vector was made by the model pack in use.", _named("one_pack")),
    ReleaseCheck(
        "no_unexplained_shrink",
        "People and faces that are gone since the last release were deleted, merged or suppressed.",
        _named("no_unexplained_shrink"),
    ),
    ReleaseCheck(
        "index_content",
        "Position i of each index is the vector of face i of the catalog.",
        _ending("_content"),
    ),
    ReleaseCheck("recall_at_1", "Each index finds the true nearest face.", _ending("_recall_at_1")),
    ReleaseCheck(
        "recall_in_reach",
        "Each index finds those of the true 100 nearest faces that are within the sidecar's distance.",
        _ending("_recall_in_reach"),
    ),
    ReleaseCheck("recall_at_100", "Each index finds the true 100 nearest faces.", _ending("_recall_at_100")),
    ReleaseCheck(
        "self_retrieval",
        "Asked as the sidecar asks, a stored face finds its own performer first.",
        _named("self_retrieval"),
    ),
    ReleaseCheck(
        "held_out_retrieval",
        "A photo that is left out finds its performer, by number of faces.",
        _named("held_out_retrieval"),
        blocking=False,
    ),
)
_CONTRACT = ReleaseCheck(
    "contract",
    "Every line of the sidecar's contract holds.",
    lambda name: not any(check.takes(name) for check in _PROOFS),
)
RELEASE_CHECKS = (_CONTRACT, *_PROOFS)


def release_check_specs() -> list[dg.AssetCheckSpec]:
    """The specs of all asset checks of the release."""
    return [
        dg.AssetCheckSpec(
            check.name, asset=names.RELEASE, description=check.description, blocking=check.blocking
        )
        for check in RELEASE_CHECKS
    ]


def release_check_results(results: Sequence[CheckResult]) -> Iterator[dg.AssetCheckResult]:
    """What each asset check says, with its numbers; a proof that was not reached says that it was not run.

    Of a release that was proven before, the proofs can be missing, when somebody removed its report: a warning.
    """
    refused = any(not result.passed and result.severity == "error" for result in results)
    missing = (
        "not run: an earlier check failed" if refused else "not known: the report of this release is gone"
    )
    for check in RELEASE_CHECKS:
        own = [result for result in results if check.takes(result.name)]
        errors = any(not result.passed and result.severity == "error" for result in own)
        # The contract has lines that only warn; of the others a warning is shown as one.
        passed = not errors if check is _CONTRACT else all(result.passed for result in own)
        numbers = {key: float(value) for result in own for key, value in result.numbers.items()}
        yield dg.AssetCheckResult(
            asset_key=names.RELEASE,
            check_name=check.name,
            passed=passed and bool(own),
            severity=dg.AssetCheckSeverity.ERROR
            if errors or (refused and not own)
            else dg.AssetCheckSeverity.WARN,
            description=None if own else missing,
            metadata={**numbers, "lines": dg.MetadataValue.md(_table(own))},
        )


def _table(results: Sequence[CheckResult]) -> str:
    lines = ["| check | result | finding |", "|---|---|---|"]
    lines += [
        f"| {result.name} | {'ok' if result.passed else result.severity} | {result.detail} |"
        for result in results
    ]
    return "\n".join(lines)
