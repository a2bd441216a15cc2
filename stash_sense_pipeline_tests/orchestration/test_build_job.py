"""The job build_everything: the order of its runs, what makes it red, and its presets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import dagster as dg
import psutil
import pytest
from dagster._core.run_coordinator import DefaultRunCoordinator
from dagster._core.test_utils import create_run_for_test, instance_for_test

from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.automation import build_job, queued_runs
from stash_sense_pipeline.orchestration.automation.build_job import BuildConfig
from stash_sense_pipeline.orchestration.automation.queued_runs import QueuedTask
from stash_sense_pipeline.orchestration.dagster_private import give_runs_an_origin, keep_output_in_files
from stash_sense_pipeline.orchestration.run_config import SyncMode
from stash_sense_pipeline.settings.run_overrides import RunOverrides, apply_overrides
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline_tests.orchestration.conftest import environment_at

Status = dg.DagsterRunStatus
KEYS = {f"{name}_API_KEY": "k" for name in ("STASHDB", "FANSDB")}


class Queue:
    """A run queue in which each run ends at the look after its submission, well unless it is in `failing`."""

    def __init__(self) -> None:
        self.tasks: list[QueuedTask] = []
        self.failing: set[str] = set()
        self.canceled: list[str] = []
        self.looks = 0
        self.at_look: Callable[[], None] = lambda: None

    def submit(self, context: Any, task: QueuedTask) -> str:
        self.tasks.append(task)
        return self.label(task)

    def statuses(self, instance: Any, run_ids: list[str]) -> dict[str, Status]:
        self.looks += 1
        self.at_look()
        return {run: Status.FAILURE if run in self.failing else Status.SUCCESS for run in run_ids}

    def cancel(self, context: Any, tag: str) -> None:
        assert tag == names.BUILD_TAG
        self.canceled = self.order

    @staticmethod
    def label(task: QueuedTask) -> str:
        return f"{task.job} {task.partition}" if task.partition else task.job

    @property
    def order(self) -> list[str]:
        return [self.label(task) for task in self.tasks]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The queue that builds submit to; every source has faces to embed."""
    queue = Queue()
    for name in ("submit", "statuses", "cancel"):
        monkeypatch.setattr(build_job, name, getattr(queue, name))
    monkeypatch.setattr(build_job, "step_ended", lambda *_: False)
    monkeypatch.setattr(build_job, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(build_job._QueuedBuild, "_waiting", lambda *_: 1)
    return queue


def run_build(settings: Settings, data: Path, config: BuildConfig, **variables: str) -> list[str]:
    """Runs the step of a build; its problems."""
    context: Any = SimpleNamespace(
        instance=None, run_id="build-run", log=logging.getLogger("build"), job_name="build_everything"
    )
    environment = environment_at(data, **(variables or KEYS))
    told = {"user_agent_contact": "operator@mail.example"}
    settings = settings.model_copy(update={"global_": settings.global_.model_copy(update=told)})
    chosen = apply_overrides(settings, RunOverrides(sources=tuple(config.sources)))
    catalog: Any = None
    return build_job._QueuedBuild(context, config, chosen, environment, catalog).run()


THREE = ["stashdb", "fansdb", "iafd"]


def test_sites_follow_stash_boxes_embedding_follows_refreshes_and_publish_is_last(
    queue: Queue, settings: Settings, tmp_path: Path
) -> None:
    assert run_build(settings, tmp_path, BuildConfig(sources=THREE)) == []
    order = queue.order
    assert order[-1] == "publish"
    assert order.index("refresh_source iafd") > order.index("refresh_source fansdb")
    for source in THREE:
        assert order.index(f"embed_faces {source}") > order.index(f"refresh_source {source}")
    by_label = {queue.label(task): task for task in queue.tasks}
    box, site = by_label["refresh_source stashdb"], by_label["refresh_source iafd"]
    assert box.tags[names.SOURCE_TAG] == "stashdb"
    assert int(box.tags["dagster/priority"]) > int(site.tags["dagster/priority"])
    assert by_label["embed_faces fansdb"].tags[names.EMBED_TAG] == "fansdb"
    assert all(task.tags[names.BUILD_TAG] == "build-run" for task in queue.tasks)


def test_a_failed_source_makes_the_build_red_and_the_others_are_published(
    queue: Queue, settings: Settings, tmp_path: Path
) -> None:
    queue.failing = {"refresh_source fansdb"}
    problems = run_build(settings, tmp_path, BuildConfig(sources=THREE))
    assert problems == ["fansdb: refresh_source failure, see run refresh_source fansdb"]
    assert queue.order[-1] == "publish"


def test_nothing_is_published_when_every_source_failed(
    queue: Queue, settings: Settings, tmp_path: Path
) -> None:
    queue.failing = {f"refresh_source {source}" for source in THREE}
    assert len(run_build(settings, tmp_path, BuildConfig(sources=THREE))) == 3
    assert "publish" not in queue.order


def test_a_failed_publish_makes_the_build_red(queue: Queue, settings: Settings, tmp_path: Path) -> None:
    queue.failing = {"publish"}
    assert run_build(settings, tmp_path, BuildConfig(sources=THREE)) == ["publish failure, see run publish"]


def test_a_source_without_its_key_is_skipped_and_makes_the_build_red(
    queue: Queue, settings: Settings, tmp_path: Path
) -> None:
    config = BuildConfig(sources=["stashdb", "fansdb"])
    (problem,) = run_build(settings, tmp_path, config, STASHDB_API_KEY="k")
    assert "FANSDB_API_KEY" in problem
    assert "refresh_source fansdb" not in queue.order
    with pytest.raises(ConfigurationError, match="no source can be asked"):
        run_build(settings, tmp_path, config, GITHUB_TOKEN="k")


def test_publish_now_asks_no_source(queue: Queue, settings: Settings, tmp_path: Path) -> None:
    assert run_build(settings, tmp_path, BuildConfig(sources=["stashdb"], refresh=False)) == []
    assert queue.order == ["embed_faces stashdb", "publish"]


def test_without_faces_only_records_and_identities_are_made(
    queue: Queue, settings: Settings, tmp_path: Path
) -> None:
    assert run_build(settings, tmp_path, BuildConfig(sources=["stashdb"], faces=False)) == []
    selections = {queue.label(task): task.selection for task in queue.tasks}
    assert selections == {
        "refresh_source stashdb": [names.PERFORMER_TABLE], "publish": [names.IDENTITY_GRAPH],
    }  # fmt: skip


def test_a_canceled_build_cancels_its_runs_and_publishes_nothing(
    queue: Queue, settings: Settings, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise dg.DagsterExecutionInterruptedError

    queue.at_look = interrupt
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        run_build(settings, tmp_path, BuildConfig(sources=THREE))
    assert queue.canceled == ["refresh_source stashdb", "refresh_source fansdb"]
    assert "publish" not in queue.order


def test_the_launchpad_has_every_option_with_its_description_and_default(
    definitions: dg.Definitions,
) -> None:
    defaults = {
        "build_everything": ("AUTO", True), "full_sweep": ("FULL_SWEEP", True), "publish_now": ("AUTO", False),
    }  # fmt: skip
    for job, (sync, refresh) in defaults.items():
        found = definitions.resolve_job_def(job)
        assert found.description
        config = found.run_config["ops"][names.BUILD_STEP]["config"]
        assert (config["sync"], config["refresh"]) == (sync, refresh)
        assert config.keys() == BuildConfig.model_fields.keys()
    assert all(field.description for field in BuildConfig.model_fields.values())
    assert BuildConfig().sync is SyncMode.AUTO


def test_a_run_that_was_deleted_counts_as_canceled() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert queued_runs.statuses(instance, ["gone"]) == {"gone": Status.CANCELED}
        assert queued_runs.statuses(instance, []) == {}


def test_canceling_a_build_cancels_its_runs_that_have_not_started_and_no_others() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        context: Any = SimpleNamespace(instance=instance, run_id="b", log=logging.getLogger("build"))
        states = {"own": Status.NOT_STARTED, "done": Status.SUCCESS, "other": Status.NOT_STARTED}
        runs = {
            name: create_run_for_test(
                instance, status=status, tags={names.BUILD_TAG: "x" if name == "other" else "b"}
            ).run_id
            for name, status in states.items()
        }
        queued_runs.cancel(context, names.BUILD_TAG)
        found = queued_runs.statuses(instance, list(runs.values()))
    ended = {name: found[run_id] for name, run_id in runs.items()}
    assert ended == {**states, "own": Status.CANCELED}


class NotingCoordinator(DefaultRunCoordinator):
    """A run coordinator that notes each run to cancel, with the status that it has then."""

    noted: ClassVar[list[tuple[str, Status]]] = []

    def cancel_run(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        assert run is not None
        self.noted.append((run.tags["name"], run.status))
        return True


@pytest.mark.slow
def test_a_run_that_is_starting_is_canceled_when_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster forgets a request at the start of the run, and would record the run as failed."""
    NotingCoordinator.noted.clear()
    monkeypatch.setattr(queued_runs, "_BETWEEN_LOOKS", 0.0)
    coordinator = {"module": NotingCoordinator.__module__, "class": "NotingCoordinator"}
    with instance_for_test(overrides={"run_coordinator": coordinator}) as instance:
        context: Any = SimpleNamespace(instance=instance, run_id="b", log=logging.getLogger("build"))
        runs = {
            status: create_run_for_test(
                instance, status=status, tags={names.BUILD_TAG: "b", "name": status.value.lower()}
            )
            for status in (Status.STARTING, Status.STARTED)
        }
        looks = 0

        def look(instance: dg.DagsterInstance, run_ids: list[str]) -> dict[str, Status]:
            """The run starts after the third look at it."""
            nonlocal looks
            found = statuses(instance, run_ids)
            looks += Status.STARTING in found.values()
            if looks == 3:
                starting = runs[Status.STARTING]
                start = dg.DagsterEvent("PIPELINE_START", job_name=starting.job_name, message="")
                instance.report_dagster_event(start, starting.run_id)
            return found

        statuses = queued_runs.statuses
        monkeypatch.setattr(queued_runs, "statuses", look)
        queued_runs.cancel(context, names.BUILD_TAG)
    assert looks == 3
    assert NotingCoordinator.noted == [("started", Status.STARTED), ("starting", Status.STARTED)]


def test_each_option_of_a_build_reaches_its_runs(queue: Queue, settings: Settings, tmp_path: Path) -> None:
    config = BuildConfig(sources=["stashdb"], sync=SyncMode.FULL_SWEEP, fast_index=True, accept_shrink=True)
    assert run_build(settings, tmp_path, config) == []
    given = {step: field for task in queue.tasks for step, field in task.ops.items()}
    assert vars(given["performer_table"])["sync"] is SyncMode.FULL_SWEEP
    assert vars(given["indices"])["fast"] is True
    assert vars(given["release"])["accept_shrink"] is True
    queue.tasks.clear()
    assert run_build(settings, tmp_path, BuildConfig(sources=["stashdb"], publish=False)) == []
    assert queue.order == ["refresh_source stashdb", "embed_faces stashdb"]


@pytest.mark.slow
def test_what_a_step_of_a_build_prints_is_in_its_log_and_no_process_copies_it(tmp_path: Path) -> None:
    @dg.op
    def speak() -> None:
        sys.stdout.write("said")
        sys.stderr.write("complained")
        begun.extend(child.pid for child in psutil.Process().children() if child not in before)

    @dg.job
    def talk() -> None:
        speak()

    begun: list[int] = []
    before = psutil.Process().children()
    with open_instance(tmp_path / "dagster") as instance:
        keep_output_in_files(instance)
        run_id = talk.execute_in_process(instance=instance).run_id
        (event,) = instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)
        assert event.dagster_event is not None
        captured = event.dagster_event.logs_captured_data
        manager = instance.compute_log_manager
        key = manager.build_log_key_for_run(run_id, captured.file_key)
        logs = manager.get_log_data(key)
        assert logs.stdout == b"said"
        assert b"complained" in (logs.stderr or b"")
        assert manager.is_capture_complete(key)
    assert begun == []


def test_a_run_of_the_command_line_is_recorded_as_a_run_of_the_code_location() -> None:
    """The overview of the UI and the page of the job list runs by this origin."""

    @dg.asset
    def table() -> None:
        pass

    job = dg.Definitions(assets=[table], jobs=[dg.define_asset_job("refresh", [table])]).resolve_job_def(
        "refresh"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        give_runs_an_origin(instance, "refresh", names.CODE_LOCATION)
        run_id = job.execute_in_process(instance=instance).run_id
        listed = instance.get_runs(
            dg.RunsFilter(job_name="refresh", tags={".dagster/repository": "__repository__@stash_sense"})
        )
    assert [run.run_id for run in listed] == [run_id]
    origin = listed[0].remote_job_origin
    assert origin is not None
    assert (origin.job_name, origin.location_name) == ("refresh", "stash_sense")
