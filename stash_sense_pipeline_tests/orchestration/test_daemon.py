"""The sensors in Dagster's daemon: a change at a stash-box leads to a published release."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings

PROJECT = shipped_file("workspace.yaml").parent
WITHIN_SECONDS = 480


def _dagster(program: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name(program)), *arguments]


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_SECONDS + 180)
def test_the_daemon_publishes_a_release_after_a_stash_box_changed(tmp_path: Path) -> None:
    with SandboxServers(make_demo_world(seed=5, people=40)) as servers:
        kept = sources_settings(servers)
        kept["stash_boxes"] = {name: kept["stash_boxes"][name] for name in ("stashdb", "fansdb")}
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(kept))
        home = prepare_home(tmp_path / "dagster")
        variables = {
            **os.environ,
            "DATA_DIR": str(tmp_path / "data"),
            "STASH_SENSE_SOURCES": str(tmp_path / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "DAGSTER_HOME": str(home),
            **servers.environment(),
        }
        start = _dagster("dagster", "sensor", "start", "--start-all", "-w", "workspace.yaml")
        subprocess.run(start, cwd=PROJECT, env=variables, check=True, capture_output=True, timeout=120)
        log = (tmp_path / "daemon.log").open("wb")
        daemon = subprocess.Popen(
            _dagster("dagster-daemon", "run", "-w", "workspace.yaml"),
            cwd=PROJECT,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A shell that starts us in the background ignores SIGINT, and the daemon would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        try:
            release = _await_release(tmp_path / "data" / "releases" / "latest", daemon)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(tmp_path / 'daemon.log').read_text()[-4000:]}") from error
        finally:
            daemon.send_signal(signal.SIGINT)
            try:
                daemon.wait(timeout=60)
            finally:
                os.killpg(daemon.pid, signal.SIGKILL) if daemon.poll() is None else None
                log.close()
    assert failures(verify_release(release)) == ()
    with open_instance(home) as instance:
        runs = [
            (run.job_name, run.tags.get("dagster/partition"), run.status.value) for run in instance.get_runs()
        ]
    assert {(job, partition) for job, partition, _ in runs} == {
        ("refresh_source", "stashdb"),
        ("refresh_source", "fansdb"),
        ("embed_faces", "stashdb"),
        ("embed_faces", "fansdb"),
        ("publish", None),
    }
    assert {status for _, _, status in runs} == {"SUCCESS"}
    assert len(runs) == 5


def _await_release(latest: Path, daemon: subprocess.Popen[bytes]) -> Path:
    give_up = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < give_up:
        assert daemon.poll() is None, "the daemon ended by itself"
        if latest.exists():
            # The run writes its last event after the release is in place.
            time.sleep(10)
            return latest.resolve()
        time.sleep(1)
    raise AssertionError("no release came out")
