"""Chooses the executor: in process, Docker, Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from stash_sense_pipeline.settings.environment import ExecutorName


def chosen_executor(name: ExecutorName) -> dg.ExecutorDefinition:
    """in_process: the steps one after another in the process of the run; docker, k8s: a container or a pod for each step.

    in_process is the default: a run has few, long steps, and a process for each would cost 2 s and save nothing.
    Raises ConfigurationError for k8s when dagster-k8s is not installed.
    """
    # Imported only when chosen, because their clients take long to load.
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
