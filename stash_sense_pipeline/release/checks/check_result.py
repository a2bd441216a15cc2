"""The result of a check, and its severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.contract import Flavour


class Severity(StrEnum):
    """A failed check of severity error forbids the use of the release. A failed check of severity warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: its name, whether it passed, and the finding in words and numbers.

    `table`: rows of plain values, for a finding that is a table. `flavour`: the flavour of the release that was checked.
    """

    name: str
    passed: bool
    detail: str
    severity: Severity = Severity.ERROR
    numbers: Mapping[str, float] = field(default_factory=dict)
    table: tuple[Mapping[str, str | float | int], ...] = ()
    flavour: str = Flavour.FULL.value

    @property
    def label(self) -> str:
        """The name, and the flavour where it is another than full."""
        return self.name if self.flavour == Flavour.FULL else f"{self.flavour}: {self.name}"


def failures(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """The failed checks of severity error."""
    return tuple(result for result in results if not result.passed and result.severity is Severity.ERROR)


class ReleaseRefusedError(ReleaseError):
    """A release failed a check and is not published. `checks` has the results of all checks."""

    def __init__(self, checks: Sequence[CheckResult]) -> None:
        first, *rest = failures(checks)
        more = f" (and {len(rest)} more)" if rest else ""
        super().__init__(f"the release is not published, a check failed: {first.label}: {first.detail}{more}")
        self.checks = tuple(checks)
