"""Checks of the sources: key, answer, robots.txt, cooldown."""

from __future__ import annotations

from datetime import datetime

from stash_sense_pipeline.deployment.readiness.check import Check, State, check_of_error
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, SourceSettings
from stash_sense_pipeline.sources.probing.probes import Probe

_ACTIONS = {
    Outcome.BLOCKED: "leave it alone for a day, then look at its rate_limit and your contact address",
    Outcome.RATE_LIMITED: "wait an hour; if it goes on, lower its rate_limit",
    Outcome.TIMEOUT: "look at the network and at its url in sources.yaml",
    Outcome.DISALLOWED: "switch it off: `enabled: false`",
    Outcome.PARSE_ERROR: "look at its url and connector in sources.yaml",
}


def check_unasked(source: SourceSettings, problem: str | None) -> Check:
    """The check of a source that was not asked; `problem` is that of `unusable`."""
    if problem is not None:
        action = f"set {source.name.upper()}_API_KEY"
        return check_of_error(source.name, _without_name(source, problem), action)
    if isinstance(source, ReferenceSiteSettings):
        return Check(source.name, State.OK, "can be read" if source.fetch else "is used without requests")
    return Check(source.name, State.OK, "has a key")


def check_resting(source: SourceSettings, until: datetime) -> Check:
    """The check of a source that refused requests: it is not asked, by this check either."""
    return Check(
        source.name,
        State.WARNING,
        f"refused requests and is left alone until {until:%Y-%m-%d %H:%M} UTC",
        "wait; lower its rate_limit",
    )


def check_answer(source: SourceSettings, probe: Probe) -> Check:
    """The check of a source that was asked: a problem without a usable answer, a warning when it wants fewer requests."""
    if probe.problem is None:
        return Check(source.name, State.OK, _found(source, probe))
    if probe.outcome is None:
        return check_unasked(source, probe.problem)
    text = _without_name(source, probe.problem)
    state = State.WARNING if probe.outcome is Outcome.RATE_LIMITED else State.PROBLEM
    if "refused the key" in text:
        name = source.name.upper()
        return Check(source.name, state, text, f"get a new key in your account there and set {name}_API_KEY")
    return Check(
        source.name,
        state,
        text,
        _ACTIONS.get(probe.outcome, "look at its url and connector in sources.yaml"),
    )


def _found(source: SourceSettings, probe: Probe) -> str:
    if probe.sample is not None:
        least = "at least " if probe.sample.is_capped else ""
        return f"accepts the key; {least}{probe.sample.performers:,} performers"
    if isinstance(source, ReferenceSiteSettings) and not source.fetch:
        return "is used without requests"
    return "answers, and its robots.txt allows our pages"


def _without_name(source: SourceSettings, text: str) -> str:
    return text.removeprefix(f"{source.name}: ")
