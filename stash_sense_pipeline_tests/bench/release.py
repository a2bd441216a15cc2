"""What a release costs: its indices against bare Voyager, its exact search against bare BLAS, and all the rest.

It has 100,000 faces of two embedders. The indices of all rows but the first are built with low parameters, because only
their size counts. The memory of a large release is estimated from two small ones: it grows linearly with the faces.
`release.large` measures it: a publish of 400,000 faces with every check takes a quarter of an hour of two cores and 8 GB of
disk, so it runs only when it is named.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.release.build import face_order as face_order_module
from stash_sense_pipeline.release.build.face_order import (
    FaceOrder,
    ReleaseVectors,
    face_order,
    load_unit_vectors,
)
from stash_sense_pipeline.release.build.graph import exact_search
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import Staging, open_staging
from stash_sense_pipeline.release.build.voyager_index import (
    IndexParams,
    IndexTask,
    build_index,
    stage_indices,
)
from stash_sense_pipeline.release.checks.accuracy import left_out
from stash_sense_pipeline.release.checks.accuracy.confusable_people import find_confusable
from stash_sense_pipeline.release.checks.accuracy.linked_neighbours import linked_neighbours
from stash_sense_pipeline.release.checks.accuracy.measurement import measure_accuracy
from stash_sense_pipeline.release.checks.accuracy.released_people import ReleasedPerson
from stash_sense_pipeline.release.contract import INDEX_FILES, REQUIRED_MODELS, Flavour
from stash_sense_pipeline.release.index_choice import (
    INDEX_CHOICE,
    IndexPlan,
    plan_indices,
    stage_chosen_indices,
    staged_params,
)
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release, publish_staged
from stash_sense_pipeline.release.spec import Limits
from stash_sense_pipeline_tests.bench.index_corner import manifold, owners_of
from stash_sense_pipeline_tests.bench.release_catalog import fill
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.release.worlds import SPEC

FACES = 100_000
_INDEXED = 20_000
_MEASURED = 20_000
_TURNS = 4
_QUERIES = 1_000
_DAY = date(2026, 2, 18)
# A low ef_construction and fewer links than by default: nearly the same size in a fraction of the time.
_QUICK_INDEX = IndexParams(m=24, ef_construction=10)
# These graphs miss neighbours.
_QUICK_SPEC = replace(
    SPEC,
    index=_QUICK_INDEX,
    limits=Limits(answer_fidelity=0.0, recall_at_1=0.0, recall_at_100=0.0, self_retrieval=0.0),
)
# What releases before the ladder were built with.
_EARLIER_INDEX = IndexParams(m=96, ef_construction=600)
_LARGE = 400_000
# As many links as the ladder gives a release of that size. Memory does not depend on ef_construction.
_LARGE_INDEX = IndexParams(m=96, ef_construction=10, graph_dimensions=128)
# A peak varies by about 20 MiB from run to run. Extrapolated from a difference of 20,000 faces, that would be half a GiB
# at 400,000 faces.
_SMALLER, _SMALL = 100_000, 40_000
# The exact search holds up to 0.4 GB in blocks of similarities for any number of faces, while no index is loaded. An index
# of 400,000 faces takes 1.1 GB. In small releases the blocks would be the peak and hide the growth, so these are measured
# with small blocks.
_SMALL_BLOCK = 1_024

# The exact search and the steps that only it needs, beside the reading of the vectors. All other steps of a publish are
# "the rest".
_EXACT = (
    ("checks.quality_gate", "load_index"),
    ("checks.quality_gate", "ask_index"),
    ("checks.quality_gate", "index_recall"),
    ("checks.quality_gate", "measure_accuracy"),
    ("checks.quality_gate", "linked_neighbours"),
    ("checks.quality_gate", "find_confusable"),
)
_STEPS = (
    ("assembly", "write_json_files"),
    ("assembly", "write_manifest"),
    ("assembly", "verify_release"),
    ("assembly", "check_suppressed"),
    ("publish", "prove_release"),
    ("publish", "promote_release"),
)


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _processor_time(work: Callable[[], object]) -> float:
    """The processor time of work that takes minutes, so that it cannot be repeated until the machine is quiet."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _index_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        yield _index_row(Path(directory))


def _index_row(data: Path) -> Row:
    import voyager

    engine = fill(data / "indexed.db", _INDEXED)
    params = IndexParams()
    vectors = manifold(owners_of(_INDEXED))

    def bare() -> None:
        index = voyager.Index(
            voyager.Space.Cosine,
            512,
            M=params.m,
            ef_construction=params.ef_construction,
            max_elements=_INDEXED,
        )
        index.add_items(vectors, ids=list(range(_INDEXED)), num_threads=1)
        with (data / "bare.voy").open("wb") as stream:
            index.save(stream)

    ours, theirs = [], []
    # In turns, so that other work on the machine affects both.
    for _ in range(2):
        ours.append(_timed(lambda: build_index(engine, IndexTask("facenet", params), data / "a.voy")))
        theirs.append(_timed(bare))
    engine.dispose()
    # 0.95 to 0.96 on an idle machine.
    return Row(
        f"release: index of {_INDEXED:,} faces, bare voyager's time over ours",
        min(theirs) / min(ours),
        "",
        0.92,
        True,
    )


def _exact_rows() -> Iterator[Row]:
    gallery = manifold(owners_of(FACES))
    queries = np.ascontiguousarray(gallery[:: FACES // _QUERIES][:_QUERIES])

    def bare() -> None:
        for start in range(0, FACES, 16_384):
            queries @ gallery[start : start + 16_384].T

    ours, theirs = [], []
    for _ in range(_TURNS):
        theirs.append(_timed(bare))
        ours.append(_timed(lambda: exact_neighbours(queries, gallery, 100)))
    yield Row("release: exact search of 100 neighbours over bare BLAS", min(ours) / min(theirs), "x", 2.0)
    yield _accuracy_row()


def _accuracy_row() -> Row:
    """Left-out photographs of 20,000 faces, with everything that they tell, over the matrix products alone."""
    owners = owners_of(_MEASURED)
    unit = {model: manifold(owners, seed) for seed, model in enumerate(REQUIRED_MODELS, start=1)}
    vectors = ReleaseVectors(FaceOrder(np.arange(_MEASURED), owners), unit)
    people = {
        owner: ReleasedPerson(f"person {owner}", frozenset(), None, {})
        for owner in np.unique(owners).tolist()
    }
    photographs = left_out.choose_photographs(owners, left_out.PHOTOGRAPHS)

    def bare() -> None:
        for start in range(0, len(photographs), 2_048):
            for table in unit.values():
                table[photographs[start : start + 2_048]] @ table.T

    theirs, ours = [], []
    for _ in range(2):
        theirs.append(_timed(bare))
        ours.append(_timed(lambda: measure_accuracy(vectors, people)))
    # 1.9 to 2.0 on an idle machine.
    return Row(f"release: accuracy of {_MEASURED:,} faces over bare BLAS", min(ours) / min(theirs), "x", 2.4)


def _ladder_rows() -> Iterator[Row]:
    """The indices that the ladder chooses, against the parameters of earlier releases, and the confusable people."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        engine = fill(data / "catalog.db", _MEASURED)
        fixed, chosen = open_staging(data, "fixed"), open_staging(data, "chosen")
        tasks = [IndexTask(model, _EARLIER_INDEX) for model in REQUIRED_MODELS]
        earlier = _processor_time(lambda: stage_indices(engine, tasks, fixed))
        begun = IndexPlan(REQUIRED_MODELS, (Flavour.FULL,), IndexParams(), True, 0.999)
        plan = plan_indices(begun, None, None, _MEASURED)
        ours = _processor_time(lambda: stage_chosen_indices(engine, plan, chosen))
        vectors = load_unit_vectors(engine, REQUIRED_MODELS)
        engine.dispose()
        fidelity = chosen.read_part(INDEX_CHOICE)["answer_fidelity"]
        yield Row(f"release: answer fidelity of {_MEASURED:,} faces", fidelity, "", 0.999, True)
        yield Row("release: chosen indices over m 96, ef_construction 600", ours / earlier, "x", 0.45)
        yield _confusable_row(vectors, chosen)


def _confusable_row(vectors: ReleaseVectors, staging: Staging) -> Row:
    photographs = left_out.choose_photographs(vectors.order.performer_ids, left_out.PHOTOGRAPHS)
    through, exact = {}, {}
    for model, unit in vectors.unit.items():
        path = staging.release / INDEX_FILES[model]
        through[model] = linked_neighbours(path, unit, photographs, vectors.order.performer_ids)
        k = through[model].shape[1]
        exact[model] = exact_neighbours(unit[photographs], unit, k)[0].astype(np.int32)
    found, wanted = (
        {(pair.first, pair.second) for pair in find_confusable(vectors, photographs, each, pairs=2_000).pairs}
        for each in (through, exact)
    )
    return Row(
        "release: confusable pairs of exact search found", len(found & wanted) / len(wanted), "", 0.999, True
    )


def _rest_rows() -> Iterator[Row]:
    """Everything but the graphs and the exact search: input, database, JSON, hashes, verification, report, zip."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        engine = fill(data / "catalog.db", FACES)
        staging = open_staging(data, "next")
        stage_indices(engine, [IndexTask(model, _QUICK_INDEX) for model in SPEC.models], staging)
        with _watched([*_EXACT, *_STEPS]) as seconds:
            database = _timed(lambda: stage_performers_db(engine, staging, SPEC.database))
            published = _timed(lambda: publish_staged(engine, data, staging, _QUICK_SPEC, _DAY))
        # Once more, because the exact search needs them too.
        vectors = _timed(lambda: load_unit_vectors(engine, SPEC.models))
        engine.dispose()
    exact = sum(seconds[name] for _, name in _EXACT)
    proof = seconds["prove_release"] - exact
    yield Row(f"release: performers.db of {FACES:,} faces", database, "s")
    yield Row(
        "release: JSON files and manifest", seconds["write_json_files"] + seconds["write_manifest"], "s"
    )
    yield Row("release: verification", seconds["verify_release"] + seconds["check_suppressed"], "s")
    yield Row("release: other checks against the catalog", proof, "s")
    yield Row("release: report and zip side by side, moves", seconds["promote_release"], "s")
    yield Row("release: vectors read once, for digest and exact search", vectors, "s")
    rest = database + published - exact - vectors
    yield Row("release: all but graphs and exact search", rest, "s", 15.0)


@contextmanager
def _watched(functions: Sequence[tuple[str, str]]) -> Iterator[dict[str, float]]:
    """The seconds spent in functions (module of the release, name), by name."""
    seconds: dict[str, float] = defaultdict(float)
    root = "stash_sense_pipeline.release"

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.monotonic() - begun

        return timed

    with ExitStack() as patches:
        for module, name in functions:
            real = getattr(sys.modules[f"{root}.{module}"], name)
            patches.enter_context(patch(f"{root}.{module}.{name}", watched(name, real)))
        yield seconds


def _memory_rows() -> Iterator[Row]:
    peaks = {faces: _publish_in_a_process(faces, "estimate")[0] for faces in (_SMALL, _SMALLER)}
    a_face = (peaks[_SMALLER] - peaks[_SMALL]) / (_SMALLER - _SMALL)
    yield Row("release: memory of a publish, a face", a_face / 1024, "KiB")
    large = peaks[_SMALLER] + a_face * (_LARGE - _SMALLER)
    yield Row(f"release: memory of a publish of {_LARGE:,} faces, estimated", large / 1e9, "GB", 3.2)


def _large_rows() -> Iterator[Row]:
    peak, seconds = _publish_in_a_process(_LARGE, "ladder")
    yield Row(f"release: memory of a publish of {_LARGE:,} faces", peak / 1e9, "GB", 3.2)
    # Without a bound: the speed of the machine would decide. `release.ladder` has a ratio within one run.
    yield Row(f"release: a publish of {_LARGE:,} faces by the ladder", seconds / 60, "min")


def _publish_in_a_process(faces: int, how: str) -> tuple[int, float]:
    """The largest resident memory in bytes and the seconds of a publish of a new catalog of `faces` faces."""
    with tempfile.TemporaryDirectory() as home:
        fill(Path(home) / "catalog.db", faces).dispose()
        child = [sys.executable, "-m", __name__, how, home]
        peak, seconds = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        return int(peak), float(seconds)


def _publish_by_the_ladder(engine: sa.Engine, data: Path) -> ReleaseReport:
    """A first release, with the parameters that the ladder chooses."""
    begun = IndexPlan(REQUIRED_MODELS, (Flavour.FULL,), IndexParams(), True, Limits().answer_fidelity)
    plan = plan_indices(begun, None, None, len(face_order(engine)))
    staging = open_staging(data, "run")
    stage_chosen_indices(engine, plan, staging)
    stage_performers_db(engine, staging, SPEC.database)
    spec = replace(SPEC, index=staged_params(plan, staging))
    return publish_staged(engine, data, staging, spec, _DAY)


def _publish_in_small_blocks(engine: sa.Engine, data: Path) -> ReleaseReport:
    """A publish of which the memory grows with the faces as that of a large release does."""
    with (
        patch.object(exact_search, "_ROWS_A_BLOCK", _SMALL_BLOCK),
        patch.object(left_out, "_QUERIES_A_BLOCK", _SMALL_BLOCK),
        patch.object(face_order_module, "_HELD_BYTES", 0),
    ):
        return publish_release(engine, data, "run", replace(_QUICK_SPEC, index=_LARGE_INDEX), _DAY)


def _say_costs(how: str, data: Path) -> None:
    """A whole publish in this process, without child processes. Prints its largest resident memory, and its seconds."""
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    begun = time.monotonic()
    report = (_publish_by_the_ladder if how == "ladder" else _publish_in_small_blocks)(engine, data)
    seconds = time.monotonic() - begun
    for check in report.checks:
        print(f"{check.name}: {check.detail}", file=sys.stderr)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds)


PARTS = {
    "index": _index_rows,
    "exact": _exact_rows,
    "ladder": _ladder_rows,
    "rest": _rest_rows,
    "memory": _memory_rows,
    "large": _large_rows,
}

if __name__ == "__main__":
    _say_costs(sys.argv[1], Path(sys.argv[2]))
