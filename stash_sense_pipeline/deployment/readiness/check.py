"""The result of one check of readiness."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """`warning`: runs can succeed. `problem`: some of them cannot."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Check:
    """What was looked at, its state, what was found, and what to do about it (empty when nothing is to be done)."""

    name: str
    state: State
    text: str
    action: str = ""


def check_of_error(name: str, error: Exception | str, action: str, state: State = State.PROBLEM) -> Check:
    """The check that an error of this program reports. Its text ends in what to do, else `action` is used."""
    said = "; ".join(str(error).splitlines())
    text, found, advice = said.rpartition("; ")
    return Check(name, state, text, advice) if found else Check(name, state, said, action)
