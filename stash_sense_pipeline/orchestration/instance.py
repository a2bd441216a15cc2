"""The Dagster instance that the command line works with: run history under DAGSTER_HOME, else under the data directory."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

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
