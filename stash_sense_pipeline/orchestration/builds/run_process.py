"""One Dagster run in a child process: the task, the messages it sends, and the ways to end it.

A run in this process would redirect the terminal's output, and a signal would reach it anywhere. Runs side by side in
threads would share that output.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dagster as dg

from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.foundation.signals import signals_blocked
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.dagster_private import give_runs_an_origin, keep_output_in_files
from stash_sense_pipeline.orchestration.graceful_shutdown import GracefulHandler
from stash_sense_pipeline.orchestration.step_progress import ProgressFactory, log_step_progress
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

# Without this the console repeats every Dagster event; the command prints its own summary.
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Runs import these. The fork server does it once, so that a child begins more than a second of processor time earlier.
# The first one loads what an instance needs: the storages of runs, events and schedules.
_IMPORTED_BY_RUNS = (
    "dagster._core.storage.base_storage",
    "dagster._core.secrets.env_file",
    "pandas",
    "upath.core",
    "stash_sense_pipeline.catalog.engine",
    "stash_sense_pipeline.sources.stash_boxes.refresh",
    "stash_sense_pipeline.sources.reference_sites.enrich",
    "stash_sense_pipeline.faces.embed_waiting",
    "stash_sense_pipeline.identity.rebuild",
    "stash_sense_pipeline.privacy.enforcement",
    "stash_sense_pipeline.release.publish",
)
_BETWEEN_LOOKS = 0.05
# A step that ends by itself finishes its requests and its batch, and Dagster records its end.
_STEP_SECONDS = 60.0
_BETWEEN_STEPS_SECONDS = 10.0
_INTERRUPTED = 130
_EXIT_SECONDS = 10.0


@dataclass(frozen=True)
class CodeLocation:
    """How a child process gets its definitions and its instance. All fields can be pickled.

    `make_definitions` takes the keyword arguments settings, environment and resources. `open_instance` takes `home`.
    """

    make_definitions: Callable[..., dg.Definitions]
    open_instance: Callable[[Path], dg.DagsterInstance]
    home: Path
    settings: Settings
    environment: Environment


@dataclass(frozen=True)
class RunTask:
    """One run of a job: of the assets `selection` only (None: all of the job), of one partition."""

    job: str
    selection: Sequence[dg.AssetKey] | None = None
    ops: Mapping[str, Any] | None = None
    partition: str | None = None
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ProgressMessage:
    """One progress report of a step. `asset` is the asset that the step computes, empty for several."""

    asset: str
    subject: str
    stage: str
    done: int
    total: int | None
    counts: Mapping[str, int]


class RunStatus(StrEnum):
    """How a run ended."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    `metadata` holds numbers and texts of its assets by asset; `failed_checks` names the checks that failed as errors.
    """

    status: RunStatus
    reasons: Sequence[str] = ()
    metadata: Mapping[str, Mapping[str, Any]] | None = None
    failed_checks: Sequence[str] = ()


Message = ProgressMessage | RunResult


class RunProcess:
    """A run in a child process. Read `connection` when it is ready; `receive` returns None when the child has ended."""

    def __init__(self, location: CodeLocation, task: RunTask) -> None:
        self.task = task
        self.run_id = str(uuid.uuid4())
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(location, task, self.run_id, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> Message | None:
        """The next message; None when there is none left because the child has ended."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def stop(self) -> None:
        """Asks the run to end after it has stored what is in flight."""
        with suppress(OSError):
            self.connection.send("stop")

    def kill(self) -> None:
        """Ends the child at once. Committed batches stay."""
        self._process.kill()

    def close(self) -> int | None:
        """Waits for the child, ends it if it does not, and returns its exit code."""
        self.connection.close()
        self._process.join(_EXIT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


def prepare_processes(location: CodeLocation) -> None:
    """Starts the server that forks the children, with the code of the location imported once.

    It inherits blocked signals, so that a Ctrl-C of the terminal reaches no child before the child has left the
    terminal's process group.
    """
    preload = [location.make_definitions.__module__, location.open_instance.__module__, *_IMPORTED_BY_RUNS]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    # Unblocks the signals itself when it starts its process.
    resource_tracker.ensure_running()
    with signals_blocked(*_SIGNALS):
        forkserver.ensure_running()


def _run(location: CodeLocation, task: RunTask, run_id: str, connection: Connection) -> None:
    """The child: executes the run and sends its messages."""
    os.setpgid(0, 0)
    # The imported modules live as long as the process. A full collection would look at all of their objects, and so
    # copy the 80 MB of memory that the process shares with the fork server.
    gc.freeze()
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(_INTERRUPTED))
    send, ended = _Sender(connection), threading.Event()
    threading.Thread(target=_listen, args=(connection, ended), name="stop", daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with location.open_instance(location.home) as instance:
            result = _execute(location, task, run_id, instance, send)
    # The parent must learn of any failure, and no traceback may reach the terminal.
    except Exception as error:  # noqa: BLE001
        result = RunResult(RunStatus.FAILED, [f"{type(error).__name__}: {str(error).splitlines()[0]}"])
    # The result is known; a signal must not break its sending.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    ended.set()
    send(result)


class _Sender:
    """Sends messages to the parent, from any thread. Without a parent they are dropped."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def __call__(self, message: Message) -> None:
        with self._lock, suppress(OSError):
            self._connection.send(message)


def _execute(
    location: CodeLocation, task: RunTask, run_id: str, instance: dg.DagsterInstance, send: _Sender
) -> RunResult:
    definitions = location.make_definitions(
        settings=location.settings,
        environment=location.environment,
        resources={"progress": _reporting(send)},
    )
    give_runs_an_origin(instance, task.job, names.CODE_LOCATION)
    keep_output_in_files(instance)
    run = definitions.resolve_job_def(task.job).execute_in_process(
        run_config=dg.RunConfig(ops=dict(task.ops or {}), loggers=_QUIET),
        instance=instance,
        partition_key=task.partition,
        raise_on_error=False,
        asset_selection=task.selection,
        # The daemon must not repeat a run of this build, which ends with its command.
        tags={**(task.tags or {}), "dagster/max_retries": "0"},
        run_id=run_id,
    )
    return _result(run)


def _listen(connection: Connection, ended: threading.Event) -> None:
    """Ends the run when the parent asks for it or is gone.

    A step that can end by itself gets a signal and some time. Otherwise the process ends at once: an exception that a
    signal raises anywhere may be swallowed there, and a crash loses no committed batch. The parent records the run as
    canceled.
    """
    with suppress(EOFError, OSError):
        connection.recv()
    signaled, deadline = None, time.monotonic() + _BETWEEN_STEPS_SECONDS
    while not ended.wait(_BETWEEN_LOOKS):
        handler = signal.getsignal(signal.SIGINT)
        if isinstance(handler, GracefulHandler) and handler is not signaled:
            signaled = handler
            deadline = time.monotonic() + _STEP_SECONDS
            os.kill(os.getpid(), signal.SIGINT)
        elif signaled is None or time.monotonic() > deadline:
            os._exit(_INTERRUPTED)


def _reporting(send: _Sender) -> ProgressFactory:
    """Progress that goes to the log of the run, as for any run, and to the parent."""

    def factory(context: dg.AssetExecutionContext, subject: str) -> Progress:
        logged = log_step_progress(context, subject)
        keys = context.selected_asset_keys
        asset = next(iter(keys)).to_user_string() if len(keys) == 1 else ""
        # The parent learns that the step has begun.
        send(ProgressMessage(asset, subject, "", 0, None, {}))

        def report(stage: str, done: int, total: int | None, /, **counts: int) -> None:
            logged(stage, done, total, **counts)
            send(ProgressMessage(asset, subject, stage, done, total, counts))

        return report

    return factory


def _result(run: dg.ExecuteInProcessResult) -> RunResult:
    events = run.all_events
    metadata = {
        event.asset_key.to_user_string(): _plain(event.materialization.metadata)
        for event in events
        if event.is_step_materialization and event.asset_key is not None
    }
    checks = [
        f"{evaluation.asset_key.to_user_string()}/{evaluation.check_name}"
        for evaluation in run.get_asset_check_evaluations()
        # A warning, such as too few faces for a recommended distance, is no failure.
        if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR
    ]
    stopped = any(event.event_type is dg.DagsterEventType.PIPELINE_CANCELED for event in events)
    status = RunStatus.STOPPED if stopped else RunStatus.DONE if run.success else RunStatus.FAILED
    return RunResult(status, list(_failures(events)), metadata, checks)


def _plain(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    """The values that the summary uses: numbers, texts and mappings of them."""
    values = {name: value.value for name, value in metadata.items()}
    return {name: value for name, value in values.items() if isinstance(value, int | float | str | dict)}


def _failures(events: Sequence[dg.DagsterEvent]) -> Iterator[str]:
    for event in events:
        if not event.is_step_failure:
            continue
        failure = event.step_failure_data
        if failure.user_failure_data is not None and failure.user_failure_data.description:
            yield failure.user_failure_data.description
        elif failure.error is not None:
            yield failure.error.message.strip().split("\n")[0]
