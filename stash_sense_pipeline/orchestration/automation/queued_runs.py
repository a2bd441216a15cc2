"""Runs that a step submits to the run queue: submit, look at, cancel."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.orchestration.dagster_private import SubmitRunContext

_STARTING = dg.DagsterRunStatus.STARTING
# A process of a run imports the program and reports its start in less.
_START_SECONDS = 20.0
_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class QueuedTask:
    """One run to submit: of a job, of the assets `selection` only (None: all of the job), of one partition."""

    job: str
    tags: Mapping[str, str]
    partition: str | None = None
    ops: Mapping[str, dg.Config] = field(default_factory=dict)
    selection: Collection[dg.AssetKey] | None = None


def submit(context: dg.OpExecutionContext, task: QueuedTask) -> str:
    """Puts a run into the queue, as a click in the UI does. Returns its id.

    The queue applies its limits and priorities. The run gets the origin of the run of `context`, so that the daemon
    finds its code. Raises ConfigurationError when the instance has no queue, or this run no origin.
    """
    instance, parent = context.instance, context.run
    if not isinstance(instance.run_coordinator, dg.QueuedRunCoordinator):
        raise ConfigurationError("this Dagster instance has no run queue; see concurrency in dagster.yaml")
    if parent.remote_job_origin is None or parent.job_code_origin is None:
        raise ConfigurationError(
            f"{context.job_name} must be started from the UI or by `dagster job launch`; "
            "on the command line use stash-sense build"
        )
    partition = {"dagster/partition": task.partition} if task.partition else {}
    run_config = dg.RunConfig(ops=dict(task.ops))
    run = instance.create_run_for_job(
        job_def=context.repository_def.get_job(task.job),
        run_config=run_config.to_config_dict(),  # type: ignore[no-untyped-call]
        tags={**partition, **task.tags},
        asset_selection=frozenset(task.selection) if task.selection else None,
        remote_job_origin=parent.remote_job_origin.repository_origin.get_job_origin(task.job),
        job_code_origin=parent.job_code_origin._replace(job_name=task.job),
    )
    # The workspace is only for coordinators that launch the run themselves.
    instance.run_coordinator.submit_run(SubmitRunContext(run, None))  # type: ignore[arg-type]
    return run.run_id


def statuses(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> dict[str, dg.DagsterRunStatus]:
    """The status of each run. A run that was deleted counts as canceled."""
    if not run_ids:
        return {}
    found = {run.run_id: run.status for run in instance.get_runs(dg.RunsFilter(run_ids=list(run_ids)))}
    return {run_id: found.get(run_id, dg.DagsterRunStatus.CANCELED) for run_id in run_ids}


def step_ended(instance: dg.DagsterInstance, run_id: str, step: str) -> bool:
    """True when the step of a run has ended, well or not."""
    return any(stats.end_time is not None for stats in instance.get_run_step_stats(run_id, [step]))


def cancel(context: dg.OpExecutionContext, tag: str) -> None:
    """Cancels the runs with the id of this run in `tag`. A run that cannot be reached from here is named in the log.

    A run that is starting comes last, and only when it has started or some seconds have passed: Dagster forgets an
    earlier request at its start, and would record the run as failed.
    """
    instance = context.instance
    in_progress = [status for status in dg.DagsterRunStatus if status not in ENDED]
    runs = instance.get_runs(dg.RunsFilter(tags={tag: context.run_id}, statuses=in_progress))
    deadline = time.monotonic() + _START_SECONDS
    for run in sorted(runs, key=lambda run: run.status is _STARTING):
        try:
            if run.status is dg.DagsterRunStatus.NOT_STARTED:
                # The signal came before the run was in the queue.
                instance.report_run_canceled(run)
                continue
            while statuses(instance, [run.run_id])[run.run_id] is _STARTING and time.monotonic() < deadline:
                time.sleep(_BETWEEN_LOOKS)
            instance.run_coordinator.cancel_run(run.run_id)
        # The run launcher of containers speaks to an engine that a run may not reach; its errors are of any type.
        except Exception as error:  # noqa: BLE001
            context.log.warning(
                f"run {run.run_id} could not be canceled from here ({type(error).__name__}); "
                "cancel it on the page Runs"
            )


ENDED = frozenset({dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})
