"""The asset checks of a release, and which of them block publication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.foundation.tables.table import Table, table_of
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import rounded
from stash_sense_pipeline.orchestration.table_metadata import table_metadata

if TYPE_CHECKING:
    from stash_sense_pipeline.release.checks.check_result import CheckResult


@dataclass(frozen=True)
class ReleaseCheck:
    """One asset check. It combines the results of the release checks with a name that `takes` accepts."""

    name: str
    description: str
    takes: Callable[[str], bool]
    blocking: bool = True


def _named(*wanted: str) -> Callable[[str], bool]:
    return lambda name: name in wanted


def _ending(suffix: str) -> Callable[[str], bool]:
    return lambda name: name.endswith(suffix)


_PROOF_CHECKS = (
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
        "The release holds no suppressed person: no record, address, image or refused face of the suppression list.",
        _named("suppressed", "suppressed_people", "suppressed_images", "refused_faces"),
    ),
    ReleaseCheck(
        "no_deleted_records",
        "The release holds no record that its source has deleted.",
        _named("no_deleted_records"),
    ),
    ReleaseCheck("one_pack", "Every vector was made by the model pack in use.", _named("one_pack")),
    ReleaseCheck(
        "no_unexplained_shrink",
        "Every performer and face that the last release had and this one lacks was deleted, merged or suppressed.",
        _named("no_unexplained_shrink"),
    ),
    ReleaseCheck(
        "index_content",
        "Position i of each index holds the vector of face i of the catalog.",
        _ending("_content"),
    ),
    ReleaseCheck(
        "answer_fidelity",
        "The sidecar's answers through the indices are those of exact search.",
        _named("answer_fidelity"),
    ),
    ReleaseCheck("recall_at_1", "Each index finds the true nearest face.", _ending("_recall_at_1")),
    ReleaseCheck(
        "recall_in_reach",
        "Each index finds those of the true 100 nearest faces that are within the distance limit of the sidecar.",
        _ending("_recall_in_reach"),
    ),
    ReleaseCheck("recall_at_100", "Each index finds the true 100 nearest faces.", _ending("_recall_at_100")),
    ReleaseCheck(
        "self_retrieval",
        "With the query of the sidecar, a stored face finds its own performer first.",
        _named("self_retrieval"),
    ),
    ReleaseCheck(
        "held_out_retrieval",
        "A face that is left out of the gallery finds its performer; the numbers are by faces per performer.",
        _named("held_out_retrieval"),
        blocking=False,
    ),
    ReleaseCheck(
        "recommended_distance",
        "There is a distance at which at most one stranger in a hundred gets a name.",
        _named("recommended_distance"),
        blocking=False,
    ),
    ReleaseCheck(
        "tattoo_coverage",
        "The release has tattoos, and enough people are searched for them, when the settings ask for tattoos.",
        _named("tattoo_coverage"),
        blocking=False,
    ),
    ReleaseCheck(
        "tattoo_worth",
        "With tattoos, left-out photographs find their performer at least as often as by faces alone.",
        _named("tattoo_worth"),
        blocking=False,
    ),
)
_CONTRACT = ReleaseCheck(
    "contract",
    "Every line of the sidecar's contract holds.",
    lambda name: not any(check.takes(name) for check in _PROOF_CHECKS),
)
RELEASE_CHECKS = (_CONTRACT, *_PROOF_CHECKS)


def release_check_specs() -> list[dg.AssetCheckSpec]:
    """The specs of all asset checks of `release`."""
    return [
        dg.AssetCheckSpec(
            check.name, asset=names.RELEASE, description=check.description, blocking=check.blocking
        )
        for check in RELEASE_CHECKS
    ]


def release_check_results(results: Sequence[CheckResult]) -> Iterator[dg.AssetCheckResult]:
    """The result of each asset check, with its numbers.

    A check without results was not run, because an earlier one failed: an error. Or the report of a release that was
    published before was deleted: a warning.
    """
    refused = any(not result.passed and result.severity == "error" for result in results)
    missing = (
        "not run: an earlier check failed"
        if refused
        else "not known: the report of this release does not have it"
    )
    for check in RELEASE_CHECKS:
        own = [result for result in results if check.takes(result.name)]
        errors = any(not result.passed and result.severity == "error" for result in own)
        # Some lines of the contract only warn, and the contract passes with them. A warning fails any other check.
        passed = not errors if check is _CONTRACT else all(result.passed for result in own)
        numbers = {
            (key if result.label == result.name else f"{result.flavour}_{key}"): rounded(float(value))
            for result in own
            for key, value in result.numbers.items()
        }
        yield dg.AssetCheckResult(
            asset_key=names.RELEASE,
            check_name=check.name,
            passed=passed and bool(own),
            severity=dg.AssetCheckSeverity.ERROR
            if errors or (refused and not own)
            else dg.AssetCheckSeverity.WARN,
            description=None if own else missing,
            metadata={**numbers, "lines": table_metadata(_table(own))},
        )


def _table(results: Sequence[CheckResult]) -> Table:
    rows = [
        (result.label, "ok" if result.passed else str(result.severity), result.detail) for result in results
    ]
    return table_of(("check", "result", "finding"), rows)
