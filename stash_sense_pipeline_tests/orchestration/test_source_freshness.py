"""The check sources_fresh: it runs alone, on a schedule, and needs nothing but the catalog."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import sync_state
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.settings.schema import Settings

from .conftest import environment_at


def check_after(settings: Settings, data: Path, read: dict[str, timedelta]) -> dg.AssetCheckEvaluation:
    """The evaluation by the job check_freshness, with sources that were read these times ago."""
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    now = datetime.now(UTC)
    with writing(engine) as connection:
        rows = [{"source": name, "last_sync_at": now - ago} for name, ago in read.items()]
        connection.execute(sa.insert(sync_state), rows)
    engine.dispose()
    definitions = build_defs(settings=settings, environment=environment_at(data))
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def(names.CHECK_FRESHNESS_JOB).execute_in_process(instance=instance)
    assert result.success
    assert result.get_asset_materialization_events() == []
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hours", "stale"),
    [({}, 0), ({"fansdb": 35}, 0), ({"fansdb": 37}, 1), ({"fansdb": 37, "stashdb": 37}, 2)],
)
def test_a_source_read_more_than_36_hours_ago_is_a_warning(
    settings: Settings, tmp_path: Path, hours: dict[str, int], stale: int
) -> None:
    read = {source.name: timedelta(hours=hours.get(source.name, 1)) for source in settings.enabled}
    evaluation = check_after(settings, tmp_path, read)
    assert (evaluation.asset_key, evaluation.check_name) == (names.IDENTITY_GRAPH, "sources_fresh")
    assert (evaluation.passed, evaluation.metadata["stale"].value) == (stale == 0, stale)
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert not evaluation.blocking


@pytest.mark.slow
def test_an_enabled_source_that_was_never_read_is_stale_and_a_disabled_one_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    read = {source.name: timedelta(0) for source in settings.enabled if source.name != "javstash"}
    evaluation = check_after(settings, tmp_path, read)
    table = [tuple(record.data.values()) for record in evaluation.metadata["sources"].value.records]
    assert evaluation.metadata["stale"].value == 1
    assert ("javstash", "never", "stale") in table
    assert "babepedia" not in {source for source, _, _ in table}


def test_the_check_is_scheduled_four_times_a_day_and_is_part_of_publish(definitions: dg.Definitions) -> None:
    schedule = definitions.get_schedule_def("freshness_check")
    assert (schedule.job_name, schedule.cron_schedule) == (names.CHECK_FRESHNESS_JOB, "0 */6 * * *")
    keys = []
    for hour in (0, 6):
        at = datetime(2026, 1, 1, hour, tzinfo=UTC)
        data = schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=at))
        keys += [request.run_key for request in data.run_requests or []]
    assert len(set(keys)) == 2
    for job in (names.PUBLISH_JOB, names.CHECK_FRESHNESS_JOB):
        assert "identity_graph_sources_fresh" in {
            node.name for node in definitions.resolve_job_def(job).nodes
        }
