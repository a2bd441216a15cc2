"""Run launcher and step executor for Docker; a GPU for steps of the gpu pool.

`pool="gpu"` on an asset is both the limit on concurrent steps and the request for a device. Dagster stores with each run
the pools of its steps, whether a sensor, a schedule, a backfill, the command line or a click started it. Run tags would not
do: a click on Materialize has none.

`docker_executor` and `DockerStepHandler` of dagster-docker 0.29.27 have no public way to add a device to one step. So the
executor below replaces the step handler of the stock executor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import dagster as dg
import docker
from dagster_docker import DockerRunLauncher, docker_executor
from dagster_docker.container_context import DockerContainerContext
from dagster_docker.docker_executor import DockerStepHandler
from dagster_docker.utils import DOCKER_CONFIG_SCHEMA

from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.orchestration.dagster_private import (
    ConfigurableClassData,
    DagsterLaunchFailedError,
    LaunchRunContext,
    StepDelegatingExecutor,
    StepHandlerContext,
)
from stash_sense_pipeline.orchestration.names import GPU_POOL

GPU_REQUEST: Mapping[str, Any] = {"driver": "nvidia", "count": 1, "capabilities": [["gpu"]]}

# The variables that a run needs from its launcher: settings, the keys of sources and of GitHub, Dagster's storage.
_FORWARDED = re.compile(
    r"DATA_DIR|STASH_SENSE_\w+|\w+_API_KEY(_FILE)?|GITHUB_TOKEN(_FILE)?|FLARESOLVERR_URL|CHROME_CDP_URL"
    r"|DAGSTER_(HOME|PG_\w+)|PGPASS(WORD|FILE)"
)
_DATA_DIRECTORY = "/data"
_STOP_SECONDS = 60
_KEEP_ENDED_CONTAINERS = "24h"


def device_for(pools: Collection[str], device: Device) -> DockerContainerContext:
    """The additions to a container with steps of these pools: one GPU for `gpu` when the device is cuda, else none."""
    if GPU_POOL in pools and device is Device.CUDA:
        # Not read-only: NVIDIA's toolkit writes its libraries and the cache of the loader into the container.
        gpu = {"device_requests": [dict(GPU_REQUEST)], "read_only": False}
        return DockerContainerContext(container_kwargs=gpu)
    return DockerContainerContext()


def _merged(context: Any, further: DockerContainerContext) -> DockerContainerContext:
    merged: DockerContainerContext = context.merge(further)
    return merged


class PoolDockerRunLauncher(DockerRunLauncher):
    """A container for each run. The runs that contain a step of the pool `gpu` get a GPU, and no others.

    Configuration in addition to that of DockerRunLauncher: `device` (cpu: no run requests a GPU), `data_volume` (volume or
    absolute path on the host, mounted at /data), `memory_limit` (of the container of a run, as in 6g).
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        *,
        device: str,
        data_volume: str,
        memory_limit: str | None = None,
        container_kwargs: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> None:
        defaults: dict[str, Any] = {
            # With an init process signals reach the run, and its children are reaped.
            "init": True,
            "stop_timeout": _STOP_SECONDS,
            "volumes": [f"{data_volume}:{_DATA_DIRECTORY}"],
            # The same limits as for the services of docker-compose.yml: a run parses untrusted images and pages.
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777,size=1g"},
            "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "2"}},
        }
        if memory_limit:
            defaults["mem_limit"] = memory_limit
        super().__init__(inst_data, container_kwargs={**defaults, **(container_kwargs or {})}, **config)
        self._device = Device(device)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The configuration schema in dagster.yaml."""
        return {
            **DOCKER_CONFIG_SCHEMA,
            "device": dg.Field(dg.StringSource, default_value=Device.CPU.value),
            "data_volume": dg.Field(dg.StringSource),
            "memory_limit": dg.Field(dg.StringSource, is_required=False),
        }

    def get_container_context(self, dagster_run: dg.DagsterRun) -> DockerContainerContext:
        """Environment and volumes of the container of a run, and a GPU if one of its steps needs it."""
        used = dagster_run.run_op_concurrency
        pools = used.all_pools if used is not None and used.all_pools is not None else ()
        forwarded = DockerContainerContext(env_vars=forwarded_variables(os.environ))
        context = forwarded.merge(super().get_container_context(dagster_run))
        return _merged(context, device_for(pools, self._device))

    def launch_run(self, context: LaunchRunContext) -> None:
        """Starts the container of a run. Raises DagsterLaunchFailedError with one line when the engine refuses."""
        try:
            self._remove_ended_containers()
            super().launch_run(context)
        except docker.errors.DockerException as error:
            raise DagsterLaunchFailedError(engine_problem(error)) from error  # type: ignore[no-untyped-call]

    def _remove_ended_containers(self) -> None:
        # Ended containers stay for a day, for `docker logs` and the reason of a kill.
        client = docker.client.from_env()
        try:
            client.containers.prune({"label": "dagster/run_id", "until": _KEEP_ENDED_CONTAINERS})
        except docker.errors.APIError as error:
            # 409: another launch is pruning.
            if error.status_code != 409:
                raise
        finally:
            client.close()


def forwarded_variables(names: Iterable[str]) -> list[str]:
    """The names of the launcher's environment variables that the container of a run gets, sorted."""
    return sorted(name for name in names if _FORWARDED.fullmatch(name))


def engine_problem(error: Exception) -> str:
    """The error of a Docker engine in one line, with what the operator can do."""
    reason = " ".join(str(getattr(error, "explanation", None) or error).split())
    if "could not select device driver" in reason or "nvidia-container" in reason:
        return (
            "this run asks for a GPU, and the Docker engine has no NVIDIA driver for it; install the NVIDIA driver "
            f"and the NVIDIA container toolkit on the host, or set STASH_SENSE_DEVICE=cpu ({reason})"
        )
    if "Permission denied" in reason or "PermissionError" in reason:
        return (
            "there is no permission to use the socket of the Docker engine; reach it through the service `engine` of "
            f"docker-compose.yml, by DOCKER_HOST=tcp://engine:2375 ({reason})"
        )
    if getattr(error, "status_code", None) == HTTPStatus.SERVICE_UNAVAILABLE:
        return (
            "no Docker engine answers behind the filter of its socket; check that the engine runs, and that DOCKER_SOCKET "
            f"in .env is the path of its socket ({reason})"
        )
    if "Error while fetching server API version" in reason:
        return (
            "no Docker engine answers; check that the engine and the service `engine`, the filter of its socket, run "
            f"({reason})"
        )
    return f"the Docker engine did not start the run: {reason}"


class PoolDockerStepHandler(DockerStepHandler):
    """A container for each step. The steps of the pool `gpu` get a GPU, and no others."""

    def __init__(self, image: str | None, context: DockerContainerContext, device: Device) -> None:
        super().__init__(image, context)
        self._device = device

    def _get_docker_container_context(
        self, step_handler_context: StepHandlerContext
    ) -> DockerContainerContext:
        step = step_handler_context.get_step_context(self._get_step_key(step_handler_context)).step
        forwarded = DockerContainerContext(env_vars=forwarded_variables(os.environ))
        context = forwarded.merge(super()._get_docker_container_context(step_handler_context))
        return _merged(context, device_for(() if step.pool is None else (step.pool,), self._device))


def _pool_docker_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    make = docker_executor.executor_creation_fn
    assert make is not None
    executor = make(init_context)
    assert isinstance(executor, StepDelegatingExecutor)
    stock = executor._step_handler
    assert isinstance(stock, DockerStepHandler)
    device = Device(os.environ.get("STASH_SENSE_DEVICE") or Device.CPU)
    executor._step_handler = PoolDockerStepHandler(stock._image, stock._container_context, device)
    return executor


# Dagster's docker step executor with the same configuration. When STASH_SENSE_DEVICE is cuda, a step of the pool `gpu` gets
# a GPU.
pool_docker_executor = dg.ExecutorDefinition(
    name="pool_docker",
    config_schema=docker_executor.config_schema.as_field(),
    requirements=dg.multiple_process_executor_requirements(),
    executor_creation_fn=_pool_docker_executor,
)
