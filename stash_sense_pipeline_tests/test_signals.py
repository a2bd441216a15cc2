"""A program that SIGINT ends without a traceback while it loads, and signals that wait for the end of a block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stash_sense_pipeline.foundation import signals
from stash_sense_pipeline.foundation.signals import signals_blocked

PROJECT = Path(__file__).parent.parent
ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
WAITS = f"""
import sys
try:
    {ITSELF}
except KeyboardInterrupt:
    print(*sys.argv[1:], __name__)
"""


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program `program.py` of the directory, started with SIGINT blocked."""
    with signals_blocked(signal.SIGINT):
        return subprocess.run(
            [sys.executable, "-m", signals.__name__, "program", *arguments],
            cwd=directory, env={**os.environ, "PYTHONPATH": f"{directory}:{PROJECT}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param({"program": "import other\n", "other": ITSELF}, id="an import"),
        pytest.param(
            {"program": "import a.b\n", "a/__init__": "", "a/b": "import c\n", "c": ITSELF}, id="a deep one"
        ),
        pytest.param({"program/__init__": ITSELF, "program/__main__": "print('ran')\n"}, id="its package"),
    ],
)
def test_a_signal_during_an_import_ends_the_program_quietly(tmp_path: Path, modules: dict[str, str]) -> None:
    for name, text in modules.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    result = run(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_signal_that_waited_since_the_start_ends_the_program_quietly(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('ran')\n")
    # Python imports it before it looks for the module that it shall run.
    (tmp_path / "sitecustomize.py").write_text(ITSELF)
    result = run(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_program_that_has_loaded_gets_the_signal_as_ever(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WAITS)
    result = run(tmp_path, "one", "two")
    assert (result.returncode, result.stdout, result.stderr) == (0, "one two __main__\n", "")


def test_a_blocked_signal_arrives_after_the_block() -> None:
    arrived: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    try:
        with signals_blocked(signal.SIGINT, signal.SIGTERM):
            # To this thread: other threads of the process have not blocked it.
            signal.raise_signal(signal.SIGTERM)
            assert arrived == []
        assert arrived == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
