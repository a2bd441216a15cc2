"""The nightly schedule: every enabled source once a night, stash-boxes before reference sites."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.settings import Settings


def nightly_enrichment(settings: Settings) -> dg.ScheduleDefinition:
    """The schedule that refreshes every enabled source at 02:30 UTC."""
    sources = [source.name for source in settings.enabled]

    @dg.schedule(
        name="nightly_enrichment",
        job_name=names.REFRESH_SOURCE_JOB,
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        description="Refresh every enabled source once a night. Embedding and publishing follow by sensor.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        night = context.scheduled_execution_time.date().isoformat()
        for place, source in enumerate(sources):
            yield dg.RunRequest(
                run_key=f"nightly-{night}-{source}",
                partition_key=source,
                # The queue takes the higher priority first: the order of sources.yaml.
                tags={names.SOURCE_TAG: source, "dagster/priority": str(-place)},
            )

    return schedule
