"""The result of a check, and its severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stash_sense_pipeline.foundation.errors import ReleaseError


class Severity(StrEnum):
    """An error means that the release must not be used; a warning, that somebody should know."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class CheckResult:
    """One line of the verification: what was checked, how it went, and what was found, in words and numbers."""

    name: str
    passed: bool
    detail: str
    severity: Severity = Severity.ERROR
    numbers: Mapping[str, float] = field(default_factory=dict)


def failures(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """The failed checks that forbid the use of the release."""
    return tuple(result for result in results if not result.passed and result.severity is Severity.ERROR)


class ReleaseRefusedError(ReleaseError):
    """A finished release failed a check and was not published; `checks` are all its results."""

    def __init__(self, checks: Sequence[CheckResult]) -> None:
        first, *rest = failures(checks)
        more = f" (and {len(rest)} more)" if rest else ""
        super().__init__(f"the release is not published, a check failed: {first.name}: {first.detail}{more}")
        self.checks = tuple(checks)
