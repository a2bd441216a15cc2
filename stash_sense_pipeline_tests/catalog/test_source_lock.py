"""The lock of a source: a second run waits and reports it, other sources do not wait, a killed run releases the lock."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

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
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the time between two attempts to take the lock."""
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)


def test_a_second_run_of_a_source_waits_and_says_so(any_catalog: sa.Engine) -> None:
    said: list[str] = []
    order: list[str] = []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with source_lock(any_catalog, "stashdb", said.append):
            order.append("second")

    with source_lock(any_catalog, "stashdb", said.append):
        thread = threading.Thread(target=second)
        thread.start()
        begun.wait()
        with source_lock(any_catalog, "fansdb", said.append):
            time.sleep(0.3)
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"]
    assert said == ["stashdb: another run is reading it; this one begins when that has ended"]
    with source_lock(any_catalog, "stashdb", said.append):
        pass
    assert len(said) == 1


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
