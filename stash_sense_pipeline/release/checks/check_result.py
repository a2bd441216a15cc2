"""The result of a check, and its severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stash_sense_pipeline.foundation.errors import ReleaseError


class Severity(StrEnum):
    """A failed check of severity error forbids the use of the release. A failed check of severity warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: its name, whether it passed, and the finding in words and numbers.

    `table`: rows of plain values, for a finding that is a table.
    """

    name: str
    passed: bool
    detail: str
    severity: Severity = Severity.ERROR
    numbers: Mapping[str, float] = field(default_factory=dict)
    table: tuple[Mapping[str, str | float | int], ...] = ()


def failures(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """The failed checks of severity error."""
    return tuple(result for result in results if not result.passed and result.severity is Severity.ERROR)


class ReleaseRefusedError(ReleaseError):
    """A release failed a check and is not published. `checks` has the results of all checks."""

    def __init__(self, checks: Sequence[CheckResult]) -> None:
        first, *rest = failures(checks)
        more = f" (and {len(rest)} more)" if rest else ""
        super().__init__(f"the release is not published, a check failed: {first.name}: {first.detail}{more}")
        self.checks = tuple(checks)
