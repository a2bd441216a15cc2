"""Enriching from the sandbox's sites in tests: one call that asks one site, impatiently."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import SITE_RETRY_POLICY
from stash_sense_pipeline.sources.http.robots import Robots
from stash_sense_pipeline.sources.ingest_context import IngestContext
from stash_sense_pipeline.sources.reference_sites.enrich import EnrichReport, enrich_source
from stash_sense_pipeline.sources.reference_sites.fetcher_choice import make_fetcher
from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector

IMPATIENT = replace(
    SITE_RETRY_POLICY,
    attempts=2,
    first_delay=0.001,
    first_delay_when_limited=0.001,
    # A loaded machine must not look like a failed server.
    connect=120,
    read=120,
    total=240,
)
BY_NAME = ("elitebabes", "javdatabase")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def boxes_of(servers: SandboxServers) -> Mapping[str, str]:
    """The universal-id host of each box, the most trusted first."""
    return {name: source.host for name, source in servers.world.sources.items()}


def site_settings(name: str, url: str, **changes: Any) -> ReferenceSiteSettings:
    """Settings of one site at an address."""
    given = {
        "enabled": True,
        "fetch": True,
        "rate_limit": 600_000.0,
        "reference_mode": "name" if name in BY_NAME else "url",
        **changes,
    }
    return ReferenceSiteSettings(name=name, url=url, **given)


def enrich_from(
    servers: SandboxServers,
    engine: sa.Engine,
    name: str,
    *,
    now: datetime = NOW,
    suppressions: Any = NO_SUPPRESSIONS,
    flaresolverr_url: str | None = None,
    chrome_cdp_url: str | None = None,
    during: Callable[[str, int], None] = lambda stage, done: None,
    monotonic: Callable[[], float] = time.monotonic,
    pace: Clock | None = None,
    **changes: Any,
) -> EnrichReport:
    """Enriches from one site of the sandbox at the time `now`. `pace`: the clock that spaces the requests."""
    settings = site_settings(name, changes.pop("url", servers.url(name)), **changes)
    clock = Clock(now=lambda: now)

    async def run() -> EnrichReport:
        async with PoliteClient(
            name,
            settings.url,
            rate=settings.rate_limit,
            retry_policy=IMPATIENT,
            clock=pace,
            gate=Robots(name, Clock(monotonic=monotonic)),
            one_at_a_time=True,
        ) as client:
            fetcher = make_fetcher(settings, client, flaresolverr_url, chrome_cdp_url)
            try:
                context = IngestContext(
                    engine,
                    suppressions,
                    progress=lambda stage, done, total: during(stage, done),
                    clock=clock,
                )
                connector = SiteConnector(settings, client, fetcher)
                return await enrich_source(context, settings, boxes_of(servers), connector)
            finally:
                await fetcher.close()

    return asyncio.run(run())
