"""Graceful shutdown: a signal ends a step after its current batch."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import dagster as dg

_T = TypeVar("_T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulHandler:
    """The signal handler of a step that ends by itself after a signal."""

    def __init__(self, act: Callable[[], Any], restore: Callable[[], None]) -> None:
        self._act = act
        self._restore = restore

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self._act()


@contextmanager
def on_interrupt(act: Callable[[], Any]) -> Iterator[None]:
    """Calls `act` at the first SIGINT or SIGTERM while the block runs. A second signal reaches the previous handler.

    Dagster's own handler raises an exception at any place of the main thread, even inside the event loop, which may
    swallow it. Only the main thread can set handlers: in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    handle = GracefulHandler(act, restore)
    try:
        for number in _SIGNALS:
            signal.signal(number, handle)
        yield
    finally:
        restore()


def run_until_interrupt(work: Coroutine[Any, Any, _T]) -> _T | None:
    """Runs a coroutine in an event loop. SIGINT or SIGTERM cancels it, so that it stores what it holds: then None."""

    async def main() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        with on_interrupt(lambda: loop.call_soon_threadsafe(task.cancel)):
            return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        return None


def interrupted(context: dg.AssetExecutionContext, what: str) -> dg.DagsterExecutionInterruptedError:
    """The error for which Dagster records a run as canceled, not as failed. `what` says what is stored."""
    context.log.warning(f"interrupted; {what}")
    run = context.instance.get_run_by_id(context.run_id)
    if run is not None and run.status is dg.DagsterRunStatus.STARTED:
        # A run that was not asked to cancel would be recorded as failed.
        context.instance.report_run_canceling(run)
    return dg.DagsterExecutionInterruptedError(what)
