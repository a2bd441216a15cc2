"""Running the Dagster UI and daemon as a child of this process, until somebody ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

_STOP_SECONDS = 30.0


def serve_ui(workspace: Path, host: str, port: int, environment: Mapping[str, str]) -> int:
    """Runs `dagster dev` on an address of this machine until it ends or we get SIGINT or SIGTERM; returns its exit code.

    An interruption is passed on and waited for, and counts as a normal end.
    """
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "-w",
        workspace.name,
        "-h",
        host,
        "-p",
        str(port),
    ]

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Also where a shell started us in the background, with SIGINT ignored: children would inherit that.
    handled = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    child = subprocess.Popen(command, env=dict(environment), cwd=workspace.parent)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(_STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            child.kill()
        return 0
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
