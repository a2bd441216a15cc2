"""Chooses the executor: in process, Docker, Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from stash_sense_pipeline.settings.environment import ExecutorName


def chosen_executor(name: ExecutorName) -> dg.ExecutorDefinition:
    """in_process: one after the other in the run's own process; docker, k8s: a container or a pod for each step.

    Steps are few and fat: a process for each would cost 2 s of start and save nothing, so in_process is the default.
    Raises ConfigurationError where k8s is asked for and dagster-k8s is not installed.
    """
    # Imported only when chosen: both bring clients that take long to load.
    if name == "docker":
        from stash_sense_pipeline.deployment.docker_launcher import pool_docker_executor

        return pool_docker_executor
    if name == "k8s":
        try:
            from dagster_k8s import k8s_job_executor
        except ImportError as error:
            raise ConfigurationError(
                "STASH_SENSE_EXECUTOR=k8s needs dagster-k8s; install stash-sense-pipeline with its extra k8s"
            ) from error
        executor: dg.ExecutorDefinition = k8s_job_executor
        return executor
    return dg.in_process_executor
