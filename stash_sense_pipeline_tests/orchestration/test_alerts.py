"""Alerts: their format for each webhook, when they are sent, and that they hold no secret."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from stash_sense_pipeline.catalog.schema import sync_state
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.foundation.errors import CIRCUIT_OPEN, Outcome
from stash_sense_pipeline.orchestration.automation import alert_delivery, alerts
from stash_sense_pipeline.orchestration.automation.alert_delivery import (
    Alert,
    AlertError,
    send_alert,
)
from stash_sense_pipeline.orchestration.automation.alerts import check_alerts, failure_alert, stale_alerts
from stash_sense_pipeline.orchestration.metadata import source_failure
from stash_sense_pipeline.orchestration.partitions import partitioned
from stash_sense_pipeline.settings.alert_address import is_alert_address, kind_and_address
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline_tests.orchestration.conftest import environment_at

ALERT = Alert(
    "failing",
    "stashdb: failed",
    "refresh_source of stashdb failed; see run r.",
    "stashdb",
    "refresh_source",
    "r",
)


class Webhook:
    """What a webhook on loopback was sent; it answers `statuses` in turn, then 200."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.url = ""


@contextmanager
def serving(hook: Webhook) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.received.append((dict(self.headers), body))
            self.send_response(hook.statuses.pop(0) if hook.statuses else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_port}/topic-secret"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook that is up."""
    monkeypatch.setattr(alert_delivery, "_BETWEEN_ATTEMPTS_SECONDS", 0.01)
    monkeypatch.setattr(alert_delivery, "_TIMEOUT_SECONDS", 120.0)
    hook = Webhook()
    with serving(hook):
        yield hook


def test_ntfy_discord_and_json_webhooks_each_get_their_format(webhook: Webhook) -> None:
    send_alert(webhook.url, ALERT)
    send_alert(f"ntfy+{webhook.url}", ALERT)
    send_alert(f"discord+{webhook.url}", ALERT)
    plain, ntfy, discord = webhook.received
    assert json.loads(plain[1]) == {
        "kind": "failing", "title": ALERT.title, "message": ALERT.message,
        "source": "stashdb", "job": "refresh_source", "run_id": "r",
    }  # fmt: skip
    assert (ntfy[0]["Title"], ntfy[1].decode()) == (ALERT.title, ALERT.message)
    said = json.loads(discord[1])
    assert ALERT.message in said["content"]
    assert said["allowed_mentions"] == {"parse": []}


def test_ntfy_and_discord_hosts_need_no_prefix() -> None:
    assert kind_and_address("https://ntfy.sh/t") == ("ntfy", "https://ntfy.sh/t")
    assert kind_and_address("https://discord.com/api/webhooks/1/x")[0] == "discord"
    assert kind_and_address("https://example.org/a+b") == ("json", "https://example.org/a+b")


@pytest.mark.slow
def test_a_webhook_error_is_retried_and_a_failure_hides_the_address(webhook: Webhook) -> None:
    webhook.statuses = [500, 503]
    send_alert(webhook.url, ALERT)
    assert len(webhook.received) == 3
    webhook.statuses = [404] * 3
    with pytest.raises(AlertError, match="status 404") as told:
        send_alert(webhook.url, ALERT)
    assert "topic-secret" not in str(told.value)
    with pytest.raises(AlertError, match="ConnectError"):
        send_alert("http://127.0.0.1:9/topic-secret", ALERT)


def ended(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, source: str = "stashdb", **tags: str
) -> dg.DagsterRun:
    """A run of refresh_source that ended so."""
    tags = {"dagster/partition": source, **{f"dagster/{name}": value for name, value in tags.items()}}
    return create_run_for_test(instance, job_name="refresh_source", status=status, tags=tags)


OK, BAD = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


def test_one_alert_is_sent_when_enough_runs_failed_in_a_row() -> None:
    with dg.DagsterInstance.ephemeral() as instance:

        def told(run: dg.DagsterRun) -> bool:
            return failure_alert(instance, run, [], after=2) is not None

        ended(instance, OK)
        assert not told(ended(instance, BAD))
        assert not told(ended(instance, BAD, source="fansdb")), "another source has a row of its own"
        assert told(ended(instance, BAD))
        assert not told(ended(instance, BAD)), "it was told already"
        ended(instance, OK)
        assert not told(ended(instance, BAD)), "a new row"
        assert told(ended(instance, BAD))


def test_a_crash_that_is_retried_counts_once() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        crashed = ended(instance, BAD, will_retry="true")
        assert failure_alert(instance, crashed, [], after=1) is None
        again = ended(instance, BAD, parent_run_id=crashed.run_id)
        assert failure_alert(instance, again, [], after=2) is None
        assert failure_alert(instance, again, [], after=1) is not None


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        ({"outcome": "blocked"}, "it answered blocked"),
        ({"outcome": "timeout", "breaker": "open"}, "circuit breaker opened"),
    ],
)
def test_a_source_that_blocks_requests_gives_an_alert_at_the_first_failure(
    outcome: dict[str, str], why: str
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        alert = failure_alert(instance, ended(instance, BAD), [outcome], after=3)
        assert alert is not None
        assert alert.kind == "blocked"
        assert why in alert.message
        again = failure_alert(instance, ended(instance, BAD), [outcome], after=3)
        assert again is None


def _failing_world(environment: Any, message: str) -> tuple[dg.Definitions, dg.DagsterRunStatus]:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["stashdb"]))
    def table() -> None:
        raise source_failure("stashdb", Outcome.TIMEOUT, message)

    job = dg.define_asset_job("refresh_source", [table])
    sensor = alerts.alert_on_failures(environment)
    return dg.Definitions(assets=[table], jobs=[job], sensors=[sensor]), BAD


@pytest.mark.slow
def test_a_real_failed_run_becomes_an_alert_without_its_message(webhook: Webhook, tmp_path: Path) -> None:
    """An alert holds nothing of what an exception said: it may name an address, a person or a password."""
    secret = "postgresql://stash:hunter2@db/x"
    environment = environment_at(tmp_path, STASH_SENSE_ALERT_URL=webhook.url, STASH_SENSE_ALERT_AFTER="1")
    definitions, _ = _failing_world(environment, f"{secret} host failed 5 times in a row and {CIRCUIT_OPEN}")
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def("refresh_source")
        result = job.execute_in_process(instance=instance, partition_key="stashdb", raise_on_error=False)
        event = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
        context = dg.build_run_status_sensor_context(
            "alert_on_failures", event, instance, result.dagster_run
        ).for_run_failure()
        definitions.get_sensor_def("alert_on_failures")(context)
    (_, body) = webhook.received[0]
    said = json.loads(body)
    assert (said["kind"], said["source"], said["run_id"]) == ("blocked", "stashdb", result.run_id)
    assert "hunter2" not in body.decode()


def test_without_an_alert_url_nothing_is_sent(settings: Settings, tmp_path: Path) -> None:
    definitions = build_defs(settings=settings, environment=environment_at(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, definitions=definitions)
        data = definitions.get_sensor_def("alert_on_stale_sources").evaluate_tick(context)
    assert "not set" in (data.skip_message or "")


@pytest.mark.slow
def test_a_stale_source_gives_one_alert_and_one_more_when_it_is_read_again(
    catalog: sa.Engine, webhook: Webhook, settings: Settings, tmp_path: Path
) -> None:
    environment = environment_at(
        tmp_path,
        STASH_SENSE_ALERT_URL=webhook.url,
        STASH_SENSE_CATALOG_URL=catalog.url.render_as_string(hide_password=False),
    )
    definitions = build_defs(settings=settings, environment=environment)
    sensor = definitions.get_sensor_def("alert_on_stale_sources")
    long_ago, now = datetime.now(UTC) - timedelta(hours=40), datetime.now(UTC)

    def read_at(**times: datetime) -> None:
        with writing(catalog) as connection:
            connection.execute(sa.delete(sync_state))
            rows = [{"source": name, "last_sync_at": at} for name, at in times.items()]
            connection.execute(sa.insert(sync_state), rows)

    with dg.DagsterInstance.ephemeral() as instance:

        def tick(cursor: str | None) -> str | None:
            context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
            return sensor.evaluate_tick(context).cursor

        read_at(stashdb=long_ago, fansdb=now)
        cursor = tick(None)
        cursor = tick(cursor)
        assert [json.loads(body)["title"] for _, body in webhook.received] == ["stashdb: stale"]
        read_at(stashdb=now, fansdb=now)
        tick(cursor)
        assert [json.loads(body)["kind"] for _, body in webhook.received] == ["stale", "fresh_again"]


def test_only_newly_stale_and_newly_read_sources_give_alerts() -> None:
    assert [alert.kind for alert in stale_alerts(["a"], ["a", "b"])] == ["stale"]
    assert [alert.kind for alert in stale_alerts(["a"], [])] == ["fresh_again"]


@pytest.mark.slow
def test_an_address_of_apprise_gets_the_title_and_the_message(webhook: Webhook) -> None:
    # Apprise gives up after 4 s, unless the address says otherwise.
    address = f"json://{webhook.url.removeprefix('http://')}?cto=120&rto=120"
    send_alert(address, ALERT)
    said = json.loads(webhook.received[0][1])
    assert (said["title"], said["message"], said["type"]) == (ALERT.title, ALERT.message, "warning")
    webhook.statuses = [500] * 3
    with pytest.raises(AlertError, match="refused it") as told:
        send_alert(address, ALERT)
    assert "topic-secret" not in str(told.value)


@pytest.mark.slow
def test_an_address_of_no_known_service_is_one_line_without_the_address() -> None:
    with pytest.raises(AlertError, match="not an address that Apprise knows") as told:
        send_alert("nosuchservice://topic-secret", ALERT)
    assert "topic-secret" not in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("https://example.org/hook", True),
        ("ntfy+http://10.0.0.5/topic", True),
        ("ntfys://ntfy.example.org/topic", True),
        ("mailto://user:secret@example.org", True),
        ("htps://example.org/hook", False),
        ("ntfy+ftp://example.org/topic", False),
        ("https:///topic", False),
        ("topic", False),
    ],
)
def test_the_forms_of_an_alert_address(url: str, known: bool) -> None:
    assert is_alert_address(url) is known


def test_only_newly_failed_and_newly_passed_checks_give_alerts() -> None:
    a, b = "x: t/c", "y: t/c"
    assert [(alert.kind, alert.source) for alert in check_alerts([a], [a, b])] == [("refused", "y")]
    assert [(alert.kind, alert.source) for alert in check_alerts([a], [])] == [("accepted", "x")]


@pytest.mark.slow
def test_the_check_of_a_source_keeps_its_verdict_while_other_sources_pass(
    webhook: Webhook, tmp_path: Path
) -> None:
    """One alert for the source that failed, none for the others, and one when it passes again."""
    environment = environment_at(tmp_path, STASH_SENSE_ALERT_URL=webhook.url)
    verdicts = {"a": False, "b": True}

    @dg.asset(check_specs=[dg.AssetCheckSpec("no_loss", asset="table")])
    def table(context):
        passed = verdicts[context.partition_key]
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(check_name="no_loss", passed=passed)])

    (asset,) = partitioned([table], dg.StaticPartitionsDefinition(["a", "b"]))
    definitions = dg.Definitions(
        assets=[asset],
        jobs=[dg.define_asset_job("refresh", [asset])],
        sensors=[alerts.alert_on_failed_checks(environment)],
    )
    sensor = definitions.get_sensor_def("alert_on_failed_checks")
    with dg.DagsterInstance.ephemeral() as instance:
        cursor: str | None = None
        for source, told in (("a", 1), ("b", 1), ("a", 1), ("b", 1)):
            definitions.resolve_job_def("refresh").execute_in_process(instance=instance, partition_key=source)
            context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
            cursor = sensor.evaluate_tick(context).cursor
            assert len(webhook.received) == told
        verdicts["a"] = True
        definitions.resolve_job_def("refresh").execute_in_process(instance=instance, partition_key="a")
        sensor.evaluate_tick(
            dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
        )
    said = [json.loads(body) for _, body in webhook.received]
    assert [(each["kind"], each["source"]) for each in said] == [("refused", "a"), ("accepted", "a")]


@pytest.mark.slow
def test_a_failed_run_shows_one_line_and_no_stack_trace(tmp_path: Path) -> None:
    definitions, _ = _failing_world(environment_at(tmp_path), "stashdb: it does not answer (timeout)")
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("refresh_source").execute_in_process(
            instance=instance, partition_key="stashdb", raise_on_error=False
        )
        vars(sys).pop("tracebacklimit", None)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    assert (error.stack, error.cause, error.context) == ([], None, None)
    assert "url of stashdb in sources.yaml" in error.message
