"""Graceful shutdown: an interrupted run stores what it fetched, and the next run continues from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import faces, source_images
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.orchestration.graceful_shutdown import on_interrupt
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings

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


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("command", "number"),
    [
        # With steps in processes of their own. The daemon does the same for `dagster run terminate`.
        (program("dagster", *REFRESH, *TAGS), signal.SIGTERM),
        (program("stash-sense", "build", "--sources", "stashdb"), signal.SIGINT),
    ],
    ids=["steps in processes", "build"],
)
def test_an_interrupted_run_stores_everything_that_it_fetched(
    tmp_path: Path, command: list[str], number: signal.Signals
) -> None:
    with SandboxServers(make_demo_world(seed=6, people=60)) as servers:
        # Slow enough to be interrupted, and never twice at the same place.
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers, rate_limit=1200)))
        variables = {
            **os.environ,
            "DATA_DIR": str(tmp_path / "data"),
            "STASH_SENSE_SOURCES": str(tmp_path / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "DAGSTER_HOME": str(prepare_home(tmp_path / "dagster")),
            **servers.environment(),
        }

        def fetched() -> Counter[str]:
            return Counter(
                entry.path.rsplit("/", 1)[1] for entry in servers.traffic.requests("stashdb", "/images/")
            )

        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=PROJECT, env=variables, stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + 120
                while len(fetched()) < 25 and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                if number is signal.SIGTERM:
                    with open_instance(tmp_path / "dagster") as instance:
                        instance.report_run_canceling(next(iter(instance.get_runs())))
                process.send_signal(number)
                process.wait(timeout=60)
            finally:
                process.kill()
                process.wait()
        said = (tmp_path / "log").read_text()
        assert len(fetched()) >= 25, said[-3000:]
        engine = open_catalog(f"sqlite:///{tmp_path / 'data' / 'catalog.db'}")

        def ledger() -> Counter[str]:
            with reading(engine) as connection:
                return Counter(connection.scalars(sa.select(source_images.c.state)))

        states = ledger()
        assert states["pending"] > 0, "it was interrupted in the middle"
        looked_at = states.total() - states["pending"]
        # Requests on their way are broken off.
        assert len(fetched()) - FETCHES <= looked_at <= len(fetched()), said[-3000:]
        with reading(engine) as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(faces)) == states["done"]
        with open_instance(tmp_path / "dagster") as instance:
            assert [run.status.value for run in instance.get_runs()] == ["CANCELED"], said[-3000:]

        result = subprocess.run(
            command, check=False, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=200
        )
        assert result.returncode == 0, result.stdout + result.stderr
        # Each image once, but for those that were on their way when the run was ended.
        assert sum(fetched().values()) <= len(fetched()) + FETCHES
        engine.dispose()
