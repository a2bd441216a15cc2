"""Packaging: one ONNX Runtime is installed, the lock files have hashes and no index address, the wheel is complete."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
LOCKS = {"cpu": PROJECT / "locks" / "cpu.txt", "gpu": PROJECT / "locks" / "gpu.txt"}


def _locked(path: Path) -> set[str]:
    return {match.group(1) for match in re.finditer(r"^([A-Za-z0-9._-]+)==", path.read_text(), re.MULTILINE)}


def test_exactly_one_onnxruntime_is_installed() -> None:
    """Both distributions write to one directory: with both installed, it is undefined which one runs."""
    names = {distribution.metadata["Name"].lower() for distribution in distributions()}
    assert len(names & {"onnxruntime", "onnxruntime-gpu"}) == 1
    assert "opencv-python" not in names
    assert "opencv-python-headless" in names


@pytest.mark.parametrize(("extra", "runtime"), [("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")])
def test_each_lock_holds_its_own_runtime_only(extra: str, runtime: str) -> None:
    assert _locked(LOCKS[extra]) & {"onnxruntime", "onnxruntime-gpu"} == {runtime}


@pytest.mark.parametrize("extra", LOCKS)
def test_locks_hold_hashes_and_no_address(extra: str) -> None:
    text = LOCKS[extra].read_text()
    assert "://" not in text
    assert len(re.findall(r"--hash=sha256:", text)) > len(_locked(LOCKS[extra]))


@pytest.mark.parametrize("extra", LOCKS)
def test_every_dependency_is_locked(extra: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    named = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"][extra]]
    wanted = {re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in named}
    assert wanted <= _locked(LOCKS[extra])


@pytest.mark.slow
def test_the_wheel_holds_what_the_program_needs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = "stash_sense_pipeline"
    for needed in (
        f"{package}/shipped/sources.yaml",
        f"{package}/shipped/dagster.yaml",
        f"{package}/shipped/workspace.yaml",
        f"{package}/sandbox/demo_pack/pack.yaml",
        f"{package}/sandbox/demo_pack/detector.onnx",
        f"{package}/catalog/migrations/env.py",
        f"{package}/catalog/migrations/versions/0001_first.py",
    ):
        assert needed in names
    assert not [name for name in names if "_tests/" in name]
