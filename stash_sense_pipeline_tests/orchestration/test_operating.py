"""What an operator gets wrong, and how the program says so: one line where they look first."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stash_sense_pipeline.orchestration.home import only_daemon, prepare_home

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).with_name("stash-sense")


def runs(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs stash-sense with a data directory of its own."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("STASH_SENSE_", "DAGSTER_"))
    }
    environment = {
        **clean,
        "DATA_DIR": str(home / "data"),
        "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
        **variables,
    }
    return subprocess.run(
        [PROGRAM, *arguments], env=environment, cwd=home, capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on standard error of a command that ended so."""
    assert result.returncode == code, result.stdout + result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that somebody listens on while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_prepare_makes_everything_ready_and_again_changes_nothing(tmp_path: Path) -> None:
    first = runs(tmp_path, "prepare", STASH_SENSE_GPUS="2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "run history: ready; pool gpu: 2 at a time"
    assert "sources.yaml: written; look through it" in first.stdout
    mine = (tmp_path / "sources.yaml").read_text() + "\n# mine\n"
    (tmp_path / "sources.yaml").write_text(mine)
    second = runs(tmp_path, "prepare")
    assert (second.returncode, second.stderr) == (0, "")
    assert (tmp_path / "sources.yaml").read_text() == mine


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    said = one_line(runs(tmp_path, "prepare", STASHDB_API_KEY_FILE="/run/secrets/nothing"), 2)
    assert "STASHDB_API_KEY_FILE: /run/secrets/nothing cannot be read: No such file or directory" in said


def test_a_database_server_that_is_not_there(tmp_path: Path) -> None:
    url = "postgresql+psycopg2://stash:hunter2@127.0.0.1:9/catalog"
    said = one_line(runs(tmp_path, "prepare", STASH_SENSE_CATALOG_URL=url), 1)
    assert "cannot open the catalog postgresql+psycopg2://stash:***@127.0.0.1:9/catalog" in said
    assert "Connection refused" in said
    assert "hunter2" not in said


def test_a_volume_that_cannot_be_written(tmp_path: Path) -> None:
    # Nobody can make a directory there, not even root.
    said = one_line(runs(tmp_path, "prepare", DATA_DIR="/proc/stash-sense"), 2)
    assert f"DATA_DIR: /proc/stash-sense cannot be written by user {os.geteuid()}:" in said
    assert "chown -R" in said


def test_a_port_that_is_taken(tmp_path: Path, free_port: int) -> None:
    said = one_line(runs(tmp_path, "serve", "--port", str(free_port)), 2)
    assert f"port {free_port} of 127.0.0.1 cannot be used" in said
    assert "--port" in said


def test_a_second_daemon_on_the_same_data(tmp_path: Path) -> None:
    with only_daemon(prepare_home(tmp_path / "data" / "dagster")):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        said = one_line(runs(tmp_path, "serve", "--port", str(port)), 2)
    assert f"process {os.getpid()} already serves" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("STASH_SENSE_GPUS", "none"), ("STASH_SENSE_EXECUTOR", "dask"), ("STASH_SENSE_AUTOMATION", "yes"),
     ("STASH_SENSE_ALERT_URL", "mailto:x"), ("STASH_SENSE_ALERT_AFTER", "0"), ("STASH_SENSE_DEVICE", "rocm")],
)  # fmt: skip
def test_a_setting_that_is_none(tmp_path: Path, name: str, value: str) -> None:
    assert name in one_line(runs(tmp_path, "prepare", **{name: value}), 2)
