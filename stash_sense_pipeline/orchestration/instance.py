"""The Dagster instance that the command line works with: run history under DAGSTER_HOME, else under the data directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from stash_sense_pipeline.errors import ConfigurationError
from stash_sense_pipeline.files import write_atomically
from stash_sense_pipeline.shipped_files import shipped_file


def prepare_home(home: Path) -> Path:
    """Makes `home` a DAGSTER_HOME: creates it, with the shipped dagster.yaml if it has none. Returns it absolute."""
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        write_atomically(settings, shipped_file("dagster.yaml").read_text())
    return home.resolve()


def open_instance(home: Path) -> dg.DagsterInstance:
    """Opens the instance whose history is in `home`, after `prepare_home`."""
    return dg.DagsterInstance.from_config(str(prepare_home(home)))


@contextmanager
def only_daemon(home: Path) -> Iterator[None]:
    """Holds the place of the one daemon of `home` while the block runs.

    Raises ConfigurationError, with the other's process number, where there is one already: two of them would launch
    everything twice.
    """
    lock = home / "daemon.lock"
    with lock.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"process {lock.read_text().strip() or 'unknown'} already serves {home}; end it first, or give this one "
                "its own DATA_DIR"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
