"""The private names of Dagster that the package uses, each with the reason. Checked with Dagster 1.13.27.

Everything here comes from modules with names that begin with an underscore, so an update of Dagster may move it. No other
module of the package imports from them; a test checks this. Two more such names are strings elsewhere: `supervisor` runs
`python -m dagster._daemon`, and deploy/dagster.yaml names `dagster._core.storage.root` to keep logs on the shared volume.
"""

from __future__ import annotations

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

# `dagster-webserver` builds its ASGI application from these. It has no option for a middleware, so `webserver` builds the
# application in the same way and puts the guard around it.
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

# The first argument of every class that dagster.yaml names.
from dagster._serdes.config_class import ConfigurableClassData

# Dagster's programs call both before they do anything else: SIGTERM ends them like SIGINT, and their logs look alike.
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers

__all__ = [
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DagsterLaunchFailedError",
    "LaunchRunContext",
    "StepDelegatingExecutor",
    "StepHandlerContext",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "configure_loggers",
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
