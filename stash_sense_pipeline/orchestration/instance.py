"""The Dagster instance that the command line works with: run history under DAGSTER_HOME, else under the data directory."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from stash_sense_pipeline.orchestration.home import prepare_home


def open_instance(home: Path) -> dg.DagsterInstance:
    """Opens the instance whose history is in `home`, after `prepare_home`."""
    return dg.DagsterInstance.from_config(str(prepare_home(home)))
