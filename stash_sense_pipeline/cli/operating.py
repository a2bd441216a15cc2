"""Commands of an operator: prepare, doctor, serve, backup, restore."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.cli.common import check_port, echo, environment_of, existing_catalog, ui_variables

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.settings.environment import Environment


@click.command()
def prepare() -> None:
    """Prepare what the services need: directories, sources.yaml, databases, pool limits. Running it again is safe.

    At the end it says what is not ready yet, as `stash-sense doctor --offline` does. That does not change the exit code.
    """
    environment = environment_of(os.environ)
    _make_ready(environment, _home(environment.data_dir))


@click.command()
@click.option("--offline", is_flag=True, help="Send no request to a source.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks and the estimate as JSON.")
def doctor(offline: bool, as_json: bool) -> None:
    """Check that runs can succeed: settings, keys, sources, model pack, device, disk, clock, databases, daemon.

    Nothing is changed or created. Each enabled source is sent one request, a reference site for its robots.txt; a source
    of the Internet is sent none before a contact address is set. Before a first build its size is estimated. Exit code 0
    when there is no problem, 1 otherwise; warnings do not count.
    """
    from stash_sense_pipeline.deployment.bootstrap import gpu_count
    from stash_sense_pipeline.deployment.readiness.doctor import Scope, examine, report_lines
    from stash_sense_pipeline.settings.environment import read_environment

    # Unlike environment_of it leaves what a killed command left behind.
    environment = read_environment(os.environ, Path.cwd())
    home = _home(environment.data_dir)
    report = examine(environment, home, gpu_count(os.environ), Scope(ask=not offline))
    if as_json:
        echo(json.dumps(report.as_data(), indent=2))
    else:
        for line in report_lines(report):
            echo(line)
    sys.exit(1 if report.has_problem else 0)


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Other machines can reach an address other than loopback: set STASH_SENSE_UI_PASSWORD_FILE first.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
def serve(host: str, port: int) -> None:
    """Run the Dagster UI, the schedules and the sensors on this machine, without containers, until SIGINT or SIGTERM."""
    from stash_sense_pipeline.deployment.dagster_home import check_writable, only_daemon, prepare_home
    from stash_sense_pipeline.deployment.supervisor import UiServer, serve_ui
    from stash_sense_pipeline.faces.models.onnx_sessions import Device, require_device

    check_port(host, port)
    environment = environment_of(os.environ)
    ui = ui_variables(os.environ, host)
    if environment.executor == "in_process":
        require_device(Device(environment.device))
    check_writable(environment.data_dir)
    home = prepare_home(_home(environment.data_dir))
    # The programs run in another directory, so relative paths are made absolute.
    variables = {
        **os.environ,
        **ui,
        "DAGSTER_HOME": str(home),
        "DATA_DIR": str(environment.data_dir),
        "STASH_SENSE_SOURCES": str(environment.sources_file),
        "STASH_SENSE_CATALOG_URL": environment.catalog_url,
        "STASH_SENSE_MODEL_PACK": environment.model_pack,
        "STASH_SENSE_OVERRIDES": str(environment.overrides_file),
        "STASH_SENSE_SUPPRESSIONS": str(environment.suppressions_file),
    }
    with only_daemon(home) as held:
        server = UiServer(home, host, port, variables, [held])
        exit_code = serve_ui(server, echo, lambda: _make_ready(environment, home))
    sys.exit(exit_code)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(file: Path) -> None:
    """Write the current catalog and your own files to a new zip FILE. Runs may continue meanwhile.

    It holds no model packs and no releases: packs can be pulled again, releases are made from the catalog.
    """
    from stash_sense_pipeline.catalog.backup import write_backup

    environment = environment_of(os.environ)
    with existing_catalog(environment) as engine:
        report = write_backup(
            engine, environment.own_files, file, datetime.now(UTC), data_dir=environment.data_dir
        )
    echo(f"{report.path}: {report.rows} rows of the catalog, {', '.join(report.files)}; {report.size} bytes")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def restore(file: Path) -> None:
    """Restore the catalog and the files of a backup to the paths of the environment. Existing files are not overwritten.

    People on the suppression list of the backup or of this machine are erased before the catalog is put in place.
    """
    from stash_sense_pipeline.catalog.backup import RestoreTarget, restore_backup
    from stash_sense_pipeline.deployment.shipped_files import shipped_file
    from stash_sense_pipeline.identity.relatives import IdentityRelatives
    from stash_sense_pipeline.privacy.enforcement import UnpackedBackup, enforce_in_copy
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    left_out = 0

    def erase(catalog: sa.Engine, unpacked: Path) -> None:
        nonlocal left_out
        files = (environment.sources_file, unpacked / "sources.yaml", shipped_file("sources.yaml"))
        settings = load_settings(next(path for path in files if path.exists()))
        hosts = {name: box.host for name, box in settings.stash_boxes.items()}
        relatives = IdentityRelatives(hosts, unpacked / "identity_overrides.yaml")
        backup = UnpackedBackup(catalog, unpacked)
        erased = enforce_in_copy(backup, environment, settings.names, datetime.now(UTC), relatives)
        left_out = erased.records

    # An existing suppression list stays: it is newer, and the entries of the backup's list are in its catalog.
    report = restore_backup(
        file,
        RestoreTarget(environment.catalog_url, environment.own_files, stay={"suppressions.yaml"}),
        data_dir=environment.data_dir,
        before_copy=erase,
    )
    echo(
        f"restored {report.rows} rows of the catalog, {', '.join(report.files)}, of {report.made_at:%Y-%m-%d %H:%M} UTC"
    )
    for name in report.kept:
        echo(f"kept your own {name}: it differs from the backup's")
    if left_out:
        echo(f"left out {left_out} records of people on the suppression list")
    echo("the next publish makes the release anew: stash-sense build, or the job publish")


def _make_ready(environment: Environment, home: Path) -> None:
    from stash_sense_pipeline.deployment.bootstrap import gpu_count, prepare
    from stash_sense_pipeline.deployment.dagster_home import restrict_data

    gpus = gpu_count(os.environ)
    restrict_data(environment.data_dir, home)
    prepare(environment, home, gpus, echo)
    _tell_what_is_not_ready(environment, home, gpus)


def _tell_what_is_not_ready(environment: Environment, home: Path, gpus: int) -> None:
    from stash_sense_pipeline.deployment.readiness.check import State
    from stash_sense_pipeline.deployment.readiness.doctor import Scope, check_lines, examine

    for check in examine(environment, home, gpus, Scope(ask=False, history=False)).checks:
        if check.state is not State.OK:
            for line in check_lines(check):
                echo(line)


def _home(data_dir: Path) -> Path:
    return Path(os.environ.get("DAGSTER_HOME") or data_dir / "dagster").absolute()
