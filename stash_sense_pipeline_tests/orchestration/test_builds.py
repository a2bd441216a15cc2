"""Builds on a real terminal: progress bars, and signals at any moment."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SOURCES = ("stashdb", "fansdb")


class Terminal:
    """A command in a session of its own, on a pseudo-terminal that a thread reads."""

    def __init__(self, command: list[str], directory: Path, variables: Mapping[str, str]) -> None:
        master, slave = pty.openpty()
        self._master = master
        self._output = bytearray()
        # setsid makes the pseudo-terminal the controlling terminal, which sends SIGINT at Ctrl-C.
        self.process = subprocess.Popen(
            ["setsid", "-c", *command],
            cwd=directory,
            env=dict(variables),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if not ready and self.process.poll() is not None:
                return
            try:
                data = os.read(self._master, 65536) if ready else b""
            except OSError:
                return
            self._output += data

    def ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def wait(self) -> int:
        """The exit code, when the command has ended."""
        try:
            return self.process.wait(timeout=200)
        finally:
            self.process.kill()
            self._reader.join()
            os.close(self._master)

    @property
    def text(self) -> str:
        return self._output.decode(errors="replace")


class Site:
    """Sandbox servers, a data directory for them, and the number of requests that they got."""

    def __init__(self, directory: Path, servers: SandboxServers) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._servers = servers
        self.variables = {
            **os.environ,
            "DATA_DIR": str(self.data),
            "STASH_SENSE_SOURCES": str(directory / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "COLUMNS": "120",
            **servers.environment(),
        }
        self.variables.pop("DAGSTER_HOME", None)

    def build(self) -> Terminal:
        return Terminal(
            [str(PROGRAM), "build", "--sources", ",".join(SOURCES)], self.directory, self.variables
        )

    def requests(self) -> int:
        return sum(len(self._servers.traffic.requests(source, "")) for source in SOURCES)

    def runs(self) -> list[tuple[str, str]]:
        """Job and status of each run."""
        history_file = self.data / "dagster" / "history" / "runs.db"
        if not history_file.exists():
            return []
        with closing(sqlite3.connect(history_file)) as history:
            if not history.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
                return []
            return history.execute("SELECT pipeline_name, status FROM runs ORDER BY id").fetchall()

    def releases(self) -> list[str]:
        found = (self.data / "releases").glob("20*")
        return sorted(path.name for path in found if path.is_dir() and path.suffix != ".report")

    def leftovers(self) -> list[list[str]]:
        """Command lines of processes that still work in the data directory."""
        return [
            process.info["cmdline"]
            for process in psutil.process_iter(["cmdline", "environ"])
            if (process.info["environ"] or {}).get("DATA_DIR") == str(self.data)
        ]


@pytest.fixture(params=[41])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with SandboxServers(make_demo_world(seed=request.param, people=60)) as servers:
        settings = sources_settings(servers, rate_limit=1500)
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(settings))
        yield Site(tmp_path, servers)


def wait_for(condition: Callable[[], bool], terminal: Terminal) -> None:
    deadline = time.monotonic() + 150
    while not condition() and terminal.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _asked(site: Site, requests: int) -> bool:
    return site.requests() >= requests


def check_stopped(site: Site, terminal: Terminal) -> None:
    assert terminal.wait() == 130, terminal.text
    assert "stopped" in terminal.text.splitlines()[-1], terminal.text[-2000:]
    assert "Traceback" not in terminal.text
    assert site.releases() == []
    deadline = time.monotonic() + 20
    while site.leftovers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert site.leftovers() == []


def test_a_build_that_is_stopped_at_ten_moments_goes_on_each_time_and_ends_complete(site: Site) -> None:
    """Signals by Ctrl-C and SIGTERM in turn: exit 130, nothing published, nothing fetched twice but what was in flight."""
    for moment, more in enumerate([0, 1, 3, 10, 25, 40, 60, 80, 100, 120]):
        before = site.requests()
        terminal = site.build()
        if more:
            wait_for(partial(_asked, site, before + more), terminal)
        else:
            wait_for((site.data / "dagster").exists, terminal)
        if terminal.process.poll() is not None:
            break
        if moment % 2:
            terminal.process.send_signal(signal.SIGTERM)
        else:
            terminal.ctrl_c()
        check_stopped(site, terminal)
        assert {status for _, status in site.runs()} <= {"CANCELED", "SUCCESS"}
    terminal = site.build()
    assert terminal.wait() == 0, terminal.text
    assert len(site.releases()) == 1
    images = [
        entry.path for source in SOURCES for entry in site._servers.traffic.requests(source, "/images/")
    ]
    assert len(images) - len(set(images)) <= 10 * len(SOURCES) * 16


def test_a_stop_while_it_publishes_leaves_no_release(site: Site) -> None:
    terminal = site.build()
    wait_for(
        lambda: any(job == "publish" for job, _ in site.runs()) if site.data.exists() else False, terminal
    )
    terminal.ctrl_c()
    check_stopped(site, terminal)
    assert [status for job, status in site.runs() if job == "publish"] == ["CANCELED"]
    terminal = site.build()
    assert terminal.wait() == 0, terminal.text


def test_a_second_signal_ends_a_build_at_once(site: Site) -> None:
    terminal = site.build()
    wait_for(lambda: site.requests() > 30, terminal)
    terminal.ctrl_c()
    time.sleep(0.1)
    terminal.ctrl_c()
    started = time.monotonic()
    check_stopped(site, terminal)
    assert time.monotonic() - started < 15
    assert {status for _, status in site.runs()} == {"CANCELED"}


def test_a_build_shows_a_bar_for_each_source_on_a_terminal(site: Site) -> None:
    terminal = site.build()
    assert terminal.wait() == 0, terminal.text
    for source in SOURCES:
        assert re.search(rf"{source} +\x1b", terminal.text)
    assert "faces" in terminal.text
    assert "time: asking" in terminal.text
    assert "performers: " in terminal.text


def test_a_killed_build_takes_its_runs_with_it(site: Site) -> None:
    terminal = site.build()
    wait_for(lambda: site.requests() > 30, terminal)
    terminal.process.kill()
    terminal.wait()
    deadline = time.monotonic() + 60
    while site.leftovers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert site.leftovers() == []
    assert site.releases() == []
