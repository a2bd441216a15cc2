"""A backup as an operator takes and uses it: an empty machine publishes the release that the lost one had, byte for byte."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.shipped_files import shipped_file
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PUBLISH = ("job", "execute", "-m", "stash_sense_pipeline.definitions", "-j", "publish")


def digests(release: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(release.iterdir())}


def command(data: Path, *words: str | Path, program: Path = PROGRAM, **variables: str) -> str:
    environment = {
        **os.environ,
        "DATA_DIR": str(data),
        "STASH_SENSE_SOURCES": str(data / "sources.yaml"),
        "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
        **variables,
    }
    result = subprocess.run(
        [program, *words], env=environment, cwd=shipped_file("workspace.yaml").parent,
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_an_empty_machine_publishes_the_same_bytes(demo: tuple[Path, str], tmp_path: Path) -> None:
    lost, found = demo[0], tmp_path / "found"
    said = command(lost, "backup", tmp_path / "backup.zip")
    assert "catalog.db, sources.yaml, suppression.key" in said
    found.mkdir()
    said = command(found, "restore", tmp_path / "backup.zip")
    assert said.startswith("restored ")
    home = found / "dagster"
    command(found, "prepare")
    command(found, *PUBLISH, program=PROGRAM.with_name("dagster"), DAGSTER_HOME=str(home))
    before, after = (digests((data / "releases" / "latest").resolve()) for data in (lost, found))
    assert len(before) >= 6
    assert after.keys() == before.keys()
    differing = {name for name in before if before[name] != after[name]}
    # It says when it was made.
    assert differing <= {"manifest.json"}
