"""The program of the webserver under `stash-sense serve`: it loads while the code server starts, and then waits for it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

_WAIT_SECONDS = 120.0


def main() -> None:
    """Arguments: the socket of the code server, then those of dagster-webserver."""
    from dagster_webserver import cli

    socket = Path(sys.argv.pop(1))
    give_up = time.monotonic() + _WAIT_SECONDS
    # One that asked too early would show an error until it asks again; one that waits in vain has to show it.
    while not socket.exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    cli.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
