"""Runtime tuning: the cycle collector paused or made rare, free heap memory returned to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the collector: it takes a quarter to a third of the time to find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def trim_heap() -> None:
    """Lets the C library return what lies free in its heaps; does nothing where it has no malloc_trim.

    glibc keeps it for the next allocation of the same thread: after two threads have built indices, hundreds of
    megabytes that large arrays cannot use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


_ALLOCATIONS_A_COLLECTION = 100_000


@contextmanager
def rare_collections() -> Iterator[None]:
    """Lets Python look for reference cycles rarely: records are many small objects, and without any.

    By default a seventh of a backfill goes into looking.
    """
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS_A_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
