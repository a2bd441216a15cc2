"""The Dagster instance that the command line works with: run history under DAGSTER_HOME, else under the data directory."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import dagster as dg

from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import holding_lock
from stash_sense_pipeline.orchestration.dagster_private import run_history_revisions

# The databases of Dagster's run history, relative to DAGSTER_HOME.
HISTORY_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")


def open_instance(home: Path) -> dg.DagsterInstance:
    """Opens the instance with its history in `home`, after `prepare_home`.

    A lock lets one process at a time do this: Dagster creates its databases without a lock, and two processes at once
    record two revisions, which Dagster then refuses. Older revisions of such a database are removed. Raises
    ConfigurationError when the history cannot be read or written.
    """
    home = prepare_home(home)
    try:
        with _alone(home):
            for database in HISTORY_DATABASES:
                if (home / database).is_file():
                    _repair_revisions(home / database)
            return dg.DagsterInstance.from_config(str(home))
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"DAGSTER_HOME: the run history in {home} cannot be used: {error}"
        ) from error


def _alone(home: Path) -> AbstractContextManager[None]:
    """The lock for opening the history in `home`; none when `home` is read-only, as with a history on PostgreSQL."""
    return holding_lock(home / ".instance.lock") if os.access(home, os.W_OK) else nullcontext()


def _repair_revisions(database: Path) -> None:
    """Leaves one row in alembic_version when processes that started at once left several.

    All of them created the tables of the newest revision, so the newest is kept.
    """
    with closing(sqlite3.connect(database, timeout=30.0)) as connection:
        table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        if table is None:
            return
        recorded = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
        if len(recorded) < 2:
            return
        newest = _newest(recorded)
        with connection:
            connection.execute("DELETE FROM alembic_version")
            connection.execute("INSERT INTO alembic_version (version_num) VALUES (?)", (newest,))
    logging.getLogger(__name__).warning(
        "%s recorded several revisions (%s); the newest, %s, was kept", database, ", ".join(recorded), newest
    )


def _newest(recorded: Iterable[str]) -> str:
    """The newest of these revisions of Dagster's databases. Raises ConfigurationError when one of them is unknown."""
    order = run_history_revisions()
    unknown = set(recorded) - set(order)
    if unknown:
        raise ConfigurationError(
            f"the run history has revisions that this version of Dagster does not know ({', '.join(sorted(unknown))}); "
            "upgrade stash-sense, or move DAGSTER_HOME away to start a new history"
        )
    return min(recorded, key=order.index)
