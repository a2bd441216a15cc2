"""Graceful shutdown: a signal ends a step after its current batch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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

    def handle(_: int, __: FrameType | None) -> None:
        restore()
        act()

    try:
        for number in _SIGNALS:
            signal.signal(number, handle)
        yield
    finally:
        restore()
