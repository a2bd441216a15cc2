"""`stash-sense serve` for years: a killed program is restarted, and only one process serves a DAGSTER_HOME."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from stash_sense_pipeline.foundation.files import private_opener
from stash_sense_pipeline_tests.deployment.test_operating import one_line, runs
from stash_sense_pipeline_tests.postgres import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# How the programs are told apart in the list of processes.
COMMANDS = {
    "the webserver": "deployment.webserver",
    "the code server": "code-server",
    "the daemon": "dagster._daemon",
}
# `stash-sense`, with another limit for the end of a program that is taken for broken.
PROGRAM_TEXT = """
from stash_sense_pipeline import cli
from stash_sense_pipeline.deployment import supervisor
supervisor._EARLY_END_SECONDS = {early_end_seconds}
cli.main()
"""


@dataclass
class Served:
    """A `serve` that runs, with what it says in `log`."""

    home: Path
    given: Mapping[str, str] = field(default_factory=dict)
    umask: int = -1
    early_end_seconds: float = 20.0

    def __post_init__(self) -> None:
        self.port, self.log = free_port(), self.home / "log"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STASH_SENSE_", "DAGSTER_"))
        }
        home = {
            "DATA_DIR": str(self.home / "data"),
            "STASH_SENSE_SOURCES": str(self.home / "sources.yaml"),
        }
        program = PROGRAM_TEXT.format(early_end_seconds=self.early_end_seconds)
        with open(self.log, "wb", opener=private_opener) as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "serve", "--port", str(self.port)],
                env={**clean, **home, **self.given}, cwd=self.home, stdout=log, stderr=log,
                start_new_session=True, umask=self.umask,
            )  # fmt: skip

    def said(self, text: str, times: int = 1) -> None:
        """Waits until it has said this so often."""
        give_up = time.monotonic() + 400
        while self.log.read_text().count(text) < times:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < give_up, f"{text}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def program(self, name: str) -> psutil.Process:
        """Waits for the process of that program, a child of ours."""
        give_up = time.monotonic() + 240
        while time.monotonic() < give_up:
            for child in psutil.Process(self.process.pid).children():
                # A child may end after it was listed.
                with suppress(psutil.NoSuchProcess):
                    if COMMANDS[name] in " ".join(child.cmdline()):
                        return child
            time.sleep(0.05)
        raise AssertionError(f"{name} does not run")

    def location(self) -> str:
        """What the UI knows of the code location: loaded, or an error. Waits until it answers and has looked."""
        query = "{workspaceOrError {... on Workspace {locationEntries {locationOrLoadError {__typename}}}}}"
        give_up = time.monotonic() + 240
        while True:
            for entry in self.ask(query).get("workspaceOrError", {}).get("locationEntries", []):
                if entry["locationOrLoadError"] is not None:
                    return str(entry["locationOrLoadError"]["__typename"])
            assert time.monotonic() < give_up, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def ask(self, query: str) -> dict[str, dict[str, list[dict[str, dict[str, str] | None]]]]:
        """The data of an answer of the UI; empty while it is not up."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=240) as answer:
                return dict(json.load(answer)["data"] or {})
        except (OSError, HTTPException):
            return {}

    def kill(self) -> None:
        """Ends it with all that it started, also with what it starts meanwhile."""
        if self.process.poll() is None:
            root = psutil.Process(self.process.pid)
            found: set[psutil.Process] = set()
            while new := {root, *root.children(recursive=True)} - found:
                for process in new:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()
                found |= new
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


@contextmanager
def served_at(home: Path, early_end_seconds: float = 20.0) -> Iterator[Served]:
    """A `serve` with its data below `home`; all that it started is killed at the end."""
    made = Served(home, early_end_seconds=early_end_seconds)
    try:
        yield made
    finally:
        made.kill()


def test_a_killed_program_is_restarted_and_sigterm_ends_serve_with_exit_code_0(tmp_path: Path) -> None:
    with served_at(tmp_path, early_end_seconds=0.5) as served:
        served.said("Dagster UI: http://127.0.0.1:")
        served.program("the daemon")
        time.sleep(served.early_end_seconds)
        for place, name in enumerate(COMMANDS, start=1):
            served.program(name).send_signal(signal.SIGKILL)
            served.said(f"{name} ended by itself (exit code -9); it is restarted")
            assert served.log.read_text().count("it is restarted") == place
        give_up = time.monotonic() + 240
        # The UI may show the error of the killed code server first.
        while served.location() != "RepositoryLocation":
            assert time.monotonic() < give_up, served.log.read_text()[-3000:]
            time.sleep(0.1)
        before = psutil.Process(served.process.pid).children(recursive=True)
        assert before
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=240) == 0
        _, left = psutil.wait_procs(before, timeout=240)
        assert left == [], "everything that it started has ended with it"


def test_a_daemon_with_a_killed_parent_keeps_the_daemon_lock(tmp_path: Path) -> None:
    with served_at(tmp_path) as served:
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
                with suppress(psutil.NoSuchProcess):
                    orphan.kill()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_while_a_program_loads_prints_no_traceback(tmp_path: Path, name: str) -> None:
    with served_at(tmp_path) as served:
        served.program(name)
        # The program has begun to load Dagster, which takes a second and more.
        time.sleep(0.3)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=240) == 0, served.log.read_text()
    text = served.log.read_text()
    assert "Traceback" not in text, text
    assert "Aborted" not in text, text
