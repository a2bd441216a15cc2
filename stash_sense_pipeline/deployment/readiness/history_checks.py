"""Checks of Dagster's run history: the limit of the GPU pool, and the daemon."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster_postgres.utils import DagsterPostgresException

from stash_sense_pipeline.deployment.dagster_instance import HISTORY_DATABASES
from stash_sense_pipeline.deployment.readiness.check import Check, State
from stash_sense_pipeline.foundation.yaml_file import read_yaml
from stash_sense_pipeline.orchestration.names import GPU_POOL

# A daemon notes that it is alive every 30 s.
_ALIVE_WITHIN = timedelta(minutes=5)
_DAEMONS = ("SCHEDULER", "SENSOR", "QUEUED_RUN_COORDINATOR")
_ON_THIS_MACHINE = "WatchedRunLauncher"


def instance_settings(home: Path) -> Mapping[str, Any]:
    """The content of `dagster.yaml`; empty when there is none. Raises ConfigurationError when it is not readable."""
    file = home / "dagster.yaml"
    if not file.is_file():
        return {}
    found = read_yaml(file).data
    return found if isinstance(found, dict) else {}


def launches_elsewhere(settings: Mapping[str, Any]) -> bool:
    """True when dagster.yaml names a launcher that runs containers."""
    launcher = settings.get("run_launcher")
    return isinstance(launcher, dict) and launcher.get("class", _ON_THIS_MACHINE) != _ON_THIS_MACHINE


def check_history(
    home: Path, settings: Mapping[str, Any], gpus: int, *, server_ready: bool, automation: bool
) -> list[Check]:
    """The checks of the pool and of the daemon; none when there is no run history, and a problem when it is unreadable.

    A history on a server exists when the catalog does (`server_ready`): `stash-sense prepare` makes both. Nothing is
    created or migrated.
    """
    on_files = "storage" not in settings
    exists = all((home / name).is_file() for name in HISTORY_DATABASES) if on_files else server_ready
    if not (settings and exists):
        return []
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            limits = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
            beats = instance.get_daemon_heartbeats()
    except (OSError, sqlite3.Error, sa.exc.SQLAlchemyError, DagsterPostgresException) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [Check("run history", State.PROBLEM, f"cannot be read: {line}", "see docs/runbook.md")]
    newest = max((beat.timestamp for kind, beat in beats.items() if kind in _DAEMONS), default=None)
    age = timedelta(seconds=time.time() - newest) if newest is not None else None
    return [check_pool(limits.get(GPU_POOL), gpus), check_daemon(age, automation=automation)]


def check_pool(limit: int | None, gpus: int) -> Check:
    """A problem when the pool lets no step run; a warning when its limit is not STASH_SENSE_GPUS."""
    name, action = f"pool {GPU_POOL}", "`stash-sense prepare` sets it"
    if limit is not None and limit < 1:
        return Check(name, State.PROBLEM, f"lets {limit} steps run, so no face is embedded", action)
    if limit != gpus:
        found = "has no limit of its own" if limit is None else f"lets {limit} steps run at once"
        return Check(name, State.WARNING, f"{found}; STASH_SENSE_GPUS is {gpus}", action)
    return Check(name, State.OK, f"lets {limit} {'step' if limit == 1 else 'steps'} run at once")


def check_daemon(age: timedelta | None, *, automation: bool) -> Check:
    """`age` of the newest heartbeat, None without one. A daemon that is not alive is a problem with `automation` only."""
    if age is not None and age <= _ALIVE_WITHIN:
        return Check("daemon", State.OK, f"alive {max(0.0, age.total_seconds()):.0f} s ago")
    found = "never ran" if age is None else f"was last alive {_ago(age)} ago"
    if age is None and not automation:
        return Check("daemon", State.OK, f"{found}; `stash-sense serve` starts it")
    state = State.PROBLEM if automation else State.WARNING
    return Check(
        "daemon",
        state,
        f"{found}: no schedule, sensor or queued run starts",
        "`stash-sense serve`, or `docker compose up -d daemon`",
    )


def _ago(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours >= 2 else f"{age.total_seconds() / 60:.0f} minutes"
