"""Memory that is free again, and how the operating system gets it back."""

from __future__ import annotations

import ctypes


def give_back_memory() -> None:
    """Lets the C library return what lies free in its heaps; does nothing where it has no malloc_trim.

    glibc keeps it for the next allocation of the same thread: after two threads have built indices, hundreds of
    megabytes that large arrays cannot use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
