"""Starting and ending the programs of the UI: no process is left after a signal at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.deployment import supervisor
from stash_sense_pipeline.deployment.supervisor import _Interruption, _Service, _stop

STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
open("ready", "w").close()
time.sleep(600)
"""


@pytest.fixture
def interruption() -> Iterator[_Interruption]:
    """The handler of SIGINT of this process."""
    handler = _Interruption()
    before = signal.signal(signal.SIGINT, handler)
    yield handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stubborn(tmp_path: Path, interruption: _Interruption) -> _Service:
    """A program that does not end by SIGINT."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    return _Service("the stubborn one", ["stubborn"], dict(os.environ), tmp_path, interruption)


def await_file(path: Path) -> None:
    give_up = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up, f"no {path.name}"
        time.sleep(0.01)


def test_a_signal_during_a_start_leaves_no_process(
    stubborn: _Service, interruption: _Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(supervisor.subprocess, "Popen", Interrupted)
    monkeypatch.setattr(supervisor, "_STOP_SECONDS", 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            stubborn.start()
        _stop([stubborn], interruption)
        assert started[0].poll() is not None
    finally:
        started[0].kill()


def test_a_second_signal_ends_the_wait_and_leaves_no_process(
    stubborn: _Service, interruption: _Interruption
) -> None:
    stubborn.start()
    assert stubborn.process is not None
    await_file(stubborn.directory / "ready")
    impatient = subprocess.Popen(
        [sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({os.getpid()}, {signal.SIGINT:d})"]
    )
    begun = time.monotonic()
    _stop([stubborn], interruption)
    impatient.wait()
    assert time.monotonic() - begun < 20
    assert stubborn.process.poll() == -signal.SIGKILL


def test_a_signal_at_any_other_time_raises_keyboard_interrupt(interruption: _Interruption) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with interruption.noted():
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
