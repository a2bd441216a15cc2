"""The runs of a build that are in progress: their messages, and their end after a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType

from stash_sense_pipeline.foundation.errors import InterruptedBuildError
from stash_sense_pipeline.orchestration.builds.run_process import (
    CodeLocation,
    ProgressMessage,
    RunProcess,
    RunResult,
    RunStatus,
    RunTask,
)

_LOOK_SECONDS = 0.25


class Signals:
    """Counts the signals that ask the build to end."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


@contextmanager
def noting_signals() -> Iterator[Signals]:
    """Notes SIGINT and SIGTERM while the block runs."""
    signals = Signals()
    before = {number: signal.signal(number, signals) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Runs:
    """The runs that are in progress. After a signal they are ended, and InterruptedBuildError is raised."""

    def __init__(
        self, location: CodeLocation, progress: Callable[[ProgressMessage], None], signals: Signals
    ) -> None:
        self.location = location
        self._progress = progress
        self._signals = signals
        self._running: list[RunProcess] = []

    def start(self, task: RunTask) -> RunProcess:
        """Starts a run."""
        process = RunProcess(self.location, task)
        self._running.append(process)
        return process

    def check_signals(self) -> None:
        """Ends the runs in progress and raises InterruptedBuildError when a signal has arrived."""
        if self._signals.count:
            self._end()

    def messages(self) -> Iterator[tuple[RunProcess, ProgressMessage | RunResult]]:
        """The messages that have arrived, after waiting a moment for one."""
        self.check_signals()
        ready = wait([process.connection for process in self._running], timeout=_LOOK_SECONDS)
        for process in [process for process in self._running if process.connection in ready]:
            message = process.receive()
            if isinstance(message, ProgressMessage):
                self._progress(message)
                yield process, message
                continue
            result = self._ended(process, message)
            if result.status is RunStatus.STOPPED and not self._signals.count:
                # The child got a signal of its own.
                result = RunResult(RunStatus.FAILED, ["the run was stopped by a signal"])
            yield process, result

    def _ended(self, process: RunProcess, result: RunResult | None) -> RunResult:
        """The result of a child that has ended, also when it could not tell one."""
        self._running.remove(process)
        code = process.close()
        if result is not None:
            return result
        with self.location.open_instance(self.location.home) as instance:
            run = instance.get_run_by_id(process.run_id)
            if run is not None and not run.is_finished:
                instance.report_run_failed(run, "its process ended")
        cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return RunResult(
            RunStatus.FAILED, [f"the process of the run ended ({cause}); was memory exhausted? see the log"]
        )

    def _end(self) -> None:
        """Ends all runs after what is in flight is stored; a second signal ends them at once."""
        asked = list(self._running)
        for process in asked:
            process.stop()
        while self._running and self._signals.count < 2:
            connections = {process.connection: process for process in self._running}
            for connection in wait(list(connections), timeout=_LOOK_SECONDS):
                process = next(one for open_, one in connections.items() if open_ is connection)
                if not isinstance(process.receive(), ProgressMessage):
                    self._running.remove(process)
                    process.close()
        for process in self._running:
            process.kill()
            process.close()
        self._record_canceled(asked)
        raise InterruptedBuildError("stopped; run the command again to go on")

    def _record_canceled(self, ended: Iterable[RunProcess]) -> None:
        with self.location.open_instance(self.location.home) as instance:
            for process in ended:
                run = instance.get_run_by_id(process.run_id)
                if run is not None and not run.is_finished:
                    instance.report_run_canceled(run)
