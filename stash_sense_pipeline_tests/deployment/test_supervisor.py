"""Starting and ending the programs of the UI: no process is left after a signal at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.deployment import supervisor
from stash_sense_pipeline.deployment.supervisor import UiServer, _Interruption, _Service, _stop, _watch
from stash_sense_pipeline_tests.postgres import free_port

STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
open("ready", "w").close()
while True:
    time.sleep(1000)
"""
# It answers the first signal with a second one.
IMPATIENT = """
import os, signal, time
signal.signal(signal.SIGINT, lambda *_: os.kill(os.getppid(), signal.SIGINT))
open("ready", "w").close()
while True:
    time.sleep(1000)
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
    give_up = time.monotonic() + 240
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
        assert started[0].wait(timeout=240) in (130, -signal.SIGINT, -signal.SIGKILL)
    finally:
        started[0].kill()


@pytest.mark.slow
def test_a_second_signal_ends_the_wait_and_leaves_no_process(
    tmp_path: Path, interruption: _Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the second signal the wait would be longer than the test may take.
    monkeypatch.setattr(supervisor, "_STOP_SECONDS", 10_000)
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    service = _Service("the impatient one", ["impatient"], dict(os.environ), tmp_path, interruption)
    service.start()
    assert service.process is not None
    try:
        await_file(tmp_path / "ready")
        _stop([service], interruption)
        assert interruption.asked
        assert service.process.wait(timeout=240) == -signal.SIGKILL
    finally:
        service.process.kill()


@pytest.mark.slow
def test_a_program_that_ends_early_after_its_start_ends_the_supervisor(
    stubborn: _Service, interruption: _Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long this machine takes to start it, it ends early.
    monkeypatch.setattr(supervisor, "_EARLY_END_SECONDS", 10_000)
    broken, daemon = (
        replace(stubborn, name=name, command=["nothing_of_that_name"]) for name in ("broken", "the daemon")
    )
    server = UiServer(stubborn.directory, "127.0.0.1", free_port(), {})
    said: list[str] = []
    try:
        assert _watch([stubborn, broken, daemon], server, said.append, lambda: None) == 1
        assert stubborn.runs
    finally:
        stubborn.signal(signal.SIGKILL)
    assert len(said) == 1
    assert said[0].startswith("broken ended ")
    assert said[0].endswith("s after its start (exit code 1); all programs are ended")
    assert daemon.process is None, "the UI never answered"


def test_a_signal_at_any_other_time_raises_keyboard_interrupt(interruption: _Interruption) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    interruption.asked = False
    with interruption.noted():
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


class _Finalised:
    """Sends SIGINT while it is finalised, where Python drops the exception of the handler."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("when", ["while it prepares", "while it watches"])
def test_a_signal_while_an_object_is_finalised_is_not_lost(
    stubborn: _Service, interruption: _Interruption, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    web, code, daemon = (replace(stubborn, name=name) for name in ("web", "code", "daemon"))
    server = UiServer(stubborn.directory, "127.0.0.1", free_port(), {})
    looks: list[str] = []

    def answers(host: str, port: int) -> bool:
        looks.append(host)
        if when == "while it watches" and len(looks) == 1:
            _Finalised()
        assert len(looks) < 3, "the signal was lost"
        return False

    monkeypatch.setattr(supervisor, "_answers", answers)
    try:
        with pytest.raises(KeyboardInterrupt):
            _watch(
                [web, code, daemon], server, looks.append, _Finalised if when == "while it prepares" else str
            )
        assert len(looks) == (when == "while it watches")
    finally:
        for service in (web, code):
            service.signal(signal.SIGKILL)
