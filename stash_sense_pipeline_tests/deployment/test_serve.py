"""`stash-sense serve` for years: a killed program is restarted, and only one process serves a DAGSTER_HOME."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest

from stash_sense_pipeline_tests.deployment.test_operating import one_line, runs
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM
from stash_sense_pipeline_tests.postgres import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# How the programs are told apart in the list of processes.
COMMANDS = {
    "the webserver": "deployment.webserver",
    "the code server": "code-server",
    "the daemon": "dagster._daemon",
}


class Served:
    """A `serve` that runs, with what it says in `log`."""

    def __init__(self, home: Path, given: Mapping[str, str] = MappingProxyType({})) -> None:
        self.home, self.port, self.log = home, free_port(), home / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("STASH_SENSE_")}
        variables = {"DATA_DIR": str(home / "data"), "STASH_SENSE_SOURCES": str(home / "sources.yaml")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", "--port", str(self.port)],
                env={**clean, **variables, **given}, cwd=home, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def said(self, text: str, times: int = 1) -> None:
        """Waits until it has said this so often."""
        give_up = time.monotonic() + 240
        while self.log.read_text().count(text) < times:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < give_up, f"{text}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.2)

    def program(self, name: str) -> psutil.Process:
        """Waits for the process of that program, a child of ours."""
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            for child in psutil.Process(self.process.pid).children():
                if COMMANDS[name] in " ".join(child.cmdline()):
                    return child
            time.sleep(0.2)
        raise AssertionError(f"{name} does not run")

    def location(self) -> str:
        """What the UI knows of the code location: loaded, or an error."""
        query = "{workspaceOrError {... on Workspace {locationEntries {locationOrLoadError {__typename}}}}}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            (entry,) = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
        return str(entry["locationOrLoadError"]["__typename"])

    def kill(self) -> None:
        """Ends it with all that it started."""
        children = (
            psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        )
        for process in [self.process, *children]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with served_at(tmp_path) as made:
        yield made


@contextmanager
def served_at(home: Path) -> Iterator[Served]:
    """A `serve` with its data below `home`; all that it started is killed at the end."""
    made = Served(home)
    try:
        yield made
    finally:
        made.kill()


def test_a_killed_program_is_restarted_and_sigint_ends_serve_with_exit_code_0(served: Served) -> None:
    served.said("Dagster UI: http://127.0.0.1:")
    served.program("the daemon")
    # What ends sooner after its start is taken for broken.
    time.sleep(21)
    for place, name in enumerate(COMMANDS, start=1):
        served.program(name).send_signal(signal.SIGKILL)
        served.said(f"{name} ended by itself (exit code -9); it is restarted")
        assert served.log.read_text().count("it is restarted") == place
    give_up = time.monotonic() + 120
    while True:
        try:
            if served.location() == "RepositoryLocation":
                break
        except OSError:
            # The webserver is not up again yet.
            pass
        assert time.monotonic() < give_up, served.log.read_text()[-3000:]
        time.sleep(1)
    before = psutil.Process(served.process.pid).children(recursive=True)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=90) == 0
    gone, left = psutil.wait_procs(before, timeout=30)
    assert gone
    assert left == [], "everything that it started has ended with it"


def test_a_daemon_with_a_killed_parent_keeps_the_daemon_lock(served: Served) -> None:
    served.said("Dagster UI: http://127.0.0.1:")
    daemon = served.program("the daemon")
    orphans = psutil.Process(served.process.pid).children(recursive=True)
    served.process.kill()
    served.process.wait()
    try:
        assert daemon.is_running()
        said = one_line(runs(served.home, "serve", "--port", str(free_port())), 2)
        assert "already serves" in said
    finally:
        for orphan in orphans:
            if orphan.is_running():
                orphan.kill()
