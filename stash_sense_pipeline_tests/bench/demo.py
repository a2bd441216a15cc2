"""The demo as a user runs it: peak memory, and a second run against the first."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stash_sense_pipeline_tests.bench.table import Row


def rows() -> Iterator[Row]:
    """Peak memory of the demo's process with its servers, and the time of an unchanged second run relative to the first."""
    with tempfile.TemporaryDirectory() as directory:
        first = _run(Path(directory))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 / 1024
        second = _run(Path(directory))
    yield Row("demo: peak memory", peak, "GB", 1.5)
    yield Row("demo: second run / first run", second / first, "x", 0.5)


def _run(directory: Path) -> float:
    program = Path(sys.executable).with_name("stash-sense")
    start = time.perf_counter()
    subprocess.run([program, "demo", "--data-dir", directory / "demo"], check=True, capture_output=True)
    return time.perf_counter() - start
