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
    """Calls `act` at the first SIGINT or SIGTERM while the block runs; a second one does what it did before.

    Dagster's own handler raises wherever the main thread happens to be, also inside the event loop, which may
    swallow it. In a thread other than the main one, where no handler can be set, nothing changes.
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
