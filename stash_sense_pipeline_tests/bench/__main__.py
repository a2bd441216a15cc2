"""`make bench`: runs all benchmarks, or the modules and parts (such as `faces.limit`) named on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from stash_sense_pipeline_tests.bench import (
    definitions,
    demo,
    faces,
    identity,
    operations,
    privacy,
    release,
    sites,
    sync,
)
from stash_sense_pipeline_tests.bench.table import Row, lines

BENCHMARKS = {
    "definitions": definitions.rows,
    "demo": demo.rows,
    "sync": sync.rows,
    "faces": faces.rows,
    "identity": identity.rows,
    "operations": operations.rows,
    "privacy": privacy.rows,
    "sites": sites.rows,
    "release": release.rows,
}

# Parts of the benchmarks above that can be run by themselves.
PARTS = {
    f"{name}.{part}": rows
    for name, parts in (
        ("faces", faces.PARTS),
        ("identity", identity.PARTS),
        ("operations", operations.PARTS),
        ("privacy", privacy.PARTS),
        ("release", release.PARTS),
    )
    for part, rows in parts.items()
}


def main(names: list[str]) -> int:
    """Prints the table. Returns 1 when a bound is missed, 2 for an unknown name."""
    known = {**BENCHMARKS, **PARTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    missed = []

    def measured() -> Iterator[Row]:
        for name in names or BENCHMARKS:
            for row in known[name]():
                missed.extend([] if row.kept else [row])
                yield row

    for line in lines(measured()):
        print(line, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
