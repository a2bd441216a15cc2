"""The processor time to load the definitions, beyond loading Dagster: other programs on the machine do not add to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from stash_sense_pipeline_tests.bench.table import Row

_CODE = """
import time
start = time.process_time()
import dagster
middle = time.process_time()
from stash_sense_pipeline.definitions import build_defs
build_defs()
print(middle - start, time.process_time() - middle)
"""


def rows() -> Iterator[Row]:
    """Seconds, and the share of `import dagster`. Each is the median of five new processes."""
    pairs = [_measure() for _ in range(5)]
    extra = median(ours for _, ours in pairs)
    yield Row("definitions: load beyond import dagster", extra, "s", 0.5)
    yield Row(
        "definitions: load / import dagster", median(ours / dagster for dagster, ours in pairs), "x", 0.5
    )


def _measure() -> tuple[float, float]:
    result = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    dagster, ours = map(float, result.stdout.split())
    return dagster, ours
