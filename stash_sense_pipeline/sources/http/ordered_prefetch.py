"""Concurrent requests whose results come in the order of the requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_UNDER_WAY = 6


async def ordered_prefetch(
    questions: Iterable[Callable[[], Coroutine[Any, Any, T]]], under_way: int = _UNDER_WAY
) -> AsyncGenerator[T, None]:
    """Yields the answers in order, with up to `under_way` questions asked at a time.

    Closing the iterator (use contextlib.aclosing) or an error cancels what is still under way.
    """
    waiting: deque[asyncio.Task[T]] = deque()
    try:
        for question in questions:
            waiting.append(asyncio.create_task(question()))
            if len(waiting) == under_way:
                yield await waiting[0]
                waiting.popleft()
        while waiting:
            yield await waiting[0]
            waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
