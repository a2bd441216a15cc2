"""The schedule and the sensors: ticks evaluated against an instance with real events and runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import hypothesis
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.automation import sensors
from stash_sense_pipeline.orchestration.automation.alerts import alert_on_stale_sources
from stash_sense_pipeline.orchestration.automation.schedules import nightly_enrichment, weekly_sweep
from stash_sense_pipeline.orchestration.automation.sensors import (
    embed_when_refreshed,
    publish_when_changed,
    stash_box_updates,
)
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline.sources.connections import unusable
from stash_sense_pipeline.sources.source_polling import Poll, poll_sources
from stash_sense_pipeline_tests.orchestration.conftest import (
    environment_at,
    materialize_runless,
    ready_environment_at,
)
from stash_sense_pipeline_tests.rendered_pictures import rendered


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The shipped sources.yaml with a contact address, as an operator fills it in."""
    contact = settings.global_.model_copy(update={"user_agent_contact": "operator@mail.example"})
    return settings.model_copy(update={"global_": contact})


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """The definitions for the shipped sources: sensors ask them for the partitions, schedules for the jobs."""
    shipped = load_settings(shipped_file("sources.yaml"))
    return build_defs(settings=shipped, environment=environment_at(tmp_path_factory.mktemp("definitions")))


@pytest.fixture
def ready(tmp_path: Path) -> Environment:
    """An environment in which runs can succeed."""
    return ready_environment_at(tmp_path)


def _tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, definitions: dg.Definitions, cursor: str | None
) -> tuple[list[dg.RunRequest], str | None]:
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    data = sensor.evaluate_tick(context)
    return list(data.run_requests or []), data.cursor


def test_the_nightly_schedule_refreshes_every_enabled_source_once(
    definitions: dg.Definitions, settings: Settings, ready: Environment
) -> None:
    at = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)
    context = dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    )
    requests = nightly_enrichment(settings, ready).evaluate_tick(context).run_requests or []
    enabled = [source.name for source in settings.enabled]
    assert [request.partition_key for request in requests] == enabled
    assert [request.tags["source"] for request in requests] == enabled
    assert len({request.run_key for request in requests}) == len(enabled)
    assert all("2026-03-04" in (request.run_key or "") for request in requests)
    priorities = [int(request.tags["dagster/priority"]) for request in requests]
    assert priorities == sorted(priorities, reverse=True)


@pytest.mark.slow
def test_new_aligned_faces_are_embedded_once(definitions: dg.Definitions, ready: Environment) -> None:
    sensor = embed_when_refreshed(ready)
    with dg.DagsterInstance.ephemeral() as instance:
        assert _tick(sensor, instance, definitions, None) == ([], None)
        materialize_runless(instance, "aligned_faces", "stashdb")
        materialize_runless(instance, "aligned_faces", "fansdb")
        requests, cursor = _tick(sensor, instance, definitions, None)
        assert sorted(request.partition_key or "" for request in requests) == ["fansdb", "stashdb"]
        assert {request.tags["embed"] for request in requests} == {"fansdb", "stashdb"}
        assert _tick(sensor, instance, definitions, cursor) == ([], cursor)
        materialize_runless(instance, "aligned_faces", "stashdb")
        requests, cursor = _tick(sensor, instance, definitions, cursor)
        assert [request.partition_key for request in requests] == ["stashdb"]
        assert set(json.loads(cursor or "")) == {"fansdb", "stashdb"}


@pytest.mark.slow
def test_a_refresh_that_leaves_no_face_to_embed_starts_no_embedding_and_does_not_delay_publishing(
    definitions: dg.Definitions, ready: Environment
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for source, waiting in (("stashdb", 0), ("fansdb", 3)):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    "aligned_faces", partition=source, metadata={"faces_waiting": waiting}
                )
            )
        materialize_runless(instance, "performer_table", "stashdb")
        requests, cursor = _tick(embed_when_refreshed(ready), instance, definitions, None)
        assert [request.partition_key for request in requests] == ["fansdb"]
        assert set(json.loads(cursor or "")) == {"fansdb", "stashdb"}
        assert _tick(publish_when_changed(ready), instance, definitions, None)[0] == []
        materialize_runless(instance, "face_embeddings", "fansdb")
        assert len(_tick(publish_when_changed(ready), instance, definitions, None)[0]) == 1


@pytest.mark.slow
def test_a_change_is_published_once_no_refresh_or_embedding_is_in_flight(
    definitions: dg.Definitions, ready: Environment
) -> None:
    sensor = publish_when_changed(ready)
    with dg.DagsterInstance.ephemeral() as instance:
        assert _tick(sensor, instance, definitions, None)[0] == []
        materialize_runless(instance, "performer_table", "stashdb")
        running = create_run_for_test(instance, job_name="refresh_source", status=dg.DagsterRunStatus.STARTED)
        waiting = create_run_for_test(instance, job_name="embed_faces", status=dg.DagsterRunStatus.STARTING)
        assert _tick(sensor, instance, definitions, None)[0] == []
        instance.report_run_canceled(running)
        assert _tick(sensor, instance, definitions, None)[0] == []
        instance.report_run_failed(waiting)
        requests, cursor = _tick(sensor, instance, definitions, None)
        assert len(requests) == 1
        assert _tick(sensor, instance, definitions, cursor)[0] == []


@pytest.mark.slow
def test_publishing_waits_for_new_faces_that_have_no_embedding(
    definitions: dg.Definitions, ready: Environment
) -> None:
    sensor = publish_when_changed(ready)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_runless(instance, "performer_table", "stashdb")
        materialize_runless(instance, "aligned_faces", "stashdb")
        assert _tick(sensor, instance, definitions, None)[0] == []
        materialize_runless(instance, "face_embeddings", "stashdb")
        assert len(_tick(sensor, instance, definitions, None)[0]) == 1


@pytest.mark.slow
def test_a_changed_stash_box_is_refreshed_once_and_a_broken_one_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine five seconds can be too few; test_source_polling.py tests the limit.
    monkeypatch.setattr(sensors, "poll_sources", partial(poll_sources, seconds=240))
    with SandboxServers(make_demo_world(seed=3, people=12), pictures=rendered()) as servers:
        file = tmp_path / "sources.yaml"
        file.write_text(yaml.safe_dump(sources_settings(servers)))
        environment = ready_environment_at(tmp_path, **servers.environment())
        settings = load_settings(file)
        definitions = build_defs(settings=settings, environment=environment)
        sensor = stash_box_updates(settings, environment)
        with dg.DagsterInstance.ephemeral() as instance:
            broken = servers.traffic.inject(Fault(FaultKind.STATUS, box="fansdb", times=None))
            requests, cursor = _tick(sensor, instance, definitions, None)
            assert broken.done == 1, "the next tick asks again"
            others = {"stashdb", "theporndb", "pmvstash", "javstash"}
            assert {request.partition_key for request in requests} == others
            assert {request.tags["source"] for request in requests} == others
            assert _tick(sensor, instance, definitions, cursor) == ([], cursor)
            servers.traffic.clear_faults()
            box = servers.world.boxes["pmvstash"]
            box.edit(next(iter(box.performers)), disambiguation="changed")
            requests, cursor = _tick(sensor, instance, definitions, cursor)
            assert {request.partition_key for request in requests} == {"fansdb", "pmvstash"}
            assert _tick(sensor, instance, definitions, cursor)[0] == []


def test_the_weekly_schedule_sweeps_every_stash_box(
    definitions: dg.Definitions, settings: Settings, ready: Environment
) -> None:
    at = datetime(2026, 3, 8, 5, 0, tzinfo=UTC)
    context = dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    )
    requests = weekly_sweep(settings, ready).evaluate_tick(context).run_requests or []
    assert [request.partition_key for request in requests] == [source.name for source in settings.enabled]
    for request in requests:
        assert request.run_config["ops"]["performer_table"]["config"]["sync"] == "FULL_SWEEP"


@pytest.mark.slow
def test_no_update_is_lost_and_none_is_published_twice(
    definitions: dg.Definitions, ready: Environment
) -> None:
    """Events that land between the look and the publish are seen by the next look."""
    sensor = publish_when_changed(ready)
    published: list[str | None] = []
    cursor: str | None = None
    with dg.DagsterInstance.ephemeral() as instance:
        for step in ("e", "T", "T", "e", "e", "T", "e", "T", "T"):
            if step == "e":
                materialize_runless(instance, "face_embeddings", "fansdb")
                continue
            requests, cursor = _tick(sensor, instance, definitions, cursor)
            published += [request.run_key for request in requests]
    assert len(published) == 3
    assert len(set(published)) == 3


@pytest.mark.slow
def test_the_nightly_schedule_leaves_out_a_site_without_its_page_solver(tmp_path: Path) -> None:
    sites = {
        "babepedia": {"enabled": True, "needs_flaresolverr": True},
        "indexxx": {"enabled": True, "needs_chrome_cdp": True},
        "thenude": {"enabled": True},
        "afdb": {"enabled": True, "reference_mode": "name"},
        "freeones": {"enabled": False},
    }
    boxes = {"stashdb": {"url": "http://127.0.0.1:9/graphql"}}
    path = tmp_path / "sources.yaml"
    told = {"user_agent_contact": "operator@mail.example"}
    given = {"global": told, "stash_boxes": boxes, "reference_sites": sites}
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    settings = load_settings(path)
    at = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)

    def asked(**variables: str) -> list[str]:
        environment = ready_environment_at(tmp_path, **variables)
        repository = build_defs(settings=settings, environment=environment).get_repository_def()
        context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=repository)
        schedule = nightly_enrichment(settings, environment)
        requests = schedule.evaluate_tick(context).run_requests or []
        return [request.partition_key or "" for request in requests]

    # The stash-box first: a site only adds to performers that it has.
    assert asked() == ["stashdb", "thenude"]
    assert asked(FLARESOLVERR_URL="http://127.0.0.1:8191") == ["stashdb", "babepedia", "thenude"]
    assert asked(CHROME_CDP_URL="http://127.0.0.1:9222") == ["stashdb", "indexxx", "thenude"]
    assert asked(CHROME_CDP_URL="http://192.0.2.1:9222") == ["stashdb", "thenude"]
    assert "no search by name" in (unusable(settings, environment_at(tmp_path), "afdb") or "")
    assert "not enabled" in (unusable(settings, environment_at(tmp_path), "freeones") or "")


@pytest.fixture(scope="module")
def two_boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, dg.Definitions]:
    """An environment in which runs can succeed, and the definitions of two sources."""
    directory = tmp_path_factory.mktemp("two boxes")
    environment = ready_environment_at(directory, STASH_SENSE_ALERT_URL="http://127.0.0.1:9/x")
    return environment, build_defs(settings=_two_boxes(directory), environment=environment)


# Names that an event, a run or a cursor of the past can hold: sources that are there, and sources that are not.
PAST_SOURCES = st.sampled_from(
    ["stashdb", "fansdb", "theporndb", "removed_box", "javstash-old", "", " ", "a,b", "ünï", "x" * 300]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CURSORS = (
    st.none()
    | st.text(max_size=20)
    | JSON_VALUES.map(json.dumps)
    | st.dictionaries(PAST_SOURCES, st.integers() | st.text(max_size=8) | st.none(), max_size=4).map(
        json.dumps
    )
)


@pytest.mark.slow
@hypothesis.settings(max_examples=25)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["performer_table", "aligned_faces", "face_embeddings"]),
            PAST_SOURCES | st.none(),
        ),
        max_size=6,
    ),
    cursor=CURSORS,
    failed=st.none() | PAST_SOURCES,
)
def test_no_old_event_run_or_cursor_stops_a_sensor(
    two_boxes: tuple[Environment, dg.Definitions],
    events: list[tuple[str, str | None]],
    cursor: str | None,
    failed: str | None,
) -> None:
    """Sources were renamed, taken out or switched off since, and an older program wrote the cursor."""
    environment, definitions = two_boxes
    with dg.DagsterInstance.ephemeral() as instance:
        for key, partition in events:
            materialize_runless(instance, key, partition)
        if failed is not None:
            create_run_for_test(
                instance,
                job_name="refresh_source",
                status=dg.DagsterRunStatus.FAILURE,
                tags={"dagster/partition": failed, "source": failed},
            )
        with monkeypatched_polls():
            for sensor in definitions.get_repository_def().sensor_defs:
                if isinstance(sensor, dg.RunStatusSensorDefinition):
                    continue
                requests, _ = _tick(sensor, instance, definitions, cursor)
                assert {request.partition_key for request in requests} <= {"stashdb", "fansdb", None}
        requests, _ = _tick(embed_when_refreshed(environment), instance, definitions, cursor)
        aligned = {partition for key, partition in events if key == "aligned_faces"}
        # A cursor that is a number can only stand for a state that was seen, and these ids are small.
        if cursor is None:
            assert {request.partition_key for request in requests} == aligned & {"stashdb", "fansdb"}


def _two_boxes(directory: Path) -> Settings:
    """Two of the known sources: every other one was taken out."""
    file = directory / "sources.yaml"
    boxes = {
        "stashdb": {"url": "http://127.0.0.1:9/graphql"},
        "fansdb": {"url": "http://127.0.0.1:9/graphql", "enabled": False},
    }
    file.write_text(yaml.safe_dump({"stash_boxes": boxes}))
    return load_settings(file)


@contextmanager
def monkeypatched_polls() -> Iterator[list[str]]:
    """Every stash-box has news, and no request is sent. Yields the names of those that were polled."""
    polled: list[str] = []

    async def news(_settings: Settings, _environment: Environment, asked: Sequence[str]) -> list[Poll]:
        polled.extend(asked)
        return [Poll(name, "2026-01-01T00:00:00Z", None) for name in asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensors, "poll_sources", news)
        yield polled


def test_schedules_request_only_sources_that_have_a_partition(tmp_path: Path) -> None:
    settings, environment = _two_boxes(tmp_path), ready_environment_at(tmp_path)
    definitions = build_defs(settings=settings, environment=environment)
    at = datetime(2026, 3, 8, 5, 0, tzinfo=UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_runless(instance, "performer_table", "removed_box")
        for schedule in definitions.get_repository_def().schedule_defs:
            context = dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=at,
                repository_def=definitions.get_repository_def(),
            )
            requests = schedule.evaluate_tick(context).run_requests or []
            assert {request.partition_key for request in requests} <= {"stashdb", None}


def test_faces_of_a_removed_source_do_not_delay_publishing(
    definitions: dg.Definitions, ready: Environment
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_runless(instance, "aligned_faces", "removed_box")
        materialize_runless(instance, "performer_table", "stashdb")
        assert len(_tick(publish_when_changed(ready), instance, definitions, None)[0]) == 1


@pytest.mark.slow
def test_a_cursor_of_a_lost_run_history_does_not_silence_a_sensor(
    definitions: dg.Definitions, ready: Environment
) -> None:
    """The ids of events begin at 1 in a new history; the cursor has the larger ones of the old."""
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_runless(instance, "performer_table", "stashdb")
        materialize_runless(instance, "aligned_faces", "stashdb")
        materialize_runless(instance, "face_embeddings", "stashdb")
        assert len(_tick(publish_when_changed(ready), instance, definitions, "500000")[0]) == 1
        old = json.dumps({"stashdb": 500000})
        assert len(_tick(embed_when_refreshed(ready), instance, definitions, old)[0]) == 1


@pytest.mark.slow
def test_what_a_build_has_embedded_and_published_is_not_requested_again(
    definitions: dg.Definitions, ready: Environment
) -> None:
    """The runs of a build, from the UI or the command line, are no runs of the sensors."""
    with dg.DagsterInstance.ephemeral() as instance:
        for key in ("performer_table", "aligned_faces"):
            materialize_runless(instance, key, "stashdb")
        assert len(_tick(embed_when_refreshed(ready), instance, definitions, None)[0]) == 1
        assert len(_tick(publish_when_changed(ready), instance, definitions, None)[0]) == 0, "faces wait"
        after = _newest_event(instance, names.ALIGNED_FACES) + 1
        for job, tags in (("embed_faces", {"dagster/partition": "stashdb"}), ("publish", {})):
            _successful_run(instance, job, tags, after)
        assert _tick(embed_when_refreshed(ready), instance, definitions, None)[0] == []
        requests, cursor = _tick(publish_when_changed(ready), instance, definitions, None)
        assert requests == []
        assert cursor is not None, "what was published is not looked at again"
        materialize_runless(instance, "performer_table", "stashdb")
        _successful_run(instance, "publish", {}, _newest_event(instance, names.PERFORMER_TABLE) - 1)
        assert len(_tick(publish_when_changed(ready), instance, definitions, cursor)[0]) == 1, (
            "it began before"
        )


def _newest_event(instance: dg.DagsterInstance, key: dg.AssetKey) -> float:
    """When an asset was last materialized, in seconds since the epoch."""
    (record,) = instance.fetch_materializations(key, limit=1).records
    return record.timestamp


def _successful_run(instance: dg.DagsterInstance, job: str, tags: dict[str, str], started: float) -> None:
    """A run that began at `started`, in seconds since the epoch."""
    run = create_run_for_test(instance, job_name=job, status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        connection.execute(
            sa.update(RunsTable).where(RunsTable.c.run_id == run.run_id).values(start_time=started)
        )


def test_no_sensor_starts_runs_while_a_build_is_in_progress(
    definitions: dg.Definitions, ready: Environment
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for key in ("performer_table", "aligned_faces"):
            materialize_runless(instance, key, "stashdb")
        create_run_for_test(instance, job_name="build_everything", status=dg.DagsterRunStatus.STARTED)
        assert _tick(embed_when_refreshed(ready), instance, definitions, None)[0] == []
        assert _tick(publish_when_changed(ready), instance, definitions, None)[0] == []


@pytest.mark.slow
def test_a_stale_source_that_was_removed_gives_no_alert_that_it_is_fresh_again(tmp_path: Path) -> None:
    posts: list[bytes] = []
    with alert_server(posts) as url:
        environment = environment_at(tmp_path, STASH_SENSE_ALERT_URL=url)
        settings = _two_boxes(tmp_path)
        definitions = build_defs(settings=settings, environment=environment)
        sensor = alert_on_stale_sources(settings, environment)
        with dg.DagsterInstance.ephemeral() as instance:
            told = json.dumps(["fansdb", "removed_box", "stashdb", 7])
            _, cursor = _tick(sensor, instance, definitions, told)
    assert cursor == "[]"
    # Only stashdb is enabled: it alone can be fresh again.
    assert len(posts) == 1
    assert b"stashdb" in posts[0]


@contextmanager
def alert_server(posts: list[bytes]) -> Iterator[str]:
    """A webhook on loopback that keeps what it is sent."""

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook"
        finally:
            server.shutdown()


STATES = dg.DagsterRunStatus


def _aged_run(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, age: timedelta, job: str = "refresh_source"
) -> dg.DagsterRun:
    """A run that changed its state `age` ago."""
    location = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="stash_sense_pipeline.definitions")
    )
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job)
    run = create_run_for_test(instance, job_name=job, status=status, remote_job_origin=origin)
    at = (datetime.now(UTC) - age).replace(tzinfo=None)
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        connection.execute(
            sa.update(RunsTable)
            .where(RunsTable.c.run_id == run.run_id)
            .values(create_timestamp=at, update_timestamp=at)
        )
    return run


@pytest.mark.parametrize("job", ["refresh_source", "embed_faces"])
@pytest.mark.parametrize(
    ("status", "minutes", "holds"),
    [
        (STATES.NOT_STARTED, 2, True),
        (STATES.NOT_STARTED, 60, False),
        (STATES.STARTING, 2, True),
        (STATES.STARTING, 60, False),
        (STATES.CANCELING, 2, True),
        (STATES.CANCELING, 60, False),
        (STATES.QUEUED, 2, True),
        (STATES.QUEUED, 60, False),
        # A first build of the largest source takes days.
        (STATES.STARTED, 60 * 42, True),
        (STATES.FAILURE, 0, False),
    ],
)
def test_a_run_that_a_crash_left_between_two_states_does_not_delay_publishing(
    definitions: dg.Definitions,
    ready: Environment,
    job: str,
    status: dg.DagsterRunStatus,
    minutes: int,
    holds: bool,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _aged_run(instance, status, timedelta(minutes=minutes), job)
        materialize_runless(instance, "performer_table", "stashdb")
        requests, _ = _tick(publish_when_changed(ready), instance, definitions, None)
    assert bool(requests) is not holds


@pytest.mark.parametrize(
    ("other", "minutes"), [(STATES.STARTED, 600), (STATES.SUCCESS, 1), (STATES.STARTING, 1)]
)
def test_publishing_waits_for_an_old_queued_run_while_other_runs_are_active(
    definitions: dg.Definitions, ready: Environment, other: dg.DagsterRunStatus, minutes: int
) -> None:
    """It waited for its turn: what is in front of it runs, or has just ended."""
    with dg.DagsterInstance.ephemeral() as instance:
        _aged_run(instance, STATES.QUEUED, timedelta(hours=20))
        _aged_run(instance, other, timedelta(minutes=minutes), "publish")
        materialize_runless(instance, "performer_table", "stashdb")
        assert _tick(publish_when_changed(ready), instance, definitions, None)[0] == []


# --- automation waits until its runs can succeed ---


def _skipped(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, definitions: dg.Definitions, cursor: str | None
) -> str:
    """The reason of a tick that requests nothing and leaves its cursor."""
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    data = sensor.evaluate_tick(context)
    assert not data.run_requests
    assert data.cursor == cursor
    return data.skip_message or ""


# What is missing: settings of the environment, and a word of the reason.
UNREADY = [
    ({"STASH_SENSE_MODEL_PACK": "stash-sense-v1"}, "models pull stash-sense-v1"),
    (
        {"STASH_SENSE_CATALOG_URL": "postgresql://stash:hunter2@127.0.0.1:9/catalog"},
        "cannot open the catalog",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "reason"), UNREADY)
def test_faces_that_came_while_runs_could_not_succeed_are_embedded_and_published_later(
    definitions: dg.Definitions, tmp_path: Path, ready: Environment, variables: dict[str, str], reason: str
) -> None:
    unready = ready_environment_at(tmp_path, **variables)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_runless(instance, "performer_table", "stashdb")
        materialize_runless(instance, "aligned_faces", "stashdb")
        said = _skipped(embed_when_refreshed(unready), instance, definitions, None)
        assert reason in said
        assert "hunter2" not in said
        requests, cursor = _tick(embed_when_refreshed(ready), instance, definitions, None)
        assert [request.partition_key for request in requests] == ["stashdb"]
        assert _tick(embed_when_refreshed(unready), instance, definitions, cursor)[0] == []
        materialize_runless(instance, "face_embeddings", "stashdb")
        assert reason in _skipped(publish_when_changed(unready), instance, definitions, None)
        assert len(_tick(publish_when_changed(ready), instance, definitions, None)[0]) == 1


@pytest.mark.parametrize(
    ("variables", "contact", "reason"),
    [
        *((variables, True, reason) for variables, reason in UNREADY),
        ({}, False, "stashdb: no contact address; set global.user_agent_contact"),
        ({"STASHDB_API_KEY": ""}, True, "no key; set STASHDB_API_KEY"),
        (
            {"STASHDB_API_KEY": "", "STASHDB_API_KEY_FILE": "/none"},
            True,
            "STASHDB_API_KEY_FILE: /none cannot be read",
        ),
    ],
)
def test_news_that_were_there_while_runs_could_not_succeed_are_read_later(
    tmp_path: Path, ready: Environment, variables: dict[str, str], contact: bool, reason: str
) -> None:
    """Before that no source is polled: a request without a contact address would be one too many."""
    file = tmp_path / "sources.yaml"

    def written(address: str) -> Settings:
        told = {"user_agent_contact": address}
        box = {"url": "https://stash-box.example.org/graphql"}
        file.write_text(yaml.safe_dump({"global": told, "stash_boxes": {"stashdb": box}}))
        return load_settings(file)

    settings = written("operator@mail.example")
    unready = ready_environment_at(tmp_path, **variables)
    definitions = build_defs(settings=settings, environment=ready)
    with dg.DagsterInstance.ephemeral() as instance, monkeypatched_polls() as polled:
        sensor = stash_box_updates(settings if contact else written(""), unready)
        assert reason in _skipped(sensor, instance, definitions, None)
        old = json.dumps({"stashdb": "2020-01-01T00:00:00Z"})
        assert reason in _skipped(sensor, instance, definitions, old)
        assert polled == []
        requests, cursor = _tick(stash_box_updates(settings, ready), instance, definitions, None)
        assert [request.partition_key for request in requests] == ["stashdb"]
        assert polled == ["stashdb"]
        assert cursor is not None


def test_a_stash_box_without_its_key_does_not_stop_the_others(
    tmp_path: Path, settings: Settings, definitions: dg.Definitions
) -> None:
    environment = ready_environment_at(tmp_path, STASHDB_API_KEY="", FANSDB_API_KEY="")
    others = {"theporndb", "pmvstash", "javstash"}
    with dg.DagsterInstance.ephemeral() as instance, monkeypatched_polls():
        requests, cursor = _tick(stash_box_updates(settings, environment), instance, definitions, None)
        assert {request.partition_key for request in requests} == others
        assert set(json.loads(cursor or "")) == others
        requests, _ = _tick(
            stash_box_updates(settings, ready_environment_at(tmp_path)), instance, definitions, cursor
        )
        assert {request.partition_key for request in requests} == {"stashdb", "fansdb"}
    at = datetime(2026, 3, 8, 5, 0, tzinfo=UTC)
    context = dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    )
    for schedule in (nightly_enrichment(settings, environment), weekly_sweep(settings, environment)):
        found = schedule.evaluate_tick(context).run_requests or []
        assert {request.partition_key for request in found} == others


@pytest.mark.parametrize(("variables", "reason"), UNREADY)
def test_every_schedule_skips_with_the_reason_while_its_runs_cannot_succeed(
    tmp_path: Path, settings: Settings, variables: dict[str, str], reason: str
) -> None:
    environment = ready_environment_at(tmp_path, **variables)
    repository = build_defs(settings=settings, environment=environment).get_repository_def()
    at = datetime(2026, 3, 8, 5, 0, tzinfo=UTC)
    context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=repository)
    for schedule in repository.schedule_defs:
        tick = schedule.evaluate_tick(context)
        if schedule.name == "freshness_check" and "catalog" not in reason:
            # It reads the catalog only.
            assert len(tick.run_requests or []) == 1
            continue
        assert not tick.run_requests, schedule.name
        assert reason in (tick.skip_message or ""), schedule.name


def test_the_reason_that_all_sources_share_is_told_once(tmp_path: Path, ready: Environment) -> None:
    shipped = load_settings(shipped_file("sources.yaml"))
    repository = build_defs(settings=shipped, environment=ready).get_repository_def()
    at = datetime(2026, 3, 8, 2, 30, tzinfo=UTC)
    context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=repository)
    tick = nightly_enrichment(shipped, ready).evaluate_tick(context)
    assert tick.skip_message == (
        "stashdb, theporndb, pmvstash, javstash, fansdb: no contact address; "
        "set global.user_agent_contact in sources.yaml"
    )


def test_stale_sources_are_told_later_when_the_catalog_cannot_be_opened(
    tmp_path: Path, settings: Settings, definitions: dg.Definitions
) -> None:
    posts: list[bytes] = []
    with alert_server(posts) as url, dg.DagsterInstance.ephemeral() as instance:
        environment = ready_environment_at(
            tmp_path,
            STASH_SENSE_ALERT_URL=url,
            STASH_SENSE_CATALOG_URL="postgresql://stash:hunter2@127.0.0.1:9/catalog",
        )
        told = json.dumps(["stashdb"])
        sensor = alert_on_stale_sources(settings, environment)
        assert "cannot open the catalog" in _skipped(sensor, instance, definitions, told)
    assert posts == []
