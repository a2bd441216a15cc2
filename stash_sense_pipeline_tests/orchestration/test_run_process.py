"""The processor time that a run of a build needs to start: which packages its process loads, and what it collects."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.builds.run_process import (
    CodeLocation,
    RunProcess,
    RunResult,
    RunStatus,
    RunTask,
    prepare_processes,
)
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.sources_file import load_settings

NOTES = "notes.json"


def loaded_packages() -> set[str]:
    """The packages of which this process has imported a module, without the standard library."""
    return {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names


@contextmanager
def noting_packages(home: Path) -> Iterator[dg.DagsterInstance]:
    """Opens the instance. At the end it writes down which packages the run loaded, and how many objects it froze."""
    before = loaded_packages()
    with open_instance(home) as instance:
        yield instance
    notes = {"packages": sorted(loaded_packages() - before), "frozen": gc.get_freeze_count()}
    (home / NOTES).write_text(json.dumps(notes))


def run_once(directory: Path) -> None:
    """Computes the identities of an empty catalog in a process of the fork server."""
    environment = read_environment({"DATA_DIR": str(directory)}, directory)
    settings = load_settings(shipped_file("sources.yaml"))
    location = CodeLocation(build_defs, noting_packages, directory / "dagster", settings, environment)  # type: ignore[arg-type]
    prepare_processes(location)
    process = RunProcess(location, RunTask(names.PUBLISH_JOB, [names.IDENTITY_GRAPH]))
    while not isinstance(message := process.receive(), RunResult):
        assert message is not None
    process.close()
    assert message.status is RunStatus.DONE, message.reasons


@pytest.mark.slow
def test_a_run_of_a_build_loads_no_package_and_does_not_collect_imported_objects(tmp_path: Path) -> None:
    """A fork server that serves this process already could have other modules, so a new process starts one."""
    code = (
        f"import sys; from pathlib import Path\nfrom {__name__} import run_once; run_once(Path(sys.argv[1]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stderr
    notes = json.loads((tmp_path / "dagster" / NOTES).read_text())
    assert notes["packages"] == []
    assert notes["frozen"] > 100_000
