"""The private names of Dagster that the package uses, each with the reason. Checked with Dagster 1.13.27.

Everything here comes from modules with names that begin with an underscore, so an update of Dagster may move it. No other
module of the package imports from them; a test checks this. Two more such names are strings elsewhere: `supervisor` runs
the module `dagster._daemon`, and deploy/dagster.yaml names `dagster._core.storage.root` to keep logs on the shared volume.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# The name of the repository that `dg.Definitions` makes.
from dagster._core.definitions.repository_definition.valid_definitions import SINGLETON_REPOSITORY_NAME

# The return type of `define_asset_job`.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

# A run launcher raises it when a run cannot start; Dagster then marks the run as failed and records the message.
from dagster._core.errors import DagsterLaunchFailedError

# The docker step executor is one of these. It has no public way to replace its step handler, which decides what a
# container gets. StepHandlerContext is the argument of that handler.
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from dagster._core.executor.step_delegating.step_handler.base import StepHandlerContext

# The result types of a run launcher's health check, and the argument of its `launch_run`.
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.base import LaunchRunContext

# The origin of a run: by it the UI shows the run on its overview and on the page of its job.
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

# The argument of a run coordinator's `submit_run`: a step has no workspace, which `DagsterInstance.submit_run` wants.
from dagster._core.run_coordinator import SubmitRunContext

# `dagster-webserver` builds its ASGI application from these. It has no option for a middleware, so `webserver` builds the
# application in the same way and puts the guard around it.
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

# The first argument of every class that dagster.yaml names.
from dagster._serdes.config_class import ConfigurableClassData

# Dagster's programs call both before they do anything else: SIGTERM ends them like SIGINT, and their logs look alike.
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers

from stash_sense_pipeline.foundation.files import make_directory, private_opener

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.storage.compute_log_manager import CapturedLogContext

__all__ = [
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DagsterLaunchFailedError",
    "LaunchRunContext",
    "StepDelegatingExecutor",
    "StepHandlerContext",
    "SubmitRunContext",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "configure_loggers",
    "give_runs_an_origin",
    "keep_output_in_files",
    "run_history_revisions",
    "setup_interrupt_handlers",
]


def run_history_revisions() -> list[str]:
    """The Alembic revisions of Dagster's SQLite databases that this version of Dagster knows, newest first.

    Dagster does not say which of two revisions is newer, and `open_instance` must know it.
    """
    # Imported here: both load SQLAlchemy and Alembic, which takes more than a second.
    from alembic.script import ScriptDirectory
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.sql import get_alembic_config

    script = ScriptDirectory.from_config(get_alembic_config(sqlite_run_storage.__file__))
    return [revision.revision for revision in script.walk_revisions()]


def give_runs_an_origin(instance: DagsterInstance, job: str, location: str) -> None:
    """From now on `execute_in_process` with this instance records runs of `job` as runs of a code location.

    It has no option for it, and the overview of the UI leaves out a run without an origin.
    """
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), SINGLETON_REPOSITORY_NAME)
    create = partial(instance.create_run_for_job, remote_job_origin=RemoteJobOrigin(repository, job))
    instance.create_run_for_job = create  # type: ignore[method-assign]


def keep_output_in_files(instance: DagsterInstance) -> None:
    """From now on what a step prints goes to its log alone, and no longer to the output of this process too.

    Dagster copies it with a `tail` for each stream, and a watcher for each `tail`. A run that is killed between the starts
    of the two leaves the `tail` for ever.
    """
    # Imported here: the instance has loaded both, and the definitions must load quickly.
    from dagster._core.execution.compute_logs import redirect_to_file
    from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
    from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager

    logs = instance.compute_log_manager
    if not isinstance(logs, LocalComputeLogManager):
        return

    @contextmanager
    def capture(log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        out, error = (
            Path(logs.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]))
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        )
        make_directory(out.parent)
        with redirect_to_file(sys.stdout, out), redirect_to_file(sys.stderr, error):
            yield CapturedLogContext(log_key)
        # By this file the UI knows that the log is complete.
        with open(logs.get_captured_local_path(log_key, "complete"), "a", opener=private_opener):
            pass

    logs.capture_logs = capture  # type: ignore[method-assign]
