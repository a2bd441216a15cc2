"""Fixtures of the tests of orchestration: settings without files, and a demo that runs once per session."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg
import pytest

from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.settings.environment import Environment, read_environment
from stash_sense_pipeline.settings.known_sources import KNOWN_STASH_BOXES
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.settings.sources_file import load_settings

_PROGRESS_LINE = re.compile(r"\w+: \w+ [\d,]+( of [\d,]+)?(, |$)")
PROGRAM = Path(sys.executable).with_name("stash-sense")
# For what must come: on a machine with much other work it can take long.
WAIT_SECONDS = 600.0


def wait_until(
    condition: Callable[[], object], what: Callable[[], str] = str, seconds: float = WAIT_SECONDS
) -> None:
    """Returns when the condition holds. `what` says what was found if it never does."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, what()
        time.sleep(0.02)


def without_progress(errors: str) -> list[str]:
    """The lines on standard error but those of the progress: on a slow machine one appears each minute."""
    return [line for line in errors.strip().splitlines() if not _PROGRESS_LINE.match(line)]


def run_demo(directory: Path) -> str:
    """Runs the command `demo` and returns its output."""
    result = subprocess.run(
        [PROGRAM, "demo", "--data-dir", directory],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
        cwd=directory.parent,
        # The demo must not use the set-up of the shell.
        env={
            **os.environ,
            "STASH_SENSE_CATALOG_URL": "sqlite:////nowhere/catalog.db",
            "DAGSTER_HOME": "/nowhere",
        },
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert without_progress(result.stderr) == []
    return result.stdout


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of the demo and its output. Each process of the tests has its own: its release names the ports of
    its sandbox.
    """
    directory = tmp_path_factory.mktemp("demo") / "data"
    return directory, run_demo(directory)


def environment_at(directory: Path, **variables: str) -> Environment:
    """An environment with the data directory `directory`."""
    return read_environment({"DATA_DIR": str(directory), **variables}, directory)


def ready_environment_at(directory: Path, **variables: str) -> Environment:
    """An environment in which runs can succeed: a model pack, and a key of each known stash-box."""
    ready = {f"{name.upper()}_API_KEY": "key" for name in KNOWN_STASH_BOXES}
    ready["STASH_SENSE_MODEL_PACK"] = str(DEMO_PACK)
    return environment_at(directory, **{**ready, **variables})


@pytest.fixture
def settings() -> Settings:
    """The shipped sources.yaml."""
    return load_settings(shipped_file("sources.yaml"))


@pytest.fixture
def definitions(settings: Settings, tmp_path: Path) -> dg.Definitions:
    """The definitions for the shipped sources, with an empty data directory."""
    return build_defs(settings=settings, environment=environment_at(tmp_path))


def materialize_runless(instance: dg.DagsterInstance, key: str, partition: str | None = None) -> None:
    """Records a materialization as a run would."""
    instance.report_runless_asset_event(dg.AssetMaterialization(asset_key=key, partition=partition))


def tags_of(requests: list[dg.RunRequest]) -> list[Mapping[str, str]]:
    """The tags of run requests."""
    return [request.tags for request in requests]
