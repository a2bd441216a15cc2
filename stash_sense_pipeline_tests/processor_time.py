"""Processor time of a call, for tests of what a call may cost at most."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_seconds(act: Callable[[], object], enough: float, tries: int = 3) -> float:
    """The least processor time of up to `tries` calls; no further call follows one that took less than `enough`.

    A pass of the garbage collector and other threads count too, so that one call alone says little.
    """
    found = []
    for _ in range(tries):
        began = time.process_time()
        act()
        found.append(time.process_time() - began)
        if found[-1] < enough:
            break
    return min(found)
