"""The lock of a source: a second run waits and reports it, other sources do not wait, a killed run releases the lock."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import source_lock as module
from stash_sense_pipeline.catalog.source_lock import source_lock

_CHILD = """
import sys, time
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.source_lock import source_lock
with source_lock(open_catalog(sys.argv[1]), "stashdb", print):
    print("mine", flush=True)
    time.sleep(10_000)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the time between two attempts to take the lock."""
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)


def wait_until(ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 240
    while not ready():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.slow
def test_a_second_run_of_a_source_waits_and_says_so(any_catalog: sa.Engine) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with source_lock(any_catalog, "stashdb", said.append):
            order.append("second")

    with source_lock(any_catalog, "stashdb", said.append):
        thread = threading.Thread(target=second)
        thread.start()
        wait_until(lambda: bool(said))
        with source_lock(any_catalog, "fansdb", said.append):
            # Time for some more attempts of the other run.
            time.sleep(0.1)
        order.append("first")
    thread.join(timeout=240)
    assert order == ["first", "second"]
    assert said == ["stashdb: another run is reading it; this one begins when that has ended"]
    with source_lock(any_catalog, "stashdb", said.append):
        pass
    assert len(said) == 1


@pytest.mark.slow
def test_a_killed_run_holds_no_lock(any_catalog: sa.Engine) -> None:
    url = any_catalog.url.render_as_string(hide_password=False)
    child = subprocess.Popen([sys.executable, "-c", _CHILD, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "mine\n"
    child.kill()
    child.wait()
    child.stdout.close()
    with source_lock(any_catalog, "stashdb", lambda _: None):
        pass


def test_a_failed_run_releases_the_lock(any_catalog: sa.Engine) -> None:
    said: list[str] = []
    with pytest.raises(KeyError), source_lock(any_catalog, "stashdb", said.append):
        raise KeyError
    with source_lock(any_catalog, "stashdb", said.append):
        pass
    assert said == []
