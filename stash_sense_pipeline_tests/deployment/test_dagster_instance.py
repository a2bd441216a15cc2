"""dagster.yaml, workspace.yaml and the run history: Dagster loads them, and they hold the limits."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.test_utils import create_run_for_test

from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.orchestration.names import EMBED_TAG, SOURCE_TAG


@pytest.mark.slow
def test_dagster_loads_the_shipped_dagster_yaml(tmp_path: Path) -> None:
    with open_instance(tmp_path / "home") as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
        assert instance.get_settings("run_monitoring")["free_slots_after_run_end_seconds"] == 60
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        assert {limit["key"]: limit["limit"] for limit in limits.tag_concurrency_limits} == {
            SOURCE_TAG: 1,
            EMBED_TAG: 1,
        }


def test_an_existing_dagster_yaml_is_kept(tmp_path: Path) -> None:
    mine = tmp_path / "dagster.yaml"
    mine.write_text("telemetry: {enabled: false}\n")
    prepare_home(tmp_path)
    assert mine.read_text() == "telemetry: {enabled: false}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "module"),
    [("WatchedRunLauncher", "process_launcher"), ("PoolDockerRunLauncher", "docker_launcher")],
)
def test_a_dagster_yaml_of_an_earlier_version_gets_the_new_module_of_its_run_launcher(
    tmp_path: Path, written: str, module: str
) -> None:
    mine = tmp_path / "dagster.yaml"
    text = (
        "# stash_sense_pipeline.orchestration.execution was here\n"
        "run_launcher:\n  module: {module}\n  class: {written}\ntelemetry: {{enabled: true}}\n"
    )
    old = text.format(module="stash_sense_pipeline.orchestration.execution", written=written)
    mine.write_text(old)
    mine.chmod(0o640)
    prepare_home(tmp_path)
    assert mine.read_text() == text.format(
        module=f"stash_sense_pipeline.deployment.{module}", written=written
    )
    assert mine.stat().st_mode & 0o777 == 0o640
    prepare_home(tmp_path)
    if written == "WatchedRunLauncher":
        with open_instance(tmp_path) as instance:
            assert type(instance.run_launcher).__name__ == written


def test_the_code_location_has_one_name_everywhere() -> None:
    workspace = yaml.safe_load(shipped_file("workspace.yaml").read_text())
    module = workspace["load_from"][0]["python_module"]
    project = Path(shipped_file("workspace.yaml").parent / "pyproject.toml").read_text()
    assert module["location_name"] == "stash_sense"
    assert project.count('code_location_name = "stash_sense"') == 2
    assert module["module_name"] == "stash_sense_pipeline.definitions"
    assert dg.__version__


DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")


def revisions(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]


def note(database: Path, rows: Sequence[str]) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE alembic_version")
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.executemany("INSERT INTO alembic_version VALUES (?)", [(row,) for row in rows])


# Which Dagster notes where it finds its tables without a revision, as a second process that starts at once does.
OLDER = "5771160a95ad"


@pytest.mark.slow
@pytest.mark.parametrize("order", ["older first", "older last", "twice", "with the one between"])
def test_a_run_history_with_several_revisions_is_repaired(tmp_path: Path, order: str) -> None:
    open_instance(tmp_path).dispose()
    newest = revisions(tmp_path / DATABASES[0])
    rows = {
        "older first": [OLDER, *newest],
        "older last": [*newest, OLDER],
        "twice": newest * 2,
        "with the one between": [OLDER, *newest, OLDER],
    }[order]
    for database in DATABASES:
        note(tmp_path / database, rows)
    with open_instance(tmp_path) as instance:
        run = create_run_for_test(instance, job_name="publish", status=dg.DagsterRunStatus.STARTED)
        instance.report_run_failed(run)
        assert instance.get_runs_count() == 1
    assert [revisions(tmp_path / database) for database in DATABASES] == [newest] * 3
    assert not (tmp_path / ".instance.lock").exists()


@pytest.mark.slow
def test_a_run_history_of_a_newer_dagster_is_refused_in_one_line(tmp_path: Path) -> None:
    open_instance(tmp_path).dispose()
    note(tmp_path / DATABASES[0], [OLDER, "f00d"])
    with pytest.raises(ConfigurationError, match=r"does not know \(f00d\)") as error:
        open_instance(tmp_path)
    assert "\n" not in str(error.value)
    assert revisions(tmp_path / DATABASES[0]) == [OLDER, "f00d"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_that_open_a_new_history_at_once_all_work(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    homes = [tmp_path / str(round_) for round_ in range(3)]
    processes = [context.Process(target=_opens, args=(barrier, homes)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=800)
    assert [process.exitcode for process in processes] == [0] * 4
    for home in homes:
        assert [len(revisions(home / database)) for database in DATABASES] == [1, 1, 1]
        with open_instance(home) as instance:
            assert instance.get_runs_count() == 4


def _opens(barrier: multiprocessing.synchronize.Barrier, homes: Sequence[Path]) -> None:
    for home in homes:
        barrier.wait(timeout=600)
        with open_instance(home) as instance:
            create_run_for_test(instance, job_name="publish")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["what?", "a%20b", "[ab]", "a*", "50%", "a b", "h#sh", "back\\slash", "quo'te\"s", "naïve 人 😀"]
)
def test_the_run_history_is_in_its_directory_or_the_path_is_refused(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    if name in ("what?", "a%20b", "[ab]", "a*"):
        with pytest.raises(ConfigurationError, match="choose another DATA_DIR"):
            open_instance(home)
        assert list(tmp_path.iterdir()) == []
        # A link without such a character leads there.
        home.mkdir()
        (tmp_path / "link").symlink_to(home)
        open_instance(tmp_path / "link").dispose()
    else:
        open_instance(home).dispose()
    assert all((home / database).is_file() for database in DATABASES)
