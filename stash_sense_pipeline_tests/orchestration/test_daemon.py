"""The sensors in Dagster's daemon: a change at a stash-box leads to a published release."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.orchestration.conftest import WAIT_SECONDS, wait_until
from stash_sense_pipeline_tests.rendered_pictures import rendered

PROJECT = shipped_file("workspace.yaml").parent
# The definitions of the program with sensors that are switched on, and that look more often than once a minute.
QUICK = """
import dagster as dg

made = dg.sensor


def quick(*, minimum_interval_seconds=None, default_status, **options):
    if minimum_interval_seconds == 60:
        minimum_interval_seconds = 2
    default_status = dg.DefaultSensorStatus.RUNNING
    return made(minimum_interval_seconds=minimum_interval_seconds, default_status=default_status, **options)


dg.sensor = quick
from stash_sense_pipeline.definitions import defs
"""
RUNS = {
    ("refresh_source", "stashdb"),
    ("refresh_source", "fansdb"),
    ("embed_faces", "stashdb"),
    ("embed_faces", "fansdb"),
    ("publish", None),
}


def write_workspace(directory: Path) -> Path:
    """The workspace with these definitions."""
    code, workspace = directory / "quick.py", directory / "workspace.yaml"
    code.write_text(QUICK)
    location = {
        "relative_path": str(code), "location_name": names.CODE_LOCATION, "working_directory": str(PROJECT),
    }  # fmt: skip
    workspace.write_text(yaml.safe_dump({"load_from": [{"python_file": location}]}))
    return workspace


@contextmanager
def running_daemon(
    workspace: Path, variables: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Dagster's daemon, until SIGINT ends it."""
    program = str(Path(sys.executable).with_name("dagster-daemon"))
    with log.open("wb") as stream:
        daemon = subprocess.Popen(
            [program, "run", "-w", str(workspace)],
            cwd=PROJECT,
            env={**os.environ, **variables},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            # A shell that starts us in the background ignores SIGINT, and the daemon would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        try:
            yield daemon
        finally:
            daemon.send_signal(signal.SIGINT)
            try:
                daemon.wait(timeout=WAIT_SECONDS)
            finally:
                if daemon.poll() is None:
                    os.killpg(daemon.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_daemon_publishes_a_release_after_a_stash_box_changed(tmp_path: Path) -> None:
    home, log = prepare_home(tmp_path / "dagster"), tmp_path / "daemon.log"
    with SandboxServers(make_demo_world(seed=5, people=30), pictures=rendered()) as servers:
        kept = sources_settings(servers)
        kept["stash_boxes"] = {name: kept["stash_boxes"][name] for name in ("stashdb", "fansdb")}
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(kept))
        variables = {
            "DATA_DIR": str(tmp_path / "data"),
            "STASH_SENSE_SOURCES": str(tmp_path / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "DAGSTER_HOME": str(home),
            **servers.environment(),
        }
        latest = tmp_path / "data" / "releases" / "latest"
        with (
            # It makes the tables of the history: two processes that do so at once break them.
            open_instance(home) as instance,
            running_daemon(write_workspace(tmp_path), variables, log) as daemon,
        ):
            wait_until(
                lambda: (
                    daemon.poll() is not None
                    # The run writes its last event after the release is in place.
                    or (latest.exists() and all(run.is_finished for run in instance.get_runs()))
                ),
                lambda: log.read_text()[-4000:],
                seconds=1800,
            )
            assert daemon.poll() is None, log.read_text()[-4000:]
            runs = [
                (run.job_name, run.tags.get("dagster/partition"), run.status.value)
                for run in instance.get_runs()
            ]
    assert failures(verify_release(latest.resolve())) == ()
    assert sorted(runs, key=str) == sorted(((*run, "SUCCESS") for run in RUNS), key=str)
