"""Runs UI, code server and daemon as child processes and restarts them.

`dagster dev` starts them one after the other, which takes twice as long, and ends when the daemon or the UI is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import yaml

_LOOK_SECONDS = 0.2
# A program that ends sooner after its start would do so again.
_SOON_SECONDS = 20.0
_STOP_SECONDS = 60.0
_KILL_SECONDS = 10.0
_LOCATION = "stash_sense"


class _Interruption:
    """Makes a KeyboardInterrupt of SIGINT and SIGTERM, or only notes them while `noted` runs: between the start of a
    process and the keeping of its number an exception would leave a process that nobody ends.
    """

    def __init__(self) -> None:
        self.asked = False
        self._raises = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._raises:
            raise KeyboardInterrupt

    @contextmanager
    def noted(self) -> Iterator[None]:
        """While the block runs a signal only sets `asked`, which is false at its begin."""
        self.asked = False
        self._raises = False
        try:
            yield
        finally:
            self._raises = True


@dataclass
class _Service:
    """A program in a process group of its own: a signal reaches it once, and with it the runs that it started."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    interruption: _Interruption
    kept_open: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = field(default=0.0)

    def start(self) -> None:
        self.started = time.monotonic()
        with self.interruption.noted():
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                env=dict(self.environment),
                cwd=self.directory,
                pass_fds=tuple(self.kept_open),
                start_new_session=True,
            )
        if self.interruption.asked:
            raise KeyboardInterrupt

    def ended(self) -> int | None:
        """Its exit code; None while it runs, and before it was started."""
        return self.process.poll() if self.process is not None else None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return


def serve_ui(
    home: Path,
    host: str,
    port: int,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    prepare: Callable[[], None] = lambda: None,
    kept_open: Sequence[int] = (),
) -> int:
    """Runs the UI of the DAGSTER_HOME `home` on an address of this machine until SIGINT or SIGTERM; returns an exit code.

    An interruption is passed on, also to runs, and waited for: a normal end, 0. A program that is killed is started
    again; when one ends again at once, everything ends with 1. `say` gets a line for each of these. `prepare` is called
    before any of them does more than load itself, and what it raises is passed on. The daemon inherits the file
    descriptors `kept_open`.
    """
    interruption = _Interruption()
    # Also where a shell started us in the background, with SIGINT ignored: children would inherit that.
    handled = {number: signal.signal(number, interruption) for number in (signal.SIGINT, signal.SIGTERM)}
    services: list[_Service] = []
    try:
        with tempfile.TemporaryDirectory(prefix="stash-sense-") as directory:
            services += _services(home, Path(directory), host, port, environment, interruption, kept_open)
            try:
                return _watch(services, host, port, say, prepare)
            finally:
                _stop(services, interruption)
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def _services(
    home: Path,
    directory: Path,
    host: str,
    port: int,
    environment: Mapping[str, str],
    interruption: _Interruption,
    kept_open: Sequence[int],
) -> list[_Service]:
    """Webserver, code server and daemon, in the order of their start, not started."""
    place, workspace = directory / "code.sock", directory / "workspace.yaml"
    server = {"socket": str(place), "location_name": _LOCATION}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    code = ["dagster", "code-server", "start", "--socket", str(place), "--location-name", _LOCATION]
    code += ["-m", "stash_sense_pipeline.definitions", "--log-level", "warning"]
    web = ["stash_sense_pipeline.deployment.webserver", "--wait-for", str(place), "-w", str(workspace)]
    web += ["-h", host, "-p", str(port)]
    daemon = ["dagster._daemon", "run", "-w", str(workspace)]
    return [
        _Service("the webserver", web, environment, home, interruption),
        _Service("the code server", code, environment, home, interruption),
        _Service("the daemon", daemon, environment, home, interruption, kept_open),
    ]


def _watch(
    services: Sequence[_Service],
    host: str,
    port: int,
    say: Callable[[str], None],
    prepare: Callable[[], None],
) -> int:
    """Returns when a program cannot be kept running."""
    web, code_server, daemon = services
    # It takes longest to load, and then waits for the code server.
    web.start()
    try:
        prepare()
    except BaseException:
        # In the middle of loading it could only end with a traceback.
        web.signal(signal.SIGKILL)
        raise
    code_server.start()
    while True:
        time.sleep(_LOOK_SECONDS)
        # It would take the processor from those that somebody waits for.
        if daemon.process is None and _answers(host, port):
            say(f"Dagster UI: http://{host}:{port}  (Ctrl-C ends it)")
            daemon.start()
        for service in services:
            code = service.ended()
            if code is None:
                continue
            lived = time.monotonic() - service.started
            if lived < _SOON_SECONDS:
                say(
                    f"{service.name} ended {lived:.0f} s after its start (exit code {code}); everything is ended"
                )
                return 1
            say(f"{service.name} ended by itself (exit code {code}); it is started again")
            service.signal(signal.SIGINT)
            service.start()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(services: Sequence[_Service], interruption: _Interruption) -> None:
    """Asks all to end, gives them the time for a batch, and ends what is left; at once when somebody interrupts again."""
    with interruption.noted():
        for service in reversed(services):
            service.signal(signal.SIGINT)
        _await(services, _STOP_SECONDS, lambda: interruption.asked)
        for service in services:
            service.signal(signal.SIGKILL)
        # Who starts the next one finds the place of the daemon free.
        _await(services, _KILL_SECONDS, lambda: False)


def _await(services: Sequence[_Service], seconds: float, gives_up: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while any(service.runs for service in services) and time.monotonic() < until and not gives_up():
        time.sleep(_LOOK_SECONDS / 4)
