"""Run launcher and step executor for Docker; a GPU for steps of the gpu pool.

One word on an asset, `pool="gpu"`, is both the limit on concurrent steps and the request for a device. Dagster stores with
each run which pools its steps are in, however it was started, so the launcher below sees it for a sensor, a schedule, a
backfill, the command line and a click alike; run tags would be missing from a click on Materialize.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
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

# What a run must know of its launcher's environment: our settings, the keys of sources and of GitHub, Dagster's storage.
_FORWARDED = re.compile(
    r"DATA_DIR|STASH_SENSE_\w+|\w+_API_KEY(_FILE)?|GITHUB_TOKEN(_FILE)?|FLARESOLVERR_URL|CHROME_CDP_URL"
    r"|DAGSTER_(HOME|PG_\w+)"
)
_DATA_DIRECTORY = "/data"
_STOP_SECONDS = 60
_KEEP_ENDED_CONTAINERS = "24h"


def device_for(pools: Collection[str], device: Device) -> DockerContainerContext:
    """What a container gets for steps of these pools: one GPU for `gpu` where the device is cuda, else nothing."""
    if GPU_POOL in pools and device is Device.CUDA:
        # NVIDIA's toolkit puts its libraries into the container and writes the cache of the loader there.
        given = {"device_requests": [dict(GPU_REQUEST)], "read_only": False}
        return DockerContainerContext(container_kwargs=given)
    return DockerContainerContext()


def _merged(context: Any, further: DockerContainerContext) -> DockerContainerContext:
    merged: DockerContainerContext = context.merge(further)
    return merged


class PoolDockerRunLauncher(DockerRunLauncher):
    """A container for each run, with a GPU for exactly the runs that contain a step of the pool `gpu`.

    Configuration, beside that of DockerRunLauncher: `device` (cpu: no run asks for a GPU), `data_volume` (volume or
    absolute path on the host that becomes /data), `memory_limit` (of a run's container, as in 6g).
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
        ours: dict[str, Any] = {
            # Signals reach the run, and its children are reaped.
            "init": True,
            "stop_timeout": _STOP_SECONDS,
            "volumes": [f"{data_volume}:{_DATA_DIRECTORY}"],
            # As the services of docker-compose.yml: a run reads what strangers made.
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777,size=1g"},
            "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "2"}},
        }
        if memory_limit:
            ours["mem_limit"] = memory_limit
        super().__init__(inst_data, container_kwargs={**ours, **(container_kwargs or {})}, **config)
        self._device = Device(device)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The configuration in dagster.yaml."""
        return {
            **DOCKER_CONFIG_SCHEMA,
            "device": dg.Field(dg.StringSource, default_value=Device.CPU.value),
            "data_volume": dg.Field(dg.StringSource),
            "memory_limit": dg.Field(dg.StringSource, is_required=False),
        }

    def get_container_context(self, dagster_run: dg.DagsterRun) -> DockerContainerContext:
        """Environment, volumes and, for a run with a pooled step, the device of a run's container."""
        used = dagster_run.run_op_concurrency
        pools = used.all_pools if used is not None and used.all_pools is not None else ()
        forwarded = DockerContainerContext(env_vars=forwarded_variables(os.environ))
        context = forwarded.merge(super().get_container_context(dagster_run))
        return _merged(context, device_for(pools, self._device))

    def launch_run(self, context: LaunchRunContext) -> None:
        """Starts the container of a run; raises DagsterLaunchFailedError with one line when the engine does not."""
        try:
            self._remove_ended_containers()
            super().launch_run(context)
        except docker.errors.DockerException as error:
            raise DagsterLaunchFailedError(engine_problem(error)) from error  # type: ignore[no-untyped-call]

    def _remove_ended_containers(self) -> None:
        # Not at their end: a day long `docker logs` and the reason of a kill can be looked up.
        client = docker.client.from_env()
        try:
            client.containers.prune({"label": "dagster/run_id", "until": _KEEP_ENDED_CONTAINERS})
        except docker.errors.APIError as error:
            # 409: another launch is at it.
            if error.status_code != 409:
                raise
        finally:
            client.close()


def forwarded_variables(names: Iterable[str]) -> list[str]:
    """Which variables of the launching process a run's container gets, sorted."""
    return sorted(name for name in names if _FORWARDED.fullmatch(name))


def engine_problem(error: Exception) -> str:
    """What a Docker engine refused, in one line that says what to do."""
    said = " ".join(str(getattr(error, "explanation", None) or error).split())
    if "could not select device driver" in said or "nvidia-container" in said:
        return (
            "this run asks for a GPU, and the Docker engine has no NVIDIA driver for it; install the NVIDIA driver "
            f"and the NVIDIA container toolkit on the host, or set STASH_SENSE_DEVICE=cpu ({said})"
        )
    if "Permission denied" in said or "PermissionError" in said:
        return (
            "the Docker engine's socket may not be used; set DOCKER_GID in .env to the group of the socket, as "
            f"`stat -c %g /var/run/docker.sock` shows it ({said})"
        )
    if "Error while fetching server API version" in said:
        return (
            f"there is no Docker engine to start the run; is the socket mounted, and the engine up? ({said})"
        )
    return f"the Docker engine did not start the run: {said}"


class PoolDockerStepHandler(DockerStepHandler):
    """A container for each step, with a GPU for exactly the steps of the pool `gpu`."""

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


# The docker step executor of Dagster, with its configuration; a step of the pool `gpu` gets a GPU where STASH_SENSE_DEVICE
# is cuda.
pool_docker_executor = dg.ExecutorDefinition(
    name="pool_docker",
    config_schema=docker_executor.config_schema.as_field(),
    requirements=dg.multiple_process_executor_requirements(),
    executor_creation_fn=_pool_docker_executor,
)
