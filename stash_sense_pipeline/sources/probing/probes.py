"""Asks each source once: does it answer, accept the key, allow our pages? At most two requests to a source."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from stash_sense_pipeline.foundation.errors import ConfigurationError, Outcome, SourceError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings
from stash_sense_pipeline.sources.connections import open_connector, open_site_connector, unusable

if TYPE_CHECKING:
    from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy
    from stash_sense_pipeline.sources.stash_boxes.stash_box_records import ListSample

SECONDS_A_SOURCE = 10.0
SAMPLED_PERFORMERS = 100


@dataclass(frozen=True)
class Probe:
    """The answer of one source, or the `problem` in one line with its `outcome`.

    `sample` is the beginning of a stash-box's list. `server_ahead`: how far the source's clock is ahead of ours; None
    when no answer named a time.
    """

    source: str
    sample: ListSample | None = None
    problem: str | None = None
    outcome: Outcome | None = None
    server_ahead: timedelta | None = None


async def probe_sources(
    settings: Settings, environment: Environment, names: Sequence[str], seconds: float = SECONDS_A_SOURCE
) -> list[Probe]:
    """Asks all sources at once, each for at most `seconds`, and retries nothing.

    A stash-box gets one request, for the beginning of its list. A reference site gets one, for its robots.txt. A source
    that cannot be used (see `unusable`), or is read without requests, gets none.
    """
    return await asyncio.gather(*(_probe(settings, environment, name, seconds) for name in names))


async def _probe(settings: Settings, environment: Environment, name: str, seconds: float) -> Probe:
    from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy

    source = settings.source(name)
    once = RetryPolicy(attempts=1, connect=seconds, read=seconds, total=seconds)
    try:
        problem = unusable(settings, environment, name)
        if problem is not None:
            return Probe(name, problem=problem)
        async with asyncio.timeout(seconds):
            if isinstance(source, ReferenceSiteSettings):
                return await _probe_site(settings, environment, source, once)
            return await _probe_stash_box(settings, environment, name, once)
    except TimeoutError:
        return Probe(name, problem=f"{name}: no answer within {seconds:.0f} s", outcome=Outcome.TIMEOUT)
    except ConfigurationError as error:
        return Probe(name, problem=str(error))


async def _probe_stash_box(
    settings: Settings, environment: Environment, name: str, once: RetryPolicy
) -> Probe:
    async with open_connector(settings, environment, name, once) as connector:
        try:
            sample = await connector.sample(SAMPLED_PERFORMERS)
        except SourceError as error:
            return Probe(name, None, str(error), error.outcome, connector.client.server_ahead)
        return Probe(name, sample, server_ahead=connector.client.server_ahead)


async def _probe_site(
    settings: Settings, environment: Environment, site: ReferenceSiteSettings, once: RetryPolicy
) -> Probe:
    if not site.fetch:
        return Probe(site.name)
    async with open_site_connector(settings, environment, site, once) as connector:
        try:
            await connector.check_allowed()
        except SourceError as error:
            return Probe(site.name, None, str(error), error.outcome, connector.client.server_ahead)
        return Probe(site.name, server_ahead=connector.client.server_ahead)
