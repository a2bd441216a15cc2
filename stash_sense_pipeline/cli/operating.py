"""Commands of an operator: make ready, serve the UI with the daemon, back up, restore."""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from stash_sense_pipeline.cli.common import environment_of
from stash_sense_pipeline.errors import ConfigurationError


@click.command()
def prepare() -> None:
    """Make everything ready that the services need: directories, sources.yaml, databases, pool limits. Repeatable."""
    from stash_sense_pipeline.orchestration.instance import open_instance
    from stash_sense_pipeline.orchestration.preparing import gpu_count
    from stash_sense_pipeline.orchestration.preparing import prepare as make_ready

    environment = environment_of(os.environ)
    home = _home(environment.data_dir)
    make_ready(environment, lambda: open_instance(home), gpu_count(os.environ), click.echo)


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Dagster's UI has no login: open it with care."
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
def serve(host: str, port: int) -> None:
    """Run the Dagster UI, the schedules and the sensors on this machine until SIGINT or SIGTERM: no container, no server."""
    from stash_sense_pipeline.orchestration.instance import only_daemon, open_instance, prepare_home
    from stash_sense_pipeline.orchestration.preparing import gpu_count
    from stash_sense_pipeline.orchestration.preparing import prepare as make_ready
    from stash_sense_pipeline.orchestration.ui import serve_ui
    from stash_sense_pipeline.shipped_files import shipped_file

    _check_port(host, port)
    environment = environment_of(os.environ)
    home = _home(environment.data_dir)
    make_ready(environment, lambda: open_instance(home), gpu_count(os.environ), click.echo)
    with only_daemon(prepare_home(home)):
        click.echo(f"Dagster UI: http://{host}:{port}  (Ctrl-C ends it)")
        # The code is loaded from another directory: what was relative to this one is said in full.
        variables = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "DATA_DIR": str(environment.data_dir),
            "STASH_SENSE_SOURCES": str(environment.sources_file),
            "STASH_SENSE_CATALOG_URL": environment.catalog_url,
            "STASH_SENSE_MODEL_PACK": environment.model_pack,
            "STASH_SENSE_OVERRIDES": str(environment.overrides_file),
            "STASH_SENSE_SUPPRESSIONS": str(environment.suppressions_file),
        }
        sys.exit(serve_ui(shipped_file("workspace.yaml"), host, port, variables))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(file: Path) -> None:
    """Write the catalog, as of now, and your own files to a new zip FILE. Runs may go on meanwhile.

    Model packs and releases are not in it: packs can be pulled again, releases are made from the catalog.
    """
    from stash_sense_pipeline.catalog.backup import write_backup
    from stash_sense_pipeline.catalog.engine import open_catalog

    environment = environment_of(os.environ)
    engine = open_catalog(environment.catalog_url)
    try:
        report = write_backup(engine, environment.own_files, file, datetime.now(UTC))
    finally:
        engine.dispose()
    click.echo(
        f"{report.path}: {report.rows} rows of the catalog, {', '.join(report.files)}; {report.size} bytes"
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def restore(file: Path) -> None:
    """Put a backup's catalog and files where the environment points. Nothing that is there is overwritten."""
    from stash_sense_pipeline.catalog.backup import restore_backup

    environment = environment_of(os.environ)
    report = restore_backup(file, environment.catalog_url, environment.own_files)
    click.echo(
        f"restored {report.rows} rows of the catalog, {', '.join(report.files)}, of {report.made_at:%Y-%m-%d %H:%M} UTC"
    )
    click.echo("the next publish makes the release anew: stash-sense build, or the job publish")


def _home(data_dir: Path) -> Path:
    return Path(os.environ.get("DAGSTER_HOME") or data_dir / "dagster").absolute()


def _check_port(host: str, port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port"
        ) from error
