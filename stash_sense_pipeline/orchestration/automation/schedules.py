"""The schedules: nightly refresh, weekly sweep, nightly publish.

A fourth one runs the check of source freshness every six hours. While its runs cannot succeed (see `waiting`), a
schedule skips with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.automation.waiting import (
    ready_sources,
    why_all_wait,
    why_catalog_fails,
)
from stash_sense_pipeline.orchestration.run_config import IngestConfig, SyncMode
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings


def _status(automation: bool) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if automation else dg.DefaultScheduleStatus.STOPPED


def _ready_sources(
    context: dg.ScheduleEvaluationContext,
    settings: Settings,
    environment: Environment,
    sources: Sequence[str],
) -> list[str] | dg.SkipReason:
    """Those of `sources` that can be asked; the log has the reason of each other one. A SkipReason when none can."""
    if (problem := why_all_wait(environment)) is not None:
        return dg.SkipReason(problem)
    ready, reasons = ready_sources(settings, environment, sources)
    if not ready:
        return dg.SkipReason("; ".join(reasons) or "no source is enabled")
    for reason in reasons:
        context.log.warning(reason)
    return ready


def nightly_enrichment(settings: Settings, environment: Environment) -> dg.ScheduleDefinition:
    """The schedule that refreshes every enabled source at 02:30 UTC, stash-boxes first.

    A source that cannot be asked (no contact address, no key, no page solver) is left out, and the log has the reason.
    """
    sources = [source.name for source in settings.enabled]

    @dg.schedule(
        name="nightly_enrichment",
        job_name=names.REFRESH_SOURCE_JOB,
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        default_status=_status(environment.automation),
        description="Refresh every enabled source once a night. Embedding and publishing follow by sensor.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        night = context.scheduled_execution_time.date().isoformat()
        ready = _ready_sources(context, settings, environment, sources)
        if isinstance(ready, dg.SkipReason):
            yield ready
            return
        for source in ready:
            yield dg.RunRequest(
                run_key=f"nightly-{night}-{source}",
                partition_key=source,
                # The queue takes the higher priority first: the order of sources.yaml.
                tags={names.SOURCE_TAG: source, "dagster/priority": str(-sources.index(source))},
            )

    return schedule


def weekly_sweep(settings: Settings, environment: Environment) -> dg.ScheduleDefinition:
    """The schedule that compares every record of each enabled stash-box with its source, Sundays at 05:00 UTC."""
    boxes = [source.name for source in settings.enabled if source.name in settings.stash_boxes]

    @dg.schedule(
        name="weekly_sweep",
        job_name=names.REFRESH_SOURCE_JOB,
        cron_schedule="0 5 * * 0",
        execution_timezone="UTC",
        default_status=_status(environment.automation),
        description="Compare every record of each stash-box with its source. Only this finds removals that leave no trace.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        week = context.scheduled_execution_time.date().isoformat()
        config = {names.PERFORMER_TABLE.to_user_string(): IngestConfig(sync=SyncMode.FULL_SWEEP)}
        ready = _ready_sources(context, settings, environment, boxes)
        if isinstance(ready, dg.SkipReason):
            yield ready
            return
        for source in ready:
            yield dg.RunRequest(
                run_key=f"sweep-{week}-{source}",
                partition_key=source,
                run_config=dg.RunConfig(ops=config),
                tags={names.SOURCE_TAG: source},
            )

    return schedule


def nightly_publish(environment: Environment) -> dg.ScheduleDefinition:
    """The schedule that publishes at 09:00 UTC what the sensors have missed. Without changes it publishes nothing."""

    @dg.schedule(
        name="nightly_publish",
        job_name=names.PUBLISH_JOB,
        cron_schedule="0 9 * * *",
        execution_timezone="UTC",
        default_status=_status(environment.automation),
        description="Publish what the sensors have missed. Without changes nothing is published.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if (problem := why_all_wait(environment)) is not None:
            return dg.SkipReason(problem)
        return dg.RunRequest(run_key=f"publish-{context.scheduled_execution_time.date().isoformat()}")

    return schedule


def freshness_check(environment: Environment) -> dg.ScheduleDefinition:
    """The schedule that runs the check sources_fresh every six hours, so that a pipeline that stands still shows it."""

    @dg.schedule(
        name="freshness_check",
        job_name=names.CHECK_FRESHNESS_JOB,
        cron_schedule="0 */6 * * *",
        execution_timezone="UTC",
        default_status=_status(environment.automation),
        description="Check that every enabled source was read lately, also when nothing else runs.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if (problem := why_catalog_fails(environment)) is not None:
            return dg.SkipReason(problem)
        return dg.RunRequest(run_key=f"freshness-{context.scheduled_execution_time.isoformat()}")

    return schedule
