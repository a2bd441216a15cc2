"""Data directories with odd names: commands work in them or refuse them with one line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.deployment.test_serve import served_at
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM, without_progress
from stash_sense_pipeline_tests.postgres import free_port
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Directories in one another: each name holds many characters that mean something to a shell, a URL, a format string or a
# settings file.
WORKING = (
    '-dash with blanks  in it, 50% done #1 it\'s "quoted" back\\slash',
    "file:memory",
    "#1 a=b;c&d|e:f,g!h^i] $HOME ${PATH} ~ {x} {{ y }} %s %(here)s naïve 人 😀 e\u0301",
)
REFUSED = {
    b"what?": "question mark",
    b"a%20b": "percent sign",
    b"[ab]": "square bracket",
    b"a*": "asterisk",
    b"two\nlines": "control character",
    b"tab\tbed": "control character",
    b"\xff latin": "not UTF-8",
    b"~nobody-of-this-name/x": "home directory of an unknown user",
}


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world, served."""
    with SandboxServers(make_demo_world(seed=2, people=8), pictures=rendered()) as running:
        yield running


class Machine:
    """Runs stash-sense with one stash-box and the data directories that a test names."""

    def __init__(self, home: Path, servers: SandboxServers) -> None:
        self.home = home
        settings = sources_settings(servers)
        settings["stash_boxes"] = {"fansdb": settings["stash_boxes"]["fansdb"]}
        (home / "sources.yaml").write_text(yaml.safe_dump(settings))
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("STASH_SENSE_", "DAGSTER_", "DATA_DIR"))
        }
        self.variables = {
            **clean,
            **servers.environment(),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
        }

    def runs(self, data: Path | bytes, *arguments: str | Path) -> tuple[int, str, list[str]]:
        """Exit code, standard output and lines of standard error."""
        variables = {os.fsencode(name): os.fsencode(value) for name, value in self.variables.items()}
        ended = subprocess.run(
            [PROGRAM, *arguments],
            env={**variables, b"DATA_DIR": os.fsencode(data)},
            cwd=self.home,
            capture_output=True,
            check=False,
            timeout=800,
        )
        return ended.returncode, ended.stdout.decode(), without_progress(ended.stderr.decode())

    def runs_here(self, data: Path | bytes, *arguments: str | Path) -> tuple[int, str, list[str]]:
        """The same in this process."""
        ended = run_here(self.home, {**self.variables, "DATA_DIR": os.fsdecode(data)}, *map(str, arguments))
        return ended.returncode, ended.stdout, without_progress(ended.stderr)


@pytest.fixture
def machine(tmp_path: Path, servers: SandboxServers) -> Machine:
    return Machine(tmp_path, servers)


def test_build_backup_and_restore_work_in_directories_with_odd_names(machine: Machine) -> None:
    data = machine.home.joinpath(*WORKING)
    code, said, complaints = machine.runs(data, "build", "--no-faces")
    assert (code, complaints) == (0, []), said
    code, state, complaints = machine.runs_here(data, "status", "--json")
    assert (code, complaints) == (0, [])
    (data / "backups").mkdir()
    archives = [data / "backups" / f"{name}.zip" for name in WORKING]
    for archive in archives:
        assert machine.runs_here(data, "backup", archive)[0::2] == (0, [])
    other = machine.home.joinpath("other", *reversed(WORKING))
    assert machine.runs_here(other, "restore", archives[0])[0::2] == (0, [])
    assert machine.runs_here(other, "status", "--json")[1] == state
    # Nothing went to a place with a part of a name.
    assert {path.name for path in machine.home.iterdir()} == {"sources.yaml", "other", WORKING[0]}
    assert [path.name for path in (machine.home / WORKING[0]).iterdir()] == [WORKING[1]]
    assert [path.name for path in data.parent.iterdir()] == [WORKING[2]]
    assert (data / "dagster" / "history" / "runs.db").is_file()


COMMANDS = pytest.mark.parametrize(
    "command", [("build", "--no-faces"), ("prepare",), ("serve", "--port", "1")], ids=lambda c: c[0]
)


@pytest.mark.parametrize("name", REFUSED)
@COMMANDS
def test_a_path_that_dagster_cannot_use_prints_one_line(
    machine: Machine, name: bytes, command: tuple[str, ...]
) -> None:
    data = name if name.startswith(b"~") else os.fsencode(machine.home) + b"/" + name
    if command[0] == "serve":
        command = (*command[:2], str(free_port()))
    code, _, complaints = machine.runs_here(data, *command)
    assert code == 2, complaints
    (line,) = complaints
    assert REFUSED[name] in line


@COMMANDS
def test_a_process_with_a_path_that_dagster_cannot_use_prints_one_line(
    machine: Machine, command: tuple[str, ...]
) -> None:
    name = b"\xff latin"
    code, _, complaints = machine.runs(os.fsencode(machine.home) + b"/" + name, *command)
    assert code == 2, complaints
    (line,) = complaints
    assert REFUSED[name] in line


@pytest.mark.parametrize("what", ["a file", "below a file", "a link to nothing below a file"])
def test_an_unusable_data_directory_prints_one_line(machine: Machine, what: str) -> None:
    file = machine.home / "file"
    file.write_text("mine")
    (machine.home / "link").symlink_to(file / "below")
    data = {
        "a file": file,
        "below a file": file / "below",
        "a link to nothing below a file": machine.home / "link",
    }[what]
    for command in (["build", "--no-faces"], ["prepare"]):
        code, _, complaints = machine.runs_here(data, *command)
        assert code == 2, complaints
        assert len(complaints) == 1
        assert "cannot be written" in complaints[0]
    code, _, complaints = machine.runs_here(data, "status")
    assert code in (1, 2)
    assert len(complaints) == 1
    assert file.read_text() == "mine"


def test_a_relative_path_and_a_symbolic_link_are_the_same_directory(machine: Machine) -> None:
    (machine.home / "real place").mkdir()
    (machine.home / "link").symlink_to("real place")
    machine.variables["STASH_SENSE_CATALOG_URL"] = "sqlite:///link/mine.db"
    assert machine.runs(Path("link"), "build", "--no-faces")[0::2] == (0, [])
    code, state, _ = machine.runs_here(machine.home / "real place", "status")
    assert code == 0
    assert "fansdb" in state
    assert (machine.home / "real place" / "mine.db").is_file()
    assert (machine.home / "link").is_symlink()


def test_three_first_builds_at_once_all_work(machine: Machine) -> None:
    data = machine.home / "data"
    variables = {**machine.variables, "DATA_DIR": str(data)}
    builds = [
        subprocess.Popen(
            [PROGRAM, "build"],
            env=variables, cwd=machine.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    ended = [(build.communicate(timeout=800), build.returncode) for build in builds]
    assert [code for _, code in ended] == [0, 0, 0], ended
    assert machine.runs_here(data, "build")[0::2] == (0, [])
    leftovers = {
        path.name
        for path in data.iterdir()
        if path.name.endswith((".tmp", ".new", ".db.lock", ".publish.lock"))
    }
    assert leftovers == set()


def test_the_ui_works_in_a_directory_with_an_odd_name(tmp_path: Path) -> None:
    """Webserver, code server and daemon are processes of their own, which are told the directory."""
    home = tmp_path / "it's 50% #1 人 $HOME"
    home.mkdir()
    with served_at(home) as served:
        served.said("Dagster UI: http://127.0.0.1:")
        assert served.location() == "RepositoryLocation"
        served.program("the daemon")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=400) == 0
    assert [path.name for path in tmp_path.iterdir()] == [home.name]
