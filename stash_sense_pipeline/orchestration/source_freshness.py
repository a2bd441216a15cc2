"""Source freshness: the asset check that every enabled source was read lately.

Dagster's FreshnessPolicy is for a whole asset: one source of fifteen would keep a partitioned asset fresh. The check runs
with each publish, and by its own schedule when nothing else runs.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.foundation.tables.table import table_of
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import one_line_failures
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.table_metadata import table_metadata
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.health.source_health import STALE_AFTER

if TYPE_CHECKING:
    import sqlalchemy as sa


@dg.asset_check(
    asset=names.IDENTITY_GRAPH,
    name=names.SOURCES_FRESH_CHECK,
    description="Every enabled source was read within the last 36 hours.",
)
def sources_fresh(
    settings: dg.ResourceParam[Settings], catalog: dg.ResourceParam[Catalog]
) -> dg.AssetCheckResult:
    """Reads from the catalog when each enabled source was read last."""
    with one_line_failures():
        return freshness_result(last_reads(catalog.engine, settings), datetime.now(UTC), STALE_AFTER)


def last_reads(engine: "sa.Engine", settings: Settings) -> dict[str, datetime | None]:
    """When each enabled source was read last; None for a source that was never read."""
    from stash_sense_pipeline.catalog.queries.sync_state import load_states
    from stash_sense_pipeline.catalog.transactions import reading

    with reading(engine) as connection:
        states = load_states(connection)
    enabled = [source.name for source in settings.enabled]
    return {name: states[name].last_sync_at if name in states else None for name in enabled}


def freshness_result(
    last_read: Mapping[str, datetime | None], now: datetime, limit: timedelta
) -> dg.AssetCheckResult:
    """A warning when a source was read longer than `limit` ago, or never."""
    ages = {source: None if at is None else now - at for source, at in last_read.items()}
    stale = [source for source, age in ages.items() if age is None or age > limit]
    rows = [
        (
            source,
            "never" if age is None else f"{age.total_seconds() / 3600:.1f}",
            "stale" if source in stale else "",
        )
        for source, age in ages.items()
    ]
    return dg.AssetCheckResult(
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "stale": len(stale),
            "limit_hours": limit.total_seconds() / 3600,
            "sources": table_metadata(table_of(("source", "hours since last read", "state"), rows)),
        },
    )
