"""The schedule and the sensors: ticks evaluated against an instance with real events and runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg
from dagster._core.test_utils import create_run_for_test

from stash_sense_pipeline.orchestration.schedules import nightly_enrichment
from stash_sense_pipeline.orchestration.sensors import embed_when_refreshed, publish_when_changed
from stash_sense_pipeline.settings import Settings
from stash_sense_pipeline_tests.orchestration.conftest import materialize_runless


def _tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, definitions: dg.Definitions, cursor: str | None
) -> tuple[list[dg.RunRequest], str | None]:
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    data = sensor.evaluate_tick(context)
    return list(data.run_requests or []), data.cursor


def test_the_night_refreshes_every_enabled_source_once(
    definitions: dg.Definitions, settings: Settings
) -> None:
    at = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)
    context = dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    )
    requests = nightly_enrichment(settings).evaluate_tick(context).run_requests or []
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
