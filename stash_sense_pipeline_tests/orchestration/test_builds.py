"""Builds on a real terminal: progress bars, and signals at any moment."""

from __future__ import annotations

import os
import pty
import re
import select
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.foundation.files import holding_lock
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM, WAIT_SECONDS, wait_until
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SOURCES = ("stashdb", "pmvstash")
# The pictures that each source sends before a build is ended: few in most builds, many in one.
FEW, MANY = 8, 48


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
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if not ready and self.ended:
                return
            try:
                data = os.read(self._master, 65536) if ready else b""
            except OSError:
                return
            self._output += data

    def terminate(self) -> None:
        self.process.terminate()

    def ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def wait(self) -> int:
        """The exit code, when the command has ended."""
        try:
            return self.process.wait(timeout=WAIT_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the command if it works, and the thread that reads its terminal."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self._master >= 0:
            os.close(self._master)
        self._master = -1

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds. The command must still work then."""
        wait_until(lambda: self.ended or condition(), lambda: self.text)
        assert not self.ended, self.text

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def text(self) -> str:
        return self._output.decode(errors="replace")


class Site:
    """Sandbox servers, and a data directory for them."""

    def __init__(self, directory: Path, servers: SandboxServers) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.traffic = servers.traffic
        self.variables = {
            **os.environ,
            "DATA_DIR": str(self.data),
            "STASH_SENSE_SOURCES": str(directory / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "COLUMNS": "120",
            **servers.environment(),
        }
        self.variables.pop("DAGSTER_HOME", None)

    @contextmanager
    def build(self) -> Iterator[Terminal]:
        """A build that is killed at the end of the block if it has not ended."""
        command = [str(PROGRAM), "build", "--sources", ",".join(SOURCES)]
        terminal = Terminal(command, self.directory, self.variables)
        try:
            yield terminal
        finally:
            terminal.kill()

    @contextmanager
    def held_build(self, path: str, answered: int) -> Iterator[Terminal]:
        """A build in the middle of its work: each source answers so many requests for `path`, and holds the others while
        the block runs.
        """
        rules = [
            self.traffic.inject(Fault(FaultKind.HOLD, box=source, path=path, skip=answered, times=None))
            for source in SOURCES
        ]
        try:
            with self.build() as terminal:
                terminal.wait_until(lambda: any(rule.held for rule in rules))
                yield terminal
        finally:
            self.traffic.clear_faults()

    def sent_again(self) -> int:
        """How many pictures were sent in full to a build after they had been sent to an earlier one."""
        sent = [
            entry.path
            for source in SOURCES
            for entry in self.traffic.requests(source, "/images/")
            if entry.status == 200
        ]
        return len(sent) - len(set(sent))

    def runs(self) -> list[tuple[str, str]]:
        """Job and status of each run."""
        history_file = self.data / "dagster" / "history" / "runs.db"
        if not history_file.exists():
            return []
        with closing(sqlite3.connect(history_file, timeout=WAIT_SECONDS)) as history:
            if not history.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
                return []
            return history.execute("SELECT pipeline_name, status FROM runs ORDER BY id").fetchall()

    def releases(self) -> list[str]:
        found = (self.data / "releases").glob("20*")
        return sorted(path.name for path in found if path.is_dir() and path.suffix != ".report")

    def processes(self) -> list[psutil.Process]:
        """The processes that work in the data directory."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if (process.info["environ"] or {}).get("DATA_DIR") == str(self.data)
        ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with SandboxServers(make_demo_world(seed=41, people=40), pictures=rendered()) as servers:
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers)))
        yield Site(tmp_path, servers)


def check_stopped(site: Site, terminal: Terminal) -> None:
    assert terminal.wait() == 130, terminal.text
    assert "stopped" in terminal.text.splitlines()[-1], terminal.text[-2000:]
    assert "Traceback" not in terminal.text
    check_nothing_left(site)


def check_nothing_left(site: Site) -> None:
    """No process works on, and nothing was published."""
    wait_until(lambda: not site.processes(), lambda: str([left.info["cmdline"] for left in site.processes()]))
    assert site.releases() == []


def stop_before_its_first_run(site: Site) -> None:
    """It asks each source what a first build would take."""
    with site.held_build("/", 0) as terminal:
        terminal.ctrl_c()
        check_stopped(site, terminal)


def stop_after_few_pictures(site: Site) -> None:
    """The terminal shows a bar for each source by then."""
    before = len(site.runs())
    with site.held_build("/images/", FEW) as terminal:
        for source in SOURCES:
            bar = re.compile(rf"{source} +\x1b")
            terminal.wait_until(lambda bar=bar: bar.search(terminal.text) is not None)
        terminal.ctrl_c()
        check_stopped(site, terminal)
    assert {status for _, status in site.runs()[before:]} == {"CANCELED"}


def stop_after_many_pictures(site: Site) -> None:
    before = len(site.runs())
    with site.held_build("/images/", MANY) as terminal:
        terminal.terminate()
        check_stopped(site, terminal)
    assert {status for _, status in site.runs()[before:]} <= {"CANCELED", "SUCCESS"}


def runs_of(terminal: Terminal) -> list[psutil.Process]:
    """The processes of the runs of a build: its fork server has forked them."""
    servers, found = set(), psutil.Process(terminal.process.pid).children(recursive=True)
    parents = {}
    for process in found:
        # Some may have ended by now.
        with suppress(psutil.NoSuchProcess):
            parents[process] = process.ppid()
            if "multiprocessing.forkserver" in " ".join(process.cmdline()):
                servers.add(process.pid)
    return [process for process, parent in parents.items() if parent in servers]


def stop_by_a_second_signal(site: Site) -> None:
    """The runs are suspended, so that none can end by itself after the first signal."""
    before = len(site.runs())
    with site.held_build("/images/", FEW) as terminal:
        runs = runs_of(terminal)
        assert runs
        for run in runs:
            run.suspend()
        # Two signals of one kind can arrive as one.
        terminal.terminate()
        terminal.ctrl_c()
        check_stopped(site, terminal)
    assert {status for _, status in site.runs()[before:]} == {"CANCELED"}


def kill(site: Site) -> None:
    """The runs of a build that is killed end with it."""
    with site.held_build("/images/", FEW) as terminal:
        assert runs_of(terminal)
        terminal.process.kill()
        terminal.wait()
        check_nothing_left(site)


def stop_while_it_publishes(site: Site) -> None:
    """Another program writes to the catalog meanwhile, so that the publication cannot end."""
    with ExitStack() as stack:
        with holding_lock(site.data / ".publish.lock"):
            terminal = stack.enter_context(site.build())
            terminal.wait_until(lambda: all(f"{source}: " in terminal.text for source in SOURCES))
            catalog = sqlite3.connect(site.data / "catalog.db", timeout=WAIT_SECONDS, isolation_level=None)
            stack.enter_context(closing(catalog))
            catalog.execute("BEGIN IMMEDIATE")
        terminal.wait_until(lambda: ("publish", "STARTED") in site.runs())
        terminal.ctrl_c()
        check_stopped(site, terminal)
    assert [status for job, status in site.runs() if job == "publish"] == ["CANCELED"]


def complete(site: Site) -> None:
    with site.build() as terminal:
        assert terminal.wait() == 0, terminal.text
    assert len(site.releases()) == 1
    assert "faces" in terminal.text
    assert "time: asking" in terminal.text
    assert "performers: " in terminal.text


def test_a_build_that_is_ended_at_any_moment_goes_on_each_time_and_ends_complete(site: Site) -> None:
    """By Ctrl-C, SIGTERM, a second signal and SIGKILL: nothing is published, and only pictures in flight are sent again."""
    stop_before_its_first_run(site)
    stop_after_few_pictures(site)
    stop_by_a_second_signal(site)
    kill(site)
    stop_after_many_pictures(site)
    stop_while_it_publishes(site)
    complete(site)
    in_flight = 3 * FEW + min(MANY, CollectLimits().fetches)
    assert site.sent_again() <= in_flight * len(SOURCES)
