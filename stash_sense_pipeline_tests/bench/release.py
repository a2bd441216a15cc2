"""What a release costs: its indices against bare Voyager, its exact search against bare BLAS, and all the rest.

100,000 faces of two embedders; the indices of the rest are built in a hurry, because only their size counts there. The
memory of a large release is taken from two small ones: it grows by the face.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.release.database import stage_performers_db
from stash_sense_pipeline.release.index import IndexParams, build_index, stage_indices
from stash_sense_pipeline.release.json_files import write_json_files
from stash_sense_pipeline.release.proof import Limits
from stash_sense_pipeline.release.publish import (
    assemble_release,
    promote_release,
    publish_release,
    read_input,
)
from stash_sense_pipeline.release.quality import exact_neighbours
from stash_sense_pipeline.release.staging import open_staging
from stash_sense_pipeline_tests.bench.index_corner import manifold
from stash_sense_pipeline_tests.bench.release_catalog import fill
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.release.worlds import HOSTS, SPEC

FACES = 100_000
_INDEXED = 10_000
_QUERIES = 1_000
_DAY = date(2026, 2, 18)
# As many links as by default, chosen carelessly: the same size in a fraction of the time.
_HASTY = IndexParams(ef_construction=10)
_LARGE = 400_000
_SMALLER, _SMALL = 30_000, 10_000


def rows() -> Iterator[Row]:
    """The rows of the release."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        yield _index_row(data)
        yield _exact_row()
        yield from _rest_rows(data / "rest")
        yield from _memory_rows(data)


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _index_row(data: Path) -> Row:
    import voyager

    engine = fill(data / "indexed.db", _INDEXED)
    params = IndexParams()
    vectors = manifold(_INDEXED, 1)

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
    # Taking turns, so that whatever else the machine does meets both.
    for _ in range(3):
        ours.append(_timed(lambda: build_index(engine, "facenet", data / "a.voy", params)))
        theirs.append(_timed(bare))
    engine.dispose()
    return Row(
        f"release: index of {_INDEXED:,} faces, bare voyager's time over ours",
        min(theirs) / min(ours),
        "",
        0.95,
        True,
    )


def _exact_row() -> Row:
    gallery = manifold(FACES, 1)
    queries = np.ascontiguousarray(gallery[:: FACES // _QUERIES][:_QUERIES])

    def bare() -> None:
        for start in range(0, FACES, 16_384):
            queries @ gallery[start : start + 16_384].T

    bare()
    ours = min(_timed(lambda: exact_neighbours(queries, gallery, 100)) for _ in range(3))
    return Row(
        "release: exact search of 100 neighbours over bare BLAS",
        ours / min(_timed(bare) for _ in range(3)),
        "x",
        2.0,
    )


def _rest_rows(data: Path) -> Iterator[Row]:
    """Everything but the graphs and the exact search: input, database, JSON, hashes, verification, zip."""
    data.mkdir()
    engine = fill(data / "catalog.db", FACES)
    spec = replace(SPEC, index=_HASTY)
    staging = open_staging(data, "next")
    stage_indices(engine, spec.models, staging, _HASTY)
    database = _timed(lambda: stage_performers_db(engine, staging, HOSTS))
    begun = time.monotonic()
    now = read_input(engine, spec)
    read = time.monotonic() - begun
    begun = time.monotonic()
    assembled = assemble_release(staging, "2026.02.18", spec, now)
    assembling = time.monotonic() - begun
    json_files = _timed(lambda: write_json_files(staging.release, HOSTS))
    promoting = _timed(lambda: promote_release(assembled, data / "releases"))
    engine.dispose()
    yield Row(f"release: performers.db of {FACES:,} faces", database, "s")
    yield Row("release: input: people, order, digests of all vectors", read, "s")
    yield Row("release: JSON, hashes, manifest, verification", assembling, "s")
    yield Row("release: of these the JSON files", json_files, "s")
    yield Row("release: zip, checked, and the renames", promoting, "s")
    yield Row("release: all but graphs and exact search", database + read + assembling + promoting, "s", 15.0)


def _memory_rows(data: Path) -> Iterator[Row]:
    peaks = {}
    for faces in (_SMALL, _SMALLER):
        home = data / str(faces)
        home.mkdir()
        fill(home / "catalog.db", faces).dispose()
        child = [sys.executable, "-m", __name__, str(home)]
        peaks[faces] = int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    a_face = (peaks[_SMALLER] - peaks[_SMALL]) / (_SMALLER - _SMALL)
    yield Row("release: memory of a publish, by the face", a_face / 1024, "KiB")
    large = peaks[_SMALLER] + a_face * (_LARGE - _SMALLER)
    yield Row(f"release: memory of a publish of {_LARGE:,} faces, so estimated", large / 2**30, "GiB", 4.0)


def _publish_and_say_peak(data: Path) -> None:
    """A whole publish in this process; prints its largest resident memory in bytes."""
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    # Such hasty graphs miss neighbours.
    spec = replace(SPEC, index=_HASTY, limits=Limits(recall_at_1=0.0, recall_at_100=0.0, self_retrieval=0.0))
    publish_release(engine, data, "run", spec, _DAY)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    _publish_and_say_peak(Path(sys.argv[1]))
