"""Asking all stash-boxes at once whether they have news, within the time that a sensor has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from stash_sense_pipeline.foundation.errors import ConfigurationError, SourceError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.connections import asking

_SECONDS_A_SOURCE = 5.0


@dataclass(frozen=True)
class Poll:
    """What one source said: a token that moves with its changes, or why there is none."""

    source: str
    token: str | None
    problem: str | None


async def poll_sources(settings: Settings, environment: Environment, names: Sequence[str]) -> list[Poll]:
    """Asks each source once, side by side, each for at most 5 s. A source that fails is a Poll with its problem."""
    return await asyncio.gather(*(_poll(settings, environment, name) for name in names))


async def _poll(settings: Settings, environment: Environment, name: str) -> Poll:
    from stash_sense_pipeline.sources.http.polite_client import Patience
    from stash_sense_pipeline.sources.newest import newest_change

    hurried = Patience(attempts=1, connect=_SECONDS_A_SOURCE, read=_SECONDS_A_SOURCE, total=_SECONDS_A_SOURCE)
    try:
        async with (
            asyncio.timeout(_SECONDS_A_SOURCE),
            asking(settings, environment, name, hurried) as connector,
        ):
            return Poll(name, await newest_change(connector), None)
    except TimeoutError:
        return Poll(name, None, f"{name}: no answer within {_SECONDS_A_SOURCE:.0f} s")
    except (SourceError, ConfigurationError) as error:
        return Poll(name, None, str(error))
