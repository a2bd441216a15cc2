"""Graceful shutdown: an interrupted run stores what it fetched, and the next run continues from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import faces, source_images
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.graceful_shutdown import on_interrupt
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.orchestration.conftest import WAIT_SECONDS, wait_until
from stash_sense_pipeline_tests.rendered_pictures import rendered

PROJECT = shipped_file("workspace.yaml").parent
FETCHES = CollectLimits().fetches


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_handled_and_the_second_reaches_the_previous_handler(
    number: signal.Signals,
) -> None:
    said: list[str] = []
    before = signal.signal(number, lambda *_: said.append("before"))
    try:
        with on_interrupt(lambda: said.append("act")):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)
    assert said == ["act", "before", "before"]


def test_without_a_signal_the_previous_handlers_are_restored() -> None:
    before = handlers()
    with on_interrupt(lambda: None):
        assert handlers() != before
    assert handlers() == before


def test_a_thread_sets_no_signal_handler() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with on_interrupt(lambda: None):
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def program(name: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name(name)), *arguments]


REFRESH = ("job", "execute", "-m", "stash_sense_pipeline.definitions", "-j", "refresh_source")
TAGS = ("--tags", '{"dagster/partition": "stashdb", "source": "stashdb"}')
ANSWERED = 25


class Refresh:
    """A refresh of stashdb in a directory of its own, by a command that gets a signal in the middle of it."""

    def __init__(self, directory: Path, servers: SandboxServers) -> None:
        self._directory = directory
        self.home = prepare_home(directory / "dagster")
        self.traffic = servers.traffic
        (directory / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers)))
        self.variables = {
            "DATA_DIR": str(directory / "data"),
            "STASH_SENSE_SOURCES": str(directory / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "DAGSTER_HOME": str(self.home),
            **servers.environment(),
        }

    def interrupt(self, command: list[str], number: signal.Signals) -> str:
        """What the command said. Its server sends some pictures, and holds the answers to all other requests for them
        until the command has ended.
        """
        held = self.traffic.inject(Fault(FaultKind.HOLD, path="/images/", skip=ANSWERED, times=None))
        log = self._directory / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=PROJECT, env={**os.environ, **self.variables}, stdout=stream, stderr=stream
            )
            try:
                wait_until(lambda: held.held or process.poll() is not None, log.read_text)
                if number is signal.SIGTERM:
                    with open_instance(self.home) as instance:
                        instance.report_run_canceling(next(iter(instance.get_runs())))
                process.send_signal(number)
                process.wait(timeout=WAIT_SECONDS)
            finally:
                process.kill()
                process.wait()
                self.traffic.clear_faults()
        return log.read_text()

    def finish(self) -> None:
        """A run of the same job, in this process."""
        environment = read_environment(self.variables, self._directory)
        definitions = build_defs(settings=load_settings(environment.sources_file), environment=environment)
        with open_instance(self.home) as instance:
            job = definitions.resolve_job_def(names.REFRESH_SOURCE_JOB)
            assert job.execute_in_process(instance=instance, partition_key="stashdb").success

    def statuses(self) -> list[str]:
        with open_instance(self.home) as instance:
            return [run.status.value for run in instance.get_runs()]

    def fetched(self) -> Counter[str]:
        """How often each picture was asked for."""
        return Counter(entry.path.rsplit("/", 1)[1] for entry in self.traffic.requests("stashdb", "/images/"))

    def ledger(self) -> tuple[Counter[str], int]:
        """The number of images by state, and of faces."""
        engine = open_catalog(f"sqlite:///{self._directory / 'data' / 'catalog.db'}")
        with reading(engine) as connection:
            states = Counter(connection.scalars(sa.select(source_images.c.state)))
            found = connection.scalar(sa.select(sa.func.count()).select_from(faces))
        engine.dispose()
        return states, int(found or 0)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("command", "number"),
    [
        # The daemon does the same for `dagster run terminate`.
        (program("dagster", *REFRESH, *TAGS), signal.SIGTERM),
        (program("stash-sense", "build", "--sources", "stashdb"), signal.SIGINT),
    ],
    ids=["run of Dagster", "build"],
)
def test_an_interrupted_run_stores_everything_that_it_fetched(
    tmp_path: Path, command: list[str], number: signal.Signals
) -> None:
    with SandboxServers(make_demo_world(seed=6, people=24), pictures=rendered()) as servers:
        refresh = Refresh(tmp_path, servers)
        said = refresh.interrupt(command, number)
        fetched = refresh.fetched()
        assert len(fetched) > ANSWERED, said[-3000:]
        states, found = refresh.ledger()
        assert states["pending"] > 0, "it was interrupted in the middle"
        looked_at = states.total() - states["pending"]
        # Requests on their way are broken off.
        assert len(fetched) - FETCHES <= looked_at <= len(fetched), said[-3000:]
        assert found == states["done"]
        assert refresh.statuses() == ["CANCELED"], said[-3000:]

        refresh.finish()
        # No image in both runs, but for those that were on their way when the first one was ended. Within one run an
        # image that fails is asked for again.
        again = (refresh.fetched() - fetched).keys() & fetched.keys()
        assert len(again) <= FETCHES
        assert refresh.ledger()[0]["pending"] < states["pending"]
