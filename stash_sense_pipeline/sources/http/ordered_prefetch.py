"""Concurrent requests with results in the order of the requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_IN_FLIGHT = 6


async def ordered_prefetch(
    requests: Iterable[Callable[[], Coroutine[Any, Any, T]]], in_flight: int = _IN_FLIGHT
) -> AsyncGenerator[T, None]:
    """Yields the results in the order of the requests, with up to `in_flight` requests running at a time.

    Closing the iterator (use contextlib.aclosing) or an error cancels the running requests.
    """
    waiting: deque[asyncio.Task[T]] = deque()
    try:
        for request in requests:
            waiting.append(asyncio.create_task(request()))
            if len(waiting) == in_flight:
                yield await waiting[0]
                waiting.popleft()
        while waiting:
            yield await waiting[0]
            waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
