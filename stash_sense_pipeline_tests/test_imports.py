"""What a process imports that only needs a part of the program: its start takes no longer than that part."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

DATABASE = {"alembic", "sqlalchemy"}
LARGE = {
    *DATABASE,
    "cv2",
    "dagster",
    "httpx",
    "insightface",
    "matplotlib",
    "onnxruntime",
    "pandas",
    "skimage",
}


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("cli", {*LARGE, "numpy", "PIL", "pydantic", "rich", "yaml"}),
        ("deployment.supervisor", {*LARGE, "numpy", "PIL", "pydantic", "rich"}),
        ("deployment.webserver", {*LARGE, "numpy", "PIL", "rich"}),
        ("faces.extraction.decode_process", {*LARGE, "pydantic", "rich", "yaml"}),
        ("faces.models.pack_install", {*LARGE, "numpy", "PIL", "pydantic", "rich"}),
        ("release.checks.verify", {*LARGE, "PIL", "pydantic", "rich"}),
    ],
)
def test_a_part_of_the_program_loads_without_packages_that_it_does_not_need(
    module: str, without: set[str]
) -> None:
    code = f"import sys, stash_sense_pipeline.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert without.intersection(loaded.split()) == set()
