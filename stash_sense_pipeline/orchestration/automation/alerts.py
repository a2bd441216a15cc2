"""Alerts: failing, stale and refusing sources.

An alert leaves the machine. It names the job, the source, the run and how the run ended, and never holds the message of an
exception, an address or a setting.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.orchestration.automation.sensors import sensor_status
from stash_sense_pipeline.orchestration.automation.waiting import why_catalog_fails
from stash_sense_pipeline.orchestration.source_freshness import STALE_AFTER, last_reads
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

_TIMEOUT_SECONDS = 5.0
_ATTEMPTS = 3
_BETWEEN_ATTEMPTS_SECONDS = 1.0
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


class AlertError(StashSenseError):
    """The webhook did not accept an alert. The message holds no part of its address, which is a secret."""


@dataclass(frozen=True)
class Alert:
    """The content of an alert. `kind` is failing, blocked, stale or fresh_again. Fields that do not apply are empty."""

    kind: str
    title: str
    message: str
    source: str = ""
    job: str = ""
    run_id: str = ""


def send_alert(url: str, alert: Alert) -> None:
    """Posts an alert to an ntfy topic (`ntfy+https://...`), a Discord webhook (`discord+https://...`), or as JSON.

    The addresses of ntfy.sh and discord.com need no prefix. Raises AlertError after three attempts.
    """
    import httpx

    kind, address = _kind_and_address(url)
    body: dict[str, Any]
    if kind == "ntfy":
        body = {"content": alert.message.encode(), "headers": {"Title": alert.title, "Tags": alert.kind}}
    elif kind == "discord":
        body = {"json": {"content": f"**{alert.title}**\n{alert.message}", "allowed_mentions": {"parse": []}}}
    else:
        body = {"json": asdict(alert)}
    problem = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_BETWEEN_ATTEMPTS_SECONDS)
        try:
            answer = httpx.post(address, timeout=_TIMEOUT_SECONDS, **body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = type(error).__name__
            continue
        if answer.is_success:
            return
        problem = f"status {answer.status_code}"
    raise AlertError(
        f"STASH_SENSE_ALERT_URL did not accept the alert ({problem}); check the address and its server"
    )


def _kind_and_address(url: str) -> tuple[str, str]:
    prefix, plus, rest = url.partition("+")
    if plus and prefix in ("ntfy", "discord"):
        return prefix, rest
    host = urlsplit(url).hostname or ""
    known = {"ntfy.sh": "ntfy", "discord.com": "discord", "discordapp.com": "discord"}
    return known.get(host, "json"), url


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
