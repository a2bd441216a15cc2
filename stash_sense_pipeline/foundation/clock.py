"""Time: the clock, replaceable in tests, and the time that concurrent work takes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """The source of time: a monotonic clock in seconds, an awaitable sleep in seconds, and the wall clock in UTC."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = _utc_now


class BusyTime:
    """The time during which at least one of several concurrent tasks does a kind of work.

    Use it as a context manager around the work, in any thread or task: `seconds` counts overlapping work once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._since = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        with self._lock:
            if not self._active:
                self._since = time.monotonic()
            self._active += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._active -= 1
            if not self._active:
                self._seconds += time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        """The seconds so far, without work that is still going on."""
        return self._seconds
