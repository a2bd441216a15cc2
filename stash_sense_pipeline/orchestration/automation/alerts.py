"""Alerts: failing, stale and refusing sources, and their checks that failed.

An alert leaves the machine. It names the job, the source, the run and how the run ended, and never holds the message of an
exception, an address or a setting.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence, Set
from datetime import UTC, datetime

import dagster as dg

from stash_sense_pipeline.orchestration.automation.alert_delivery import Alert, send_alert
from stash_sense_pipeline.orchestration.automation.sensors import sensor_status
from stash_sense_pipeline.orchestration.automation.waiting import why_catalog_fails
from stash_sense_pipeline.orchestration.source_checks import source_checks
from stash_sense_pipeline.orchestration.source_freshness import last_reads
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.health.source_health import STALE_AFTER

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


def alert_on_failures(environment: Environment) -> dg.SensorDefinition:
    """Sends one alert when STASH_SENSE_ALERT_AFTER runs of a source, or of publish, failed in a row.

    For a source that blocks requests, or has an open circuit breaker, the alert comes at the first failure of a row.
    """

    @dg.run_failure_sensor(
        name="alert_on_failures",
        default_status=sensor_status(environment.automation),
        description=f"Send an alert to STASH_SENSE_ALERT_URL when {environment.alert_after} runs of a source failed "
        "in a row, or when a source blocks requests.",
    )
    def sensor(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if environment.alert_url is None:
            return dg.SkipReason("STASH_SENSE_ALERT_URL is not set")
        outcomes = [_outcome(event) for event in context.get_step_failure_events()]
        alert = failure_alert(
            context.instance, context.dagster_run, [o for o in outcomes if o], environment.alert_after
        )
        if alert is None:
            return dg.SkipReason(
                "fewer failures in a row than STASH_SENSE_ALERT_AFTER, or the alert was sent already"
            )
        send_alert(environment.alert_url.get_secret_value(), alert)
        return None

    return sensor


def failure_alert(
    instance: dg.DagsterInstance, run: dg.DagsterRun, outcomes: Sequence[Mapping[str, str]], after: int
) -> Alert | None:
    """The alert to send after this failed run; None when there were too few failures in a row, or it was sent already."""
    if run.tags.get("dagster/will_retry") == "true":
        return None
    source = run.tags.get("dagster/partition", "")
    row = _failures_in_a_row(instance, run, source, after + 1)
    about = {"source": source, "job": run.job_name, "run_id": run.run_id}
    refused = next(
        (o for o in outcomes if o.get("breaker") or o.get("outcome") in ("blocked", "disallowed")), None
    )
    if refused is not None and row == 1:
        why = "the circuit breaker opened" if refused.get("breaker") else f"it answered {refused['outcome']}"
        return Alert(
            "blocked", f"{source}: requests are blocked", f"{source}: {why}; see run {run.run_id}.", **about
        )
    if row != after:
        return None
    what = source or run.job_name
    ended = f" ({outcomes[0]['outcome']})" if outcomes and outcomes[0].get("outcome") else ""
    times = "failed" if row == 1 else f"failed {row} times in a row"
    return Alert(
        "failing",
        f"{what}: {times}",
        f"{run.job_name} of {what} {times}{ended}; see run {run.run_id}.",
        **about,
    )


def _failures_in_a_row(instance: dg.DagsterInstance, run: dg.DagsterRun, source: str, most: int) -> int:
    """How many of the newest ended runs of this job and source failed in a row, at most `most`; a retry counts once."""
    tags = {"dagster/partition": source} if source else {}
    ended = instance.get_runs(
        dg.RunsFilter(job_name=run.job_name, tags=tags, statuses=_FINISHED), limit=2 * most + 2
    )
    count = 0
    for one in ended:
        if one.status is not dg.DagsterRunStatus.FAILURE or count == most:
            break
        count += "dagster/parent_run_id" not in one.tags
    return count


def _outcome(event: dg.DagsterEvent) -> dict[str, str]:
    """`outcome`, and `breaker` when it is open, of a step that failed because of its source."""
    data = event.step_failure_data.user_failure_data
    metadata = data.metadata if data is not None else {}
    return {name: str(metadata[name].value) for name in ("outcome", "breaker") if name in metadata}


def alert_on_stale_sources(settings: Settings, environment: Environment) -> dg.SensorDefinition:
    """Sends one alert when an enabled source was not read for 36 hours, and one when it is read again."""

    @dg.sensor(
        name="alert_on_stale_sources",
        minimum_interval_seconds=1800,
        default_status=sensor_status(environment.automation),
        description="Send an alert to STASH_SENSE_ALERT_URL when a source was not read for 36 hours.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if environment.alert_url is None:
            return dg.SkipReason("STASH_SENSE_ALERT_URL is not set")
        if (problem := why_catalog_fails(environment)) is not None:
            return dg.SkipReason(problem)
        reported = _reported(context.cursor, {source.name for source in settings.enabled})
        stale = _stale_sources(settings, environment)
        for alert in stale_alerts(reported, stale):
            send_alert(environment.alert_url.get_secret_value(), alert)
        reason = f"stale: {', '.join(stale)}" if stale else "every source was read"
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(stale))

    return sensor


def _reported(cursor: str | None, enabled: Set[str]) -> list[str]:
    """The enabled sources that were reported as stale. A source that was removed or disabled is not fresh again."""
    try:
        reported = json.loads(cursor or "[]")
    except ValueError:
        return []
    return sorted(enabled & set(map(str, reported))) if isinstance(reported, list) else []


def stale_alerts(reported: Sequence[str], stale: Sequence[str]) -> list[Alert]:
    """The alerts to send when the sources `reported` were stale at the last evaluation and `stale` are now."""
    hours = int(STALE_AFTER.total_seconds() / 3600)
    new = [
        Alert("stale", f"{name}: stale", f"{name} has not been read for {hours} hours.", name)
        for name in stale
        if name not in reported
    ]
    back = [
        Alert("fresh_again", f"{name}: read again", f"{name} is fresh again.", name)
        for name in reported
        if name not in stale
    ]
    return new + back


def _stale_sources(settings: Settings, environment: Environment) -> list[str]:
    """Enabled sources that were read before, but not lately. A source that was never read lacks its key or its first run."""
    from stash_sense_pipeline.catalog.engine import open_catalog

    engine = open_catalog(environment.catalog_url)
    try:
        last = last_reads(engine, settings)
    finally:
        engine.dispose()
    now = datetime.now(UTC)
    return [name for name, at in last.items() if at is not None and now - at > STALE_AFTER]


def alert_on_failed_checks(environment: Environment) -> dg.SensorDefinition:
    """Sends one alert when a check of a source fails, and one when it passes again."""

    @dg.sensor(
        name="alert_on_failed_checks",
        minimum_interval_seconds=300,
        default_status=sensor_status(environment.automation),
        description="Send an alert to STASH_SENSE_ALERT_URL when a check of a source fails, and when it passes again.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if environment.alert_url is None:
            return dg.SkipReason("STASH_SENSE_ALERT_URL is not set")
        assert context.repository_def is not None
        verdicts = source_checks(context.instance, context.repository_def)
        reported = _reported(context.cursor, {verdict.name for verdict in verdicts})
        failed = [verdict.name for verdict in verdicts if verdict.passed is False]
        # A check that is being run keeps its last verdict.
        failed += [
            verdict.name for verdict in verdicts if verdict.passed is None and verdict.name in reported
        ]
        for alert in check_alerts(reported, failed):
            send_alert(environment.alert_url.get_secret_value(), alert)
        reason = f"failed: {', '.join(failed)}" if failed else "no check of a source fails"
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(sorted(failed)))

    return sensor


def check_alerts(reported: Collection[str], failed: Collection[str]) -> list[Alert]:
    """The alerts to send when the checks `reported` had failed at the last evaluation and `failed` have now.

    The name of a check is `<source>: <asset>/<check>`.
    """
    return [_check_alert("refused", name, "failed") for name in failed if name not in reported] + [
        _check_alert("accepted", name, "passes again") for name in reported if name not in failed
    ]


def _check_alert(kind: str, name: str, what: str) -> Alert:
    source, _, check = name.partition(": ")
    return Alert(
        kind,
        f"{source}: the check {check.rpartition('/')[2]} {what}",
        f"{source}: the check {check} {what}; the page of the asset has the numbers.",
        source,
    )
