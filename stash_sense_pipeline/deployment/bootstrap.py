"""Prepares a deployment: directories, sources.yaml, databases, pool limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import create_database, open_catalog
from stash_sense_pipeline.catalog.transactions import shown_url
from stash_sense_pipeline.deployment.dagster_home import check_writable, prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.faces.models.onnx_sessions import Device, require_runtime
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import write_atomically
from stash_sense_pipeline.orchestration.names import GPU_POOL
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.sources_file import load_settings

_WAIT_SECONDS = 60.0


def prepare(environment: Environment, home: Path, gpus: int, echo: Callable[[str], None]) -> None:
    """Checks or creates data directory, sources.yaml, device, catalog, run history in `home` and pool limit.

    `echo` gets a line for each. Running it again changes nothing. Raises ConfigurationError, DeviceError or CatalogError.
    It does not check that this machine has a GPU: runs may execute on another.
    """
    check_writable(environment.data_dir)
    prepare_home(home)
    echo(f"data directory {environment.data_dir}: can be written")
    if _write_if_missing(environment.sources_file):
        echo(f"{environment.sources_file}: written; look through it")
    settings = load_settings(environment.sources_file)
    echo(
        f"{environment.sources_file}: {len(settings.enabled)} of {len(settings.sources)} sources are enabled"
    )
    for source in settings.enabled:
        # Reads the key file now, so that an unreadable one fails here and not in a nightly run.
        environment.api_key(source.name)
    device = Device(environment.device)
    if device is Device.CUDA and environment.executor == "in_process":
        # Runs use the same installation as this process.
        require_runtime(device)
        echo("device cuda: ONNX Runtime for GPUs and the libraries of CUDA are installed")
    shown = shown_url(sa.make_url(environment.catalog_url))
    create_database(environment.catalog_url)
    open_catalog(environment.catalog_url).dispose()
    echo(f"catalog {shown}: ready")
    with open_instance(home) as instance:
        _upgrade_if_older(instance)
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, gpus)
    echo(f"run history: ready; pool {GPU_POOL}: {gpus} at a time")


def _write_if_missing(sources_file: Path) -> bool:
    """Writes the shipped sources.yaml unless the file exists. Returns True when it was written."""
    try:
        if sources_file.exists():
            return False
        write_atomically(sources_file, shipped_file("sources.yaml").read_text())
    except OSError as error:
        user = f"{os.geteuid()}:{os.getegid()}"
        raise ConfigurationError(
            f"STASH_SENSE_SOURCES: {sources_file} can neither be read nor written by user {user} ({error.strerror})"
        ) from error
    return True


def _upgrade_if_older(instance: dg.DagsterInstance) -> None:
    """Migrates the run history after an update of Dagster, and only then: on SQLite this opens a database for each run."""
    storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    versions = [storage.alembic_version() for storage in storages if storage is not None]
    if any(version is None or version[0] != version[1] for version in versions):
        instance.upgrade(lambda _: None)


def gpu_count(variables: Mapping[str, str]) -> int:
    """STASH_SENSE_GPUS: how many embedding steps run at once; 1 when unset."""
    text = variables.get("STASH_SENSE_GPUS", "").strip() or "1"
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ConfigurationError(f"STASH_SENSE_GPUS: {text!r} is not a whole number of at least 1")
    return int(text)
