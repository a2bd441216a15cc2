"""The webserver process: waits for the code server, then serves.

The program `dagster-webserver` has no option for a middleware, so this module builds the same application and puts the
guard around it. `create_app_from_workspace_process_context` is not in Dagster's documentation; checked with
dagster-webserver 1.13.27.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.deployment.ui_access import UiAccess, read_ui_access
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import keep_files_private
from stash_sense_pipeline.foundation.visible_text import visible

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

_WAIT_SECONDS = 120.0
# The defaults of `dagster-webserver`: statement timeout, lifetime of a connection, connections above the pool size.
_STATEMENT_MILLISECONDS = 15_000
_CONNECTION_SECONDS = 3600
_POOL_OVERFLOW = 20
_POLL_MILLISECONDS = 2000


@click.command(context_settings={"help_option_names": ["--help"]})
@click.option("--workspace", "-w", type=click.Path(path_type=Path), required=True, help="workspace.yaml")
@click.option("--host", "-h", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--wait-for", type=click.Path(path_type=Path), help="Socket of the code server.")
def main(workspace: Path, host: str, port: int, wait_for: Path | None) -> None:
    """Serve Dagster's UI for the instance of DAGSTER_HOME and the code of a workspace file."""
    keep_files_private()
    try:
        access = read_ui_access(os.environ, Path.cwd(), host)
    except ConfigurationError as error:
        click.echo(visible(f"stash-sense: {error}"), err=True)
        sys.exit(error.exit_code)
    serve(workspace, host, port, access, wait_for)


def serve(workspace: Path, host: str, port: int, access: UiAccess, wait_for: Path | None) -> None:
    """Serves until SIGINT or SIGTERM."""
    import dagster as dg
    import uvicorn
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    from stash_sense_pipeline.orchestration.dagster_private import (
        WorkspaceFileTarget,
        WorkspaceProcessContext,
        configure_loggers,
        setup_interrupt_handlers,
    )

    configure_loggers(log_level="WARNING")
    setup_interrupt_handlers()
    _await_socket(wait_for)
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _CONNECTION_SECONDS, _POOL_OVERFLOW)
        target = WorkspaceFileTarget([str(workspace)])
        with WorkspaceProcessContext(instance, target, version=__version__) as context:
            application = create_app_from_workspace_process_context(
                context, access.path_prefix, _POLL_MILLISECONDS, lifespan=_lifespan
            )
            # X-Forwarded-... headers are ignored: the guard reads only Host and Origin.
            uvicorn.run(
                guarded(application, access),
                host=host,
                port=port,
                log_level="warning",
                proxy_headers=False,
                server_header=False,
            )


def guarded(application: ASGIApp, access: UiAccess) -> ASGIApp:
    """The application behind the guard."""
    from stash_sense_pipeline.deployment.ui_guard import UiGuard

    return UiGuard(application, access)


@asynccontextmanager
async def _lifespan(application: Starlette) -> AsyncIterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        # uvicorn cancels the lifespan task after a signal.
        return


def _await_socket(socket: Path | None) -> None:
    """Waits for the code server, because the UI shows an error without it. After 120 s the UI starts and shows the error."""
    give_up = time.monotonic() + _WAIT_SECONDS
    while socket is not None and not socket.exists() and time.monotonic() < give_up:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
