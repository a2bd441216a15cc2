"""`make bench`: runs all benchmarks, or the modules and parts (such as `faces.limit`) named on the command line.

Each part runs in a process of its own: memory that another part took, and what it loaded, change no measurement.
`--quick` runs the parts that together take some five minutes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

from stash_sense_pipeline_tests.bench import (
    bootstrap,
    definitions,
    faces,
    identity,
    operations,
    privacy,
    release,
    sense2,
    sites,
    sync,
    tattoos,
)
from stash_sense_pipeline_tests.bench.table import PartTime, Row, lines, time_lines

_MODULES: Mapping[str, Mapping[str, Callable[[], Iterator[Row]]]] = {
    "bootstrap": bootstrap.PARTS,
    "definitions": {"": definitions.rows},
    "sync": {"": sync.rows},
    "faces": {**faces.PARTS, **tattoos.PARTS},
    "identity": identity.PARTS,
    "operations": operations.PARTS,
    "privacy": privacy.PARTS,
    "sites": {"": sites.rows},
    "release": {**release.PARTS, **sense2.PARTS},
}
PARTS = {
    f"{module}.{part}" if part else module: rows
    for module, parts in _MODULES.items()
    for part, rows in parts.items()
}
# Half an hour and more each, so they run only when they are named.
LONG = ("bootstrap.large", "privacy.publish", "release.large", "release.sense2_large")
QUICK = ("definitions", "sites", "identity.graph", "faces.embedding", "release.index", "release.exact")
_ONE = "--one"


def main(arguments: list[str]) -> int:
    """Prints the table, and the time that each part took.

    Returns 1 when a bound is missed or a part fails, 2 for an unknown name.
    """
    if arguments[:1] == [_ONE]:
        return _measure(arguments[1])
    names = list(QUICK) if arguments == ["--quick"] else arguments
    unknown = [name for name in names if name not in {*PARTS, *_MODULES}]
    if unknown:
        print(f"no benchmark {unknown[0]}; there are {', '.join({**_MODULES, **PARTS})}", file=sys.stderr)
        return 2
    failed: list[str] = []
    times: list[PartTime] = []

    def measured() -> Iterator[Row]:
        for part in _parts(names):
            begun, processor = time.monotonic(), _processor_time()
            for row in _measured_alone(part, failed):
                failed.extend([] if row.kept else [row.name])
                yield row
            times.append(PartTime(part, time.monotonic() - begun, _processor_time() - processor))

    for line in lines(measured()):
        print(line, flush=True)
    print()
    for line in time_lines(times):
        print(line, flush=True)
    return 1 if failed else 0


def _parts(names: list[str]) -> list[str]:
    """The parts of these modules and parts; without names, all but the long ones."""
    if not names:
        return [part for part in PARTS if part not in LONG]
    return [
        part
        for name in names
        for part in PARTS
        if part == name or (part.partition(".")[0] == name and part not in LONG)
    ]


def _measured_alone(part: str, failed: list[str]) -> Iterator[Row]:
    command = [sys.executable, "-m", __package__, _ONE, part]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Row(**json.loads(line))
    if process.returncode:
        print(f"the benchmark {part} ended with exit code {process.returncode}", file=sys.stderr)
        failed.append(part)


def _processor_time() -> float:
    """The processor time in seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure(part: str) -> int:
    """Runs one part in this process, and prints each row as a line of JSON."""
    for row in PARTS[part]():
        print(json.dumps({**asdict(row), "value": float(row.value)}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
