"""Fixtures of the sources' tests: virtual time, the sandbox servers, and one call that refreshes a source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.sandbox.invented.clock import from_micros
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import BoxOptions
from stash_sense_pipeline.sandbox.world import World
from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy
from stash_sense_pipeline.sources.ingest_context import IngestContext
from stash_sense_pipeline.sources.stash_boxes.connectors import Connector, make_connector
from stash_sense_pipeline.sources.stash_boxes.refresh import SyncReport, refresh_source
from stash_sense_pipeline.sources.sync_rules import SyncRules

# Short delays between attempts, long timeouts for each: a loaded machine must not look like a failed server.
PATIENT = RetryPolicy(connect=120, read=120, total=240)
QUICK = replace(PATIENT, first_delay=0.001, first_delay_when_limited=0.001, circuit_after=1000)


@dataclass
class VirtualTime:
    """A virtual clock: sleeping advances it at once. Each sleep takes `overshoot` seconds longer than requested."""

    seconds: float = 1000.0
    overshoot: float = 0.0
    slept: list[float] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        """The clock to inject."""
        return Clock(monotonic=lambda: self.seconds, sleep=self._sleep, now=self.now)

    def now(self) -> datetime:
        """The wall clock."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds + self.overshoot
        await asyncio.sleep(0)


@pytest.fixture
def virtual_time() -> VirtualTime:
    """A fresh virtual clock."""
    return VirtualTime()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[SandboxServers]:
    """The sandbox servers without performers; use `box` or `theporndb` for an empty one."""
    with SandboxServers(World.empty()) as servers:
        yield servers


@pytest.fixture
def fresh_sandbox(sandbox: SandboxServers) -> SandboxServers:
    """The sandbox servers without faults, requests and observers of an earlier test."""
    sandbox.traffic.clear_faults()
    sandbox.traffic.clear_requests()
    for box in sandbox.world.boxes.values():
        box.observers.clear()
    return sandbox


@pytest.fixture
def box(fresh_sandbox: SandboxServers) -> Box:
    """The stash-box named stashdb, empty."""
    stashdb = fresh_sandbox.world.boxes["stashdb"]
    stashdb.clear(1, BoxOptions())
    return stashdb


Refresh = Callable[..., SyncReport]


@pytest.fixture
def refresh(catalog: sa.Engine, fresh_sandbox: SandboxServers) -> Refresh:
    """refresh(mode, source=, engine=, adjust=, **options of refresh_source) against the sandbox, with short delays."""

    def run(mode: str = "auto", source: str = "stashdb", **options: Any) -> SyncReport:
        return refresh_from(fresh_sandbox, options.pop("engine", catalog), source, mode, **options)

    return run


def refresh_from(
    servers: SandboxServers,
    engine: sa.Engine,
    source: str,
    mode: Any,
    *,
    api_key: str | None = None,
    url: str | None = None,
    adjust: Callable[[Connector], None] = lambda connector: None,
    suppressions: Any = NO_SUPPRESSIONS,
    rules: SyncRules | None = None,
    progress: Progress = lambda stage, done, total: None,
    now: Callable[[], datetime] | None = None,
    retry_policy: RetryPolicy = QUICK,
    genders: tuple[str, ...] | None = None,
    max_records: int | None = None,
) -> SyncReport:
    """Refreshes one source of the sandbox. The wall clock is that of its server unless `now` is given."""
    server = servers.world.sources[source]
    settings = StashBoxSettings(
        name=source,
        url=url or servers.endpoint(source),
        host=f"{source}.test",
        rate_limit=600_000.0,
        connector="theporndb" if source == "theporndb" else "stash_box",
        gender_filter=genders,
    )
    key = servers.api_key(source) if api_key is None else api_key
    clock = Clock(now=now or (lambda: from_micros(server.clock.now())))

    async def run() -> SyncReport:
        async with PoliteClient(
            source, settings.url, rate=settings.rate_limit, retry_policy=retry_policy
        ) as client:
            connector = make_connector(settings, key, client)
            adjust(connector)
            context = IngestContext(
                engine, suppressions, rules or SyncRules(), progress, clock, max_records=max_records
            )
            return await refresh_source(context, settings, connector, mode)

    return asyncio.run(run())
