"""Cooldown: after a source refuses requests it gets none for some hours, in later runs too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.sync_state import load_state, save_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import REFUSALS_IN_A_ROW, Outcome, SourceError

_FIRST_PAUSE = timedelta(hours=6)
_LONGEST_PAUSE = timedelta(days=4)
_REFUSALS = frozenset({Outcome.BLOCKED, Outcome.RATE_LIMITED})


def is_refusal(outcome: Outcome | None) -> bool:
    """True for an outcome with which a source refuses requests: blocked, or rate limited."""
    return outcome in _REFUSALS


def cooldown_until(detail: Mapping[str, Any]) -> datetime | None:
    """The end of the cooldown of a source with this `sync_state.detail`; None without one."""
    until = detail.get("left_alone_until")
    return datetime.fromisoformat(until) if isinstance(until, str) else None


def check_cooldown(engine: sa.Engine, source: str, now: datetime) -> None:
    """Raises SourceError (blocked) during the cooldown of the source."""
    with reading(engine) as connection:
        until = cooldown_until(load_state(connection, source).detail)
    if until is not None and now < until:
        raise SourceError(
            source,
            Outcome.BLOCKED,
            f"it refused requests {REFUSALS_IN_A_ROW} times in a row and is left alone until {until:%Y-%m-%d %H:%M} UTC",
        )


def start_cooldown(engine: sa.Engine, source: str, now: datetime) -> datetime:
    """Starts a cooldown of 6 hours, doubled for each consecutive one, up to 4 days. Returns its end."""
    with writing(engine) as connection:
        state = load_state(connection, source)
        times = int(state.detail.get("times_left_alone", 0))
        until = now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**times)
        detail = {**state.detail, "left_alone_until": until.isoformat(), "times_left_alone": times + 1}
        save_state(connection, replace(state, detail=detail))
    return until


def end_cooldown(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `sync_state.detail` without the cooldown, for a run in which the source answered."""
    return {
        key: value for key, value in detail.items() if key not in ("left_alone_until", "times_left_alone")
    }
