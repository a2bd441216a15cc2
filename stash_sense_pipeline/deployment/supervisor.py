"""Runs UI, code server and daemon as child processes and restarts them.

`dagster dev` cannot replace it: it has no place for the guard around the UI (`ui_guard`), starts the programs one after
the other, which takes twice as long, and ends when the daemon or the UI is killed.
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

from stash_sense_pipeline.foundation import signals

_POLL_SECONDS = 0.2
# A program that ends sooner after its start than this would do so again: it is not restarted.
_EARLY_END_SECONDS = 20.0
_STOP_SECONDS = 60.0
_KILL_SECONDS = 10.0
_LOCATION = "stash_sense"


@dataclass(frozen=True)
class UiServer:
    """What `serve_ui` runs: the UI of the DAGSTER_HOME `home`, on an address of this machine.

    The programs get these environment variables. The daemon inherits the file descriptors `kept_open`.
    """

    home: Path
    host: str
    port: int
    environment: Mapping[str, str]
    kept_open: Sequence[int] = ()


class _Interruption:
    """Signal handler: SIGINT and SIGTERM raise KeyboardInterrupt, or are only recorded while `noted` runs.

    An exception between the start of a process and the assignment of its Popen object would leave a process that is
    never ended. Python drops an exception that a handler raises while an object is finalised, so `asked` stays true
    and `check` raises later.
    """

    def __init__(self) -> None:
        self.asked = False
        self._raises = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._raises:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt when a signal has arrived."""
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def noted(self) -> Iterator[None]:
        """While the block runs, a signal only sets `asked`."""
        self._raises = False
        try:
            yield
        finally:
            self._raises = True


@dataclass
class _Service:
    """A program in its own process group: one signal reaches it and the runs that it started, each once."""

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
        with self.interruption.noted(), signals.signals_blocked(signal.SIGINT):
            self.process = subprocess.Popen(
                [sys.executable, "-m", signals.__name__, *self.command],
                env=dict(self.environment),
                cwd=self.directory,
                pass_fds=tuple(self.kept_open),
                start_new_session=True,
            )
        self.interruption.check()

    def ended(self) -> int | None:
        """The exit code; None before the start and while it runs."""
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
    server: UiServer, echo: Callable[[str], None], prepare: Callable[[], None] = lambda: None
) -> int:
    """Runs webserver, code server and daemon until SIGINT or SIGTERM; returns an exit code.

    A signal is passed on to the programs and their runs, and the function waits for their end: exit code 0. A program
    that is killed is restarted; one that ends early after its start ends all of them: exit code 1. `echo` gets a line for
    each of these events. `prepare` is called while the webserver still loads; its exceptions are passed on.
    """
    interruption = _Interruption()
    # A shell that starts this process in the background ignores SIGINT, and children would inherit that.
    handled = {number: signal.signal(number, interruption) for number in (signal.SIGINT, signal.SIGTERM)}
    services: list[_Service] = []
    try:
        with tempfile.TemporaryDirectory(prefix="stash-sense-") as directory:
            services += _services(server, Path(directory), interruption)
            try:
                return _watch(services, server, echo, prepare)
            finally:
                # Without the daemon there are no runs to end, and a program that loads would print a traceback.
                runs_may_exist = services[-1].process is not None
                _stop(services, interruption, signal.SIGINT if runs_may_exist else signal.SIGKILL)
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def _services(server: UiServer, directory: Path, interruption: _Interruption) -> list[_Service]:
    """Webserver, code server and daemon in the order of their start, not started. `directory` gets their socket."""
    unix_socket, workspace = directory / "code.sock", directory / "workspace.yaml"
    location = {"socket": str(unix_socket), "location_name": _LOCATION}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": location}]}))
    code = ["dagster", "code-server", "start", "--socket", str(unix_socket), "--location-name", _LOCATION]
    code += ["-m", "stash_sense_pipeline.definitions", "--log-level", "warning"]
    web = ["stash_sense_pipeline.deployment.webserver", "--wait-for", str(unix_socket), "-w", str(workspace)]
    web += ["-h", server.host, "-p", str(server.port)]
    daemon = ["dagster._daemon", "run", "-w", str(workspace)]
    return [
        _Service("the webserver", web, server.environment, server.home, interruption),
        _Service("the code server", code, server.environment, server.home, interruption),
        _Service("the daemon", daemon, server.environment, server.home, interruption, server.kept_open),
    ]


def _watch(
    services: Sequence[_Service],
    server: UiServer,
    echo: Callable[[str], None],
    prepare: Callable[[], None],
) -> int:
    """Starts the programs and restarts them. Returns 1 when a program ends early after its start."""
    web, code_server, daemon = services
    interruption = web.interruption
    # The webserver takes longest to load, and then waits for the code server.
    web.start()
    prepare()
    code_server.start()
    while True:
        time.sleep(_POLL_SECONDS)
        interruption.check()
        # The daemon starts last, because it would slow down the start of the UI.
        if daemon.process is None and _answers(server.host, server.port):
            echo(f"Dagster UI: http://{server.host}:{server.port}  (Ctrl-C ends it)")
            daemon.start()
        for service in services:
            code = service.ended()
            if code is None:
                continue
            lived = time.monotonic() - service.started
            if lived < _EARLY_END_SECONDS:
                echo(
                    f"{service.name} ended {lived:.0f} s after its start (exit code {code}); all programs are ended"
                )
                return 1
            echo(f"{service.name} ended by itself (exit code {code}); it is restarted")
            service.signal(signal.SIGINT)
            service.start()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(
    services: Sequence[_Service], interruption: _Interruption, number: signal.Signals = signal.SIGINT
) -> None:
    """Sends a signal to all, waits as long as a batch may take, and kills those left. A second signal ends the wait."""
    interruption.asked = False
    with interruption.noted():
        for service in reversed(services):
            service.signal(number)
        _await(services, _STOP_SECONDS, lambda: interruption.asked)
        for service in services:
            service.signal(signal.SIGKILL)
        # After this wait the daemon lock is free for the next start.
        _await(services, _KILL_SECONDS, lambda: False)


def _await(services: Sequence[_Service], seconds: float, gives_up: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while any(service.runs for service in services) and time.monotonic() < until and not gives_up():
        time.sleep(_POLL_SECONDS / 4)
