"""Signals: held back while a block runs, and a program that SIGINT ends without a traceback while it loads.

`python -m stash_sense_pipeline.foundation.signals MODULE ARGUMENT...` is `python -m MODULE ARGUMENT...` otherwise.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The exit code of a program that SIGINT ends.
_INTERRUPTED = 130
_IMPORTS = "<frozen importlib."


@contextmanager
def signals_blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Holds these signals back from this thread while the block runs; they arrive after it.

    A process that is started in the block begins with them blocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_module(arguments: list[str]) -> None:
    """Runs the module that `arguments` begin with as a program.

    SIGINT may be blocked at the start, so that none arrives before Python can handle it.
    """
    signal.signal(signal.SIGINT, _handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _handle(number: int, frame: FrameType | None) -> None:
    """Ends the program before its code runs and while it imports a module; else raises KeyboardInterrupt."""
    begun = importing = False
    caller = frame
    while caller is not None:
        file = caller.f_code.co_filename
        begun |= caller.f_globals.get("__name__") == "__main__" and file != __file__
        importing |= file.startswith(_IMPORTS)
        caller = caller.f_back
    if importing or not begun:
        sys.exit(_INTERRUPTED)
    signal.default_int_handler(number, frame)


if __name__ == "__main__":
    run_module(sys.argv[1:])
