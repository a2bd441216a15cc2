"""Runtime tuning: the cycle collector paused or made rare, free heap memory returned to the system or overwritten."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Turns the cycle collector off while the block runs: it takes a quarter to a third of the time and frees nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def trim_heap() -> None:
    """Returns free heap memory of the C library to the system; does nothing where it has no malloc_trim.

    glibc keeps free memory for later allocations of the same thread. After two threads have built indices, these are
    hundreds of megabytes, which large arrays cannot use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


# A parameter of glibc's mallopt. Freed memory is filled with the value below.
_M_PERTURB = -6
_FILLING = 0xA5


def overwrite_freed_memory() -> bool:
    """Makes the C library overwrite memory when it is freed, from now on. False where it cannot.

    glibc can, except for blocks of at most 1032 bytes, which a thread keeps for itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_PERTURB, _FILLING) == 1


_ALLOCATIONS_PER_COLLECTION = 100_000


@contextmanager
def rare_collections() -> Iterator[None]:
    """Makes the cycle collector run rarely while the block runs.

    Records are many small objects without reference cycles. With the default threshold a backfill spends a seventh of
    its time in the collector.
    """
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
