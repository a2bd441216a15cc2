"""Mistakes of an operator: the program reports each in one line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from stash_sense_pipeline.deployment.dagster_home import only_daemon, prepare_home
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.postgres import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = Path(sys.executable).with_name("stash-sense")


def variables_of(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a command with a data directory of its own."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("STASH_SENSE_", "DAGSTER_"))
    }
    return {
        **clean,
        "DATA_DIR": str(home / "data"),
        "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
        **more,
    }


def runs(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs stash-sense with a data directory of its own."""
    return subprocess.run(
        [PROGRAM, *arguments], env=variables_of(home, variables), cwd=home, capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip


def runs_here(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Does the same in this process, for a command that ends before it begins its work."""
    return run_here(home, variables_of(home, variables), *arguments)


# Becomes another user when everything is loaded, because that user may not read root's Python.
_AS_NOBODY = """
import os
from stash_sense_pipeline import cli
from stash_sense_pipeline.deployment import bootstrap, dagster_instance
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
cli.main()
"""


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on standard error of a command that ended so."""
    assert result.returncode == code, result.stdout + result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that is in use while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_prepare_creates_everything_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    first = runs(tmp_path, "prepare", STASH_SENSE_GPUS="2")
    assert first.returncode == 0, first.stderr
    assert "\nrun history: ready; pool gpu: 2 at a time\nproblem  contact: " in first.stdout
    assert "sources.yaml: written; look through it" in first.stdout
    mine = (tmp_path / "sources.yaml").read_text() + "\n# mine\n"
    (tmp_path / "sources.yaml").write_text(mine)
    second = runs_here(tmp_path, "prepare")
    assert (second.returncode, second.stderr) == (0, "")
    assert (tmp_path / "sources.yaml").read_text() == mine


def test_a_missing_key_file_prints_one_line(tmp_path: Path) -> None:
    said = one_line(runs_here(tmp_path, "prepare", STASHDB_API_KEY_FILE="/run/secrets/nothing"), 2)
    assert "STASHDB_API_KEY_FILE: /run/secrets/nothing cannot be read: No such file or directory" in said


def test_prepare_with_an_unreachable_database_server_prints_one_line(tmp_path: Path) -> None:
    url = "postgresql+psycopg2://stash:hunter2@127.0.0.1:9/catalog"
    said = one_line(runs_here(tmp_path, "prepare", STASH_SENSE_CATALOG_URL=url), 1)
    assert "cannot open the catalog postgresql+psycopg2://stash:***@127.0.0.1:9/catalog" in said
    assert "Connection refused" in said
    assert "hunter2" not in said


def test_a_data_directory_that_cannot_be_created_prints_one_line(tmp_path: Path) -> None:
    # Not even root can create a directory there.
    said = one_line(runs_here(tmp_path, "prepare", DATA_DIR="/proc/stash-sense"), 2)
    assert f"DATA_DIR: /proc/stash-sense cannot be written by user {os.geteuid()}:" in said
    assert "chown -R" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_volume_of_another_user_prints_one_line() -> None:
    # Not in pytest's own directory, which only its owner may enter.
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o755)
        (home / "data").mkdir(mode=0o755)
        result = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, "prepare"],
            env={**os.environ, "DATA_DIR": str(home / "data")},
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
    said = one_line(result, 2)
    assert f"{home / 'data'} cannot be written by user 65534:65534 (Permission denied)" in said
    assert f"chown -R 65534:65534 {home / 'data'}" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unreachable_sources_file_prints_one_line(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o755)
        (home / "data").mkdir()
        os.chown(home / "data", 65534, 65534)
        (home / "closed").mkdir(mode=0o700)
        result = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, "prepare"],
            env={
                **os.environ,
                "DATA_DIR": str(home / "data"),
                "STASH_SENSE_SOURCES": str(home / "closed" / "sources.yaml"),
            },
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        said = one_line(result, 2)
        assert (
            f"{home / 'closed' / 'sources.yaml'} can neither be read nor written by user 65534:65534" in said
        )
        assert "(Permission denied)" in said


@pytest.mark.parametrize("command", [["prepare"], ["serve"], ["build"]])
def test_cuda_without_a_gpu_prints_one_line(tmp_path: Path, command: list[str]) -> None:
    sources = "stash_boxes:\n  private: {enabled: true, url: http://127.0.0.1:9/graphql}\n"
    (tmp_path / "sources.yaml").write_text(f"global: {{user_agent_contact: a@b.invalid}}\n{sources}")
    # What has begun to serve does not end by itself.
    run = runs if command == ["serve"] else runs_here
    said = one_line(
        run(
            tmp_path,
            *command,
            STASH_SENSE_DEVICE="cuda",
            PRIVATE_API_KEY="key",
            STASH_SENSE_MODEL_PACK=str(DEMO_PACK),
        ),
        1,
    )
    assert "CUDA was asked for and is not there" in said
    assert "choose the device cpu" in said


def test_a_build_without_any_key_prints_one_line(tmp_path: Path) -> None:
    shipped = shipped_file("sources.yaml").read_text()
    filled = shipped.replace('user_agent_contact: ""', 'user_agent_contact: "a@b.invalid"')
    (tmp_path / "sources.yaml").write_text(filled)
    said = one_line(runs_here(tmp_path, "build"), 2)
    assert "stashdb: no key; set STASHDB_API_KEY or STASHDB_API_KEY_FILE" in said


def test_a_build_without_a_contact_address_prints_one_line_and_makes_no_catalog(tmp_path: Path) -> None:
    shutil.copyfile(shipped_file("sources.yaml"), tmp_path / "sources.yaml")
    said = one_line(runs_here(tmp_path, "build", STASHDB_API_KEY="key"), 2)
    assert f"set global.user_agent_contact in {tmp_path / 'sources.yaml'}" in said
    assert not (tmp_path / "data").exists()


def test_serve_with_an_unreachable_database_server_prints_one_line(tmp_path: Path) -> None:
    url = "postgresql+psycopg2://stash:hunter2@127.0.0.1:9/catalog"
    said = one_line(runs(tmp_path, "serve", "--port", str(free_port()), STASH_SENSE_CATALOG_URL=url), 1)
    assert "cannot open the catalog postgresql+psycopg2://stash:***@127.0.0.1:9/catalog" in said


def test_a_port_in_use_prints_one_line(tmp_path: Path, taken_port: int) -> None:
    said = one_line(runs(tmp_path, "serve", "--port", str(taken_port)), 2)
    assert f"port {taken_port} of 127.0.0.1 cannot be used" in said
    assert "--port" in said


def test_a_second_daemon_on_the_same_data_prints_one_line(tmp_path: Path) -> None:
    with only_daemon(prepare_home(tmp_path / "data" / "dagster")):
        said = one_line(runs(tmp_path, "serve", "--port", str(free_port())), 2)
    assert f"process {os.getpid()} already serves" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("STASH_SENSE_GPUS", "none"), ("STASH_SENSE_EXECUTOR", "dask"), ("STASH_SENSE_AUTOMATION", "yes"),
     ("STASH_SENSE_ALERT_URL", "mailto:x"), ("STASH_SENSE_ALERT_AFTER", "0"), ("STASH_SENSE_DEVICE", "rocm")],
)  # fmt: skip
def test_an_invalid_setting_prints_one_line(tmp_path: Path, name: str, value: str) -> None:
    assert name in one_line(runs_here(tmp_path, "prepare", **{name: value}), 2)


@pytest.mark.parametrize("program", ["serve", "webserver"])
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STASH_SENSE_UI_PASSWORD_FILE": "nothing"}, "nothing cannot be read: No such file or directory"),
        ({"STASH_SENSE_UI_PASSWORD_FILE": "empty"}, "empty is empty"),
        (
            {"STASH_SENSE_UI_PASSWORD_FILE": "open"},
            "open is open to other users (mode 644); run chmod 600 on it",
        ),
        ({"STASH_SENSE_UI_HOSTS": "http://x"}, "STASH_SENSE_UI_HOSTS: 'http://x' is not a host name"),
        ({"STASH_SENSE_UI_PATH_PREFIX": "x"}, "STASH_SENSE_UI_PATH_PREFIX: 'x' is not a path"),
    ],
)
def test_an_invalid_setting_of_the_ui_prints_one_line(
    program: str, variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch(mode=0o600)
    (tmp_path / "open").write_text("word")
    (tmp_path / "open").chmod(0o644)
    if program == "serve":
        result = runs(tmp_path, "serve", "--port", str(free_port()), **variables)
    else:
        module = "stash_sense_pipeline.deployment.webserver"
        result = subprocess.run(
            [sys.executable, "-m", module, "-w", "workspace.yaml"], env={**os.environ, **variables}, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
    assert said in one_line(result, 2)
    assert not (tmp_path / "data").exists(), "nothing was begun"
