"""Run launchers: which runs get a GPU, the environment of their containers, and the health check of a killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import docker
import pytest
import requests
from dagster._core.events import EngineEventData
from dagster._core.instance import DagsterInstance
from dagster._core.launcher import WorkerStatus
from docker.models.containers import _create_container_args

from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.deployment import docker_launcher, process_launcher
from stash_sense_pipeline.deployment.docker_launcher import (
    GPU_REQUEST,
    PoolDockerRunLauncher,
    PoolDockerStepHandler,
    engine_problem,
    forwarded_variables,
)
from stash_sense_pipeline.deployment.process_launcher import WatchedRunLauncher
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline_tests.orchestration.conftest import environment_at

ASKED = [dict(GPU_REQUEST)]


def launcher(device: str = "cuda", **config: Any) -> PoolDockerRunLauncher:
    """The launcher as deploy/dagster.yaml configures it."""
    return PoolDockerRunLauncher(
        device=device, data_volume="stash-sense-data", memory_limit="6g", network="stash-sense", **config
    )


def run_of(definitions: dg.Definitions, instance: DagsterInstance, job: str, *assets: str) -> dg.DagsterRun:
    """A run as Dagster records it, however it was started: its pools come from the execution plan."""
    selection = {dg.AssetKey(asset) for asset in assets} or None
    made = definitions.resolve_job_def(job).get_subset(asset_selection=selection)
    return instance.create_run_for_job(made, asset_selection=selection, tags={"dagster/partition": "stashdb"})


@pytest.mark.parametrize(
    ("job", "assets", "asks"),
    [
        ("embed_faces", [], True),
        ("refresh_source", [], False),
        ("publish", [], False),
        # What a click on Materialize runs: no tag of a job is on it.
        ("__ASSET_JOB", ["face_embeddings"], True),
        ("__ASSET_JOB", ["aligned_faces", "face_embeddings"], True),
        ("__ASSET_JOB", ["performer_table", "aligned_faces"], False),
        ("__ASSET_JOB", ["release"], False),
    ],
)
def test_exactly_the_runs_with_a_pooled_asset_get_the_device(
    definitions: dg.Definitions, job: str, assets: list[str], asks: bool
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = run_of(definitions, instance, job, *assets)
        given = launcher().get_container_context(run).container_kwargs
        assert given.get("device_requests") == (ASKED if asks else None)
        on_cpu = launcher("cpu").get_container_context(run).container_kwargs
        assert "device_requests" not in on_cpu


def test_the_request_to_the_engine_holds_the_device(definitions: dg.Definitions) -> None:
    """Through docker-py's own translation: a misspelt argument fails here as it would in production."""
    with dg.DagsterInstance.ephemeral() as instance:
        context = launcher().get_container_context(run_of(definitions, instance, "embed_faces"))
    kwargs = dict(context.container_kwargs)
    assert kwargs.pop("stop_timeout") == 60
    made = _create_container_args({"image": "x", "command": [], "version": "1.41", **kwargs})
    (request,) = made["host_config"]["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", 1, [["gpu"]])
    assert made["host_config"]["Memory"] == 6 * 1024**3
    assert made["host_config"]["Binds"] == ["stash-sense-data:/data"]


@pytest.mark.slow
def test_the_container_of_a_run_gets_only_the_variables_that_it_needs(
    definitions: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_OWN_BOX_API_KEY", "k")
    monkeypatch.setenv("STASH_SENSE_CATALOG_URL", "postgresql://x")
    monkeypatch.setenv("PGPASSWORD", "p")
    monkeypatch.setenv("PGPASSFILE", "/data/.pgpass")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no")
    with dg.DagsterInstance.ephemeral() as instance:
        names = launcher().get_container_context(run_of(definitions, instance, "publish")).env_vars
    assert {"MY_OWN_BOX_API_KEY", "STASH_SENSE_CATALOG_URL", "PGPASSWORD", "PGPASSFILE"} <= set(names)
    assert "AWS_SECRET_ACCESS_KEY" not in names
    assert "PATH" not in names
    assert all("=" not in name for name in names), "values stay out of what is stored"
    assert forwarded_variables(["X_API_KEY_FILE", "HOME", "GITHUB_TOKEN", "DAGSTER_HOME", "DATA_DIR"]) == [
        "DAGSTER_HOME",
        "DATA_DIR",
        "GITHUB_TOKEN",
        "X_API_KEY_FILE",
    ]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "NVIDIA container toolkit"),
        ("('Connection aborted.', PermissionError(13, 'Permission denied'))", "tcp://engine:2375"),
        ("Error while fetching server API version: ('Connection aborted.', ...)", "no Docker engine"),
        ("network stash-sense not found", "network stash-sense not found"),
    ],
)
def test_each_error_of_the_engine_becomes_one_line_with_advice(said: str, advice: str) -> None:
    text = engine_problem(docker.errors.DockerException(said + "\n"))
    assert advice in text
    assert "\n" not in text


def test_an_engine_that_is_down_behind_its_filter_is_told_with_the_setting_of_its_socket() -> None:
    response = requests.Response()
    response.status_code = 503
    text = engine_problem(docker.errors.APIError("503 Server Error", response=response))
    assert "DOCKER_SOCKET" in text
    assert "\n" not in text


@pytest.mark.slow
def test_a_launch_that_the_engine_refuses_fails_with_that_line(
    definitions: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with dg.DagsterInstance.ephemeral() as instance:
        run = run_of(definitions, instance, "publish")
        made = launcher()
        made.register_instance(instance)
        with pytest.raises(Exception, match="no Docker engine"):
            made.launch_run(cast("Any", SimpleNamespace(dagster_run=run)))


@pytest.mark.parametrize(
    ("pool", "device", "asks"), [("gpu", "cuda", True), (None, "cuda", False), ("gpu", "cpu", False)]
)
def test_a_step_container_gets_the_device_of_its_pool(
    definitions: dg.Definitions, pool: str | None, device: str, asks: bool
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        context = SimpleNamespace(
            instance=instance,
            dagster_run=run_of(definitions, instance, "embed_faces"),
            execute_step_args=SimpleNamespace(step_keys_to_execute=["face_embeddings"]),
            get_step_context=lambda key: SimpleNamespace(step=SimpleNamespace(pool=pool)),
        )
        handler = PoolDockerStepHandler("image", docker_launcher.DockerContainerContext(), Device(device))
        given = handler._get_docker_container_context(cast("Any", context)).container_kwargs
    assert given.get("device_requests") == (ASKED if asks else None)


def test_a_step_of_the_execution_plan_has_its_pool(definitions: dg.Definitions) -> None:
    """The attribute that the step handler reads is Dagster's own, and not public."""
    from dagster._core.execution.api import create_execution_plan

    plan = create_execution_plan(
        definitions.resolve_job_def("embed_faces"), tags={"dagster/partition": "stashdb"}
    )
    assert {step.pool for step in plan.steps} == {"gpu"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "executor"), [("in_process", "in_process"), ("docker", "pool_docker"), ("k8s", "k8s")]
)
def test_the_executor_is_chosen_by_its_name(tmp_path: Path, settings: Any, name: str, executor: str) -> None:
    definitions = build_defs(
        settings=settings, environment=environment_at(tmp_path, STASH_SENSE_EXECUTOR=name)
    )
    dg.Definitions.validate_loadable(definitions)
    assert definitions.resolve_job_def("embed_faces").executor_def.name == executor


@pytest.mark.slow
def test_only_face_embeddings_has_the_kubernetes_gpu_tag_and_only_with_cuda(
    tmp_path: Path, settings: Any
) -> None:
    def config(**variables: str) -> Any:
        defined = build_defs(settings=settings, environment=environment_at(tmp_path, **variables))
        job = defined.resolve_job_def("embed_faces")
        return job.get_node_named("face_embeddings").definition.tags.get("dagster-k8s/config")

    assert config() is None
    from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_user_defined_k8s_config

    asked = config(STASH_SENSE_DEVICE="cuda", STASH_SENSE_EXECUTOR="k8s")
    parsed = get_user_defined_k8s_config({"dagster-k8s/config": asked})
    assert isinstance(parsed, UserDefinedDagsterK8sConfig)
    assert parsed.container_config["resources"]["limits"]["nvidia.com/gpu"] == "1"


# --- processes of this machine ----------------------------------------------------------------------------------------


def watched(instance: DagsterInstance) -> WatchedRunLauncher:
    """A launcher that knows this instance."""
    made = WatchedRunLauncher()
    made.register_instance(instance)
    return made


def reported(instance: DagsterInstance, definitions: dg.Definitions, pid: int) -> dg.DagsterRun:
    """A run with a reported process id."""
    run = run_of(definitions, instance, "publish")
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
    return run


@pytest.mark.slow
def test_a_run_with_a_killed_process_is_not_found(definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10_000)"])
        run = reported(instance, definitions, child.pid)
        assert watched(instance).check_run_worker_health(run).status is WorkerStatus.RUNNING
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        # The child is a zombie until its parent waits for it; that is not a worker.
        assert watched(instance).check_run_worker_health(run).status is WorkerStatus.NOT_FOUND
        child.wait()
        found = watched(instance).check_run_worker_health(run)
        assert found.status is WorkerStatus.NOT_FOUND
        assert str(child.pid) in (found.msg or "")


@pytest.mark.slow
def test_a_younger_process_with_the_same_pid_is_not_the_run(
    definitions: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = reported(instance, definitions, os.getpid())
        assert watched(instance).check_run_worker_health(run).status is WorkerStatus.RUNNING
        monkeypatch.setattr(process_launcher, "_process_started", lambda pid: time.time() + 3600)
        assert watched(instance).check_run_worker_health(run).status is WorkerStatus.NOT_FOUND


@pytest.mark.slow
def test_a_run_that_has_reported_no_process_yet_counts_as_running(definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = run_of(definitions, instance, "publish")
        assert watched(instance).check_run_worker_health(run).status is WorkerStatus.RUNNING
