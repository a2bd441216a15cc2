"""Dagster's own commands from the README, against a small sandbox on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

README = shipped_file("workspace.yaml").with_name("README.md")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a DAGSTER_HOME and the sources of a small sandbox."""
    home = tmp_path_factory.mktemp("operator")
    with SandboxServers(make_demo_world(seed=4, people=16), pictures=rendered()) as servers:
        (home / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers)))
        yield {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DATA_DIR": str(home / "data"),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "DAGSTER_HOME": str(prepare_home(home / "dagster")),
            **servers.environment(),
        }


def command(beginning: str) -> str:
    """The command in the README's table that begins so."""
    found = re.search(rf"`({re.escape(beginning)}[^`]*)`", README.read_text())
    assert found is not None, f"the README has no command that begins with {beginning}"
    return found.group(1)


def run(text: str, variables: dict[str, str]) -> str:
    """What a command printed; it must succeed."""
    result = subprocess.run(
        ["bash", "-c", text],
        env=variables,
        cwd=README.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_definitions_are_valid(variables: dict[str, str]) -> None:
    said = run(command("dagster definitions validate"), variables)
    assert "Validation successful for code location stash_sense" in said


def test_dagster_asset_materialize_runs_one_asset_of_one_source(variables: dict[str, str]) -> None:
    said = run(command("dagster asset materialize"), variables)
    assert "RUN_SUCCESS" in said
    assert (Path(variables["DATA_DIR"]) / "catalog.db").exists()


def test_a_job_is_queued_for_the_daemon(variables: dict[str, str]) -> None:
    run(command("dagster job launch"), variables)
    with open_instance(Path(variables["DAGSTER_HOME"])) as instance:
        runs = [run for run in instance.get_runs() if run.job_name == "refresh_source"]
    assert len(runs) == 1
    assert runs[0].tags["dagster/partition"] == "stashdb"
    assert runs[0].status.value in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "SUCCESS")
