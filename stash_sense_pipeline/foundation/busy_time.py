"""The time during which at least one of several concurrent tasks does a kind of work."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self


class BusyTime:
    """Use it as a context manager around the work, in any thread or task; `seconds` counts overlapping work once."""

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
