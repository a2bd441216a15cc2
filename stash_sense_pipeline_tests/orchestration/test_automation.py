"""The schedule and the sensors: ticks evaluated against an instance with real events and runs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.test_utils import create_run_for_test

from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.orchestration.asking import unusable
from stash_sense_pipeline.orchestration.schedules import nightly_enrichment, weekly_sweep
from stash_sense_pipeline.orchestration.sensors import (
    embed_when_refreshed,
    publish_when_changed,
    stash_box_updates,
)
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.serve import SandboxServers, sources_settings
from stash_sense_pipeline.sandbox.world import World
from stash_sense_pipeline.settings import Settings, load_settings
from stash_sense_pipeline_tests.orchestration.conftest import environment_at, materialize_runless


def _tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, definitions: dg.Definitions, cursor: str | None
) -> tuple[list[dg.RunRequest], str | None]:
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    data = sensor.evaluate_tick(context)
    return list(data.run_requests or []), data.cursor


def test_the_night_refreshes_every_enabled_source_once(
    definitions: dg.Definitions, settings: Settings, tmp_path: Path
) -> None:
    at = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)
    context = dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    )
    requests = (
        nightly_enrichment(settings, environment_at(tmp_path)).evaluate_tick(context).run_requests or []
    )
    enabled = [source.name for source in settings.enabled]
    assert [request.partition_key for request in requests] == enabled
    assert [request.tags["source"] for request in requests] == enabled
    assert len({request.run_key for request in requests}) == len(enabled)
    assert all("2026-03-04" in (request.run_key or "") for request in requests)
    priorities = [int(request.tags["dagster/priority"]) for request in requests]
    assert priorities == sorted(priorities, reverse=True)


def test_new_aligned_faces_are_embedded_once(definitions: dg.Definitions) -> None:
    sensor = embed_when_refreshed()
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


def test_a_change_is_published_when_all_sources_have_settled(definitions: dg.Definitions) -> None:
    sensor = publish_when_changed()
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


def test_faces_that_are_about_to_be_embedded_are_waited_for(definitions: dg.Definitions) -> None:
    sensor = publish_when_changed()
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_runless(instance, "performer_table", "stashdb")
        materialize_runless(instance, "aligned_faces", "stashdb")
        assert _tick(sensor, instance, definitions, None)[0] == []
        materialize_runless(instance, "face_embeddings", "stashdb")
        assert len(_tick(sensor, instance, definitions, None)[0]) == 1


@pytest.mark.slow
def test_a_stash_box_with_news_is_refreshed_once_and_a_broken_one_stops_nobody(tmp_path: Path) -> None:
    with SandboxServers(World.demo(seed=3, people=12)) as servers:
        file = tmp_path / "sources.yaml"
        file.write_text(yaml.safe_dump(sources_settings(servers)))
        environment = environment_at(tmp_path, **servers.environment())
        settings = load_settings(file)
        definitions = build_defs(settings=settings, environment=environment)
        sensor = stash_box_updates(settings, environment)
        with dg.DagsterInstance.ephemeral() as instance:
            servers.traffic.inject(Fault(FaultKind.HANG, box="fansdb", times=None))
            begun = time.monotonic()
            requests, cursor = _tick(sensor, instance, definitions, None)
            assert time.monotonic() - begun < 20
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


def test_the_week_ends_with_a_full_sweep_of_every_stash_box(
    definitions: dg.Definitions, settings: Settings, tmp_path: Path
) -> None:
    at = datetime(2026, 3, 8, 5, 0, tzinfo=UTC)
    context = dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    )
    requests = weekly_sweep(settings).evaluate_tick(context).run_requests or []
    assert [request.partition_key for request in requests] == [source.name for source in settings.enabled]
    for request in requests:
        assert request.run_config["ops"]["performer_table"]["config"]["sync"] == "FULL_SWEEP"


def test_no_update_is_lost_and_none_is_published_twice(definitions: dg.Definitions) -> None:
    """Events that land between the look and the publish are seen by the next look."""
    sensor = publish_when_changed()
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


def test_a_site_that_cannot_be_asked_here_is_left_out_of_the_night(tmp_path: Path) -> None:
    sites = {
        "babepedia": {"enabled": True, "needs_flaresolverr": True},
        "indexxx": {"enabled": True, "needs_chrome_cdp": True},
        "thenude": {"enabled": True},
        "afdb": {"enabled": True, "reference_mode": "name"},
        "freeones": {"enabled": False},
    }
    boxes = {"stashdb": {"url": "http://127.0.0.1:9/graphql"}}
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump({"stash_boxes": boxes, "reference_sites": sites}, sort_keys=False))
    settings = load_settings(path)
    at = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)

    def asked(**variables: str) -> list[str]:
        environment = environment_at(tmp_path, **variables)
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
