"""Builds the Voyager index of one embedder."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import replacing, sha256_file
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.foundation.runtime_tuning import trim_heap
from stash_sense_pipeline.release.build.face_order import (
    FaceOrder,
    VectorFacts,
    block_starts,
    read_block,
    read_face_order,
    read_facts,
    start_digest,
)
from stash_sense_pipeline.release.build.graph.axes import Axes, SampledRows, along, main_axes
from stash_sense_pipeline.release.build.graph.whole_vectors import NarrowIndex, write_whole_vectors
from stash_sense_pipeline.release.build.manifest import reuse_published
from stash_sense_pipeline.release.build.staging import Staging, disk_errors
from stash_sense_pipeline.release.contract import INDEX_FILES, Flavour

_SECONDS_BETWEEN_UPDATES = 0.2


class Storage(StrEnum):
    """How an index stores a number: 4 bytes, or one byte as an 8-bit float (e4m3) or as fixed point (float8)."""

    FLOAT32 = "float32"
    E4M3 = "e4m3"
    FLOAT8 = "float8"


@dataclass(frozen=True)
class IndexParams:
    """Parameters of a build, named as in the HNSW paper. docs/release.md has the measurements behind the defaults.

    `graph_dimensions`: the number of main axes along which the graph is built; None: it is built in all dimensions. The
    index holds the whole vectors in any case. `exact_links`: the links that complete a graph along axes go to the nearest
    of all vectors, in a time that grows with the square of their number. Only `threads=1` gives the same bytes in every
    run.
    """

    m: int = 32
    ef_construction: int = 200
    seed: int = 1
    storage: Storage = Storage.FLOAT32
    threads: int = 1
    graph_dimensions: int | None = None
    exact_links: bool = False

    @property
    def content(self) -> dict[str, Any]:
        """The parameters that decide the content of the index: all but the number of threads."""
        fields = asdict(self)
        del fields["threads"]
        # Indices without them were built before the parameters existed. They are used again.
        for later in ("graph_dimensions", "exact_links"):
            if not fields[later]:
                del fields[later]
        return fields

    def fitting(self, count: int, dimensions: int) -> IndexParams:
        """The parameters for `count` vectors: the graph of a few vectors, or of short ones, is built in all dimensions."""
        whole = self.graph_dimensions is None or dimensions <= self.graph_dimensions
        if whole or count < _FEWEST_ALONG_AXES:
            return replace(self, graph_dimensions=None, exact_links=False)
        return self


@dataclass(frozen=True)
class IndexTask:
    """The index to build: the embedder, the parameters, and the flavour of the release.

    `reuse`: an earlier release. Its index is used when it was built from the same vectors with the same parameters.
    """

    model: str
    params: IndexParams
    reuse: Path | None = None
    flavour: Flavour = Flavour.FULL

    @property
    def name(self) -> str:
        """`facenet`, and `facenet (small)` in another flavour than full."""
        return self.model if self.flavour is Flavour.FULL else f"{self.model} ({self.flavour})"


@dataclass(frozen=True)
class IndexReport:
    """What was built. `input_digest` covers vectors, order and parameters, `order_digest` the order of faces only."""

    model: str
    file: str
    faces: int
    dimensions: int
    m: int
    ef_construction: int
    seed: int
    storage: str
    threads: int
    pack: str
    model_digest: str
    input_digest: str
    order_digest: str
    sha256: str
    size_bytes: int
    seconds: float
    reused: bool
    graph_dimensions: int | None = None
    exact_links: bool = False


# The graph of fewer vectors takes a second, and they tell little about their axes.
_FEWEST_ALONG_AXES = 1_000

# Raised when the links of a graph along axes follow other rules, so that an index of earlier rules is not used again.
_LINK_RULES = 2

# 8-bit storage rounds a distance by about 0.01, so that two neighbours within twice that may change places.
_ROUNDED_TIE = 0.02


def tie_of(storage: Storage) -> float | None:
    """Distances this close are equal in an index of this storage; None: those that float32 cannot tell apart."""
    return None if storage is Storage.FLOAT32 else _ROUNDED_TIE


def flavour_params(params: IndexParams, flavour: Flavour) -> IndexParams:
    """The parameters of an index of a flavour, from those of the flavour full."""
    return params if flavour is Flavour.FULL else replace(params, storage=Storage.E4M3)


def index_digest(vectors_digest: str, params: IndexParams, order: FaceOrder | None = None) -> str:
    """SHA-256 over the vectors' digest and the parameters. Builds with equal digests give equal indices.

    `order`: of the faces. A graph along axes links the faces of a person, so it depends on which belong together.
    """
    head = json.dumps(params.content, sort_keys=True)
    links = ""
    if order is not None and params.graph_dimensions is not None:
        links = f"\n{_LINK_RULES}\n{order.people_digest}"
    return hashlib.sha256(f"{head}\n{vectors_digest}{links}".encode()).hexdigest()


def build_index(
    engine: sa.Engine, task: IndexTask, path: Path, progress: Progress | None = None, turn: Lock | None = None
) -> IndexReport:
    """Writes the Cosine index of an embedder over all trusted faces to `path`. The position in face_order is the id.

    `progress` is called after each batch. `turn`: as for write_index.

    Raises ReleaseError when the vectors are unusable (see read_vectors), when
    they changed during the build, or when the file cannot be written; `path` is then unchanged.
    """
    begun = time.monotonic()
    model = task.model
    with reading(engine) as connection:
        order = read_face_order(connection)
        sample = SampledRows(len(order))
        facts = read_facts(connection, order, model, lambda block: sample.add(block.start, block.vectors))
    params = task.params.fitting(facts.count, facts.dimensions)
    digest = index_digest(facts.digest, params, order)
    with disk_errors(f"write {path}"):
        reused = task.reuse is not None and reuse_published(task.reuse, model, digest, params.threads, path)
        if not reused:
            with replacing(path) as temporary:
                wanted = params.graph_dimensions
                vectors = IndexVectors(
                    partial(_unchanged_blocks, engine, order, model, facts),
                    (facts.count, facts.dimensions),
                    None if wanted is None else main_axes(sample.rows(), wanted),
                    order.performer_ids,
                )
                write_index(vectors, params, temporary, progress, turn)
        size, checksum = path.stat().st_size, sha256_file(path)
    return IndexReport(
        model=model,
        file=path.name,
        faces=len(order),
        dimensions=facts.dimensions,
        m=params.m,
        ef_construction=params.ef_construction,
        seed=params.seed,
        storage=params.storage.value,
        threads=params.threads,
        pack=facts.pack,
        model_digest=facts.model_digest,
        input_digest=digest,
        order_digest=order.digest,
        sha256=checksum,
        size_bytes=size,
        seconds=time.monotonic() - begun,
        reused=reused,
        graph_dimensions=params.graph_dimensions,
        exact_links=params.exact_links,
    )


def _unchanged_blocks(
    engine: sa.Engine, order: FaceOrder, model: str, facts: VectorFacts
) -> Iterator[NDArray[np.float32]]:
    """The vectors in blocks, each read in a short transaction: a build may take an hour, and others write meanwhile.

    Raises ReleaseError at the end when the vectors are not those of `facts`.
    """
    state = start_digest(facts.pack, facts.model_digest, facts.count, facts.dimensions)
    for start in block_starts(order):
        with reading(engine) as connection:
            block = read_block(connection, order, model, start)
        state.update(block.vectors.data)
        yield block.vectors
    if state.hexdigest() != facts.digest:
        raise ReleaseError(f"{model} embeddings changed while their index was built; publish again")


def stage_indices(
    engine: sa.Engine,
    tasks: Sequence[IndexTask],
    staging: Staging,
    *,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, IndexReport]:
    """Runs stage_index for each task, two at a time when each takes one thread. The bytes do not depend on this.

    The results are by the names of the tasks. `progress` returns the callback of a task by its name. It is called in
    this thread. When a build fails, the other one stops at its next batch.
    """
    stop, turn = threading.Event(), threading.Lock()
    updates: SimpleQueue[tuple[str, str, int, int | None]] = SimpleQueue()

    def build(task: IndexTask) -> IndexReport:
        def report_progress(stage: str, done: int, total: int | None, /, **counts: int) -> None:
            if stop.is_set():
                raise ReleaseError(f"the build of the {task.name} index was stopped")
            updates.put((task.name, stage, done, total))

        return stage_index(engine, task, staging, report_progress, turn)

    callbacks = {task.name: progress(task.name) for task in tasks} if progress is not None else {}
    one_thread_each = all(task.params.threads == 1 for task in tasks)
    with ThreadPoolExecutor(max_workers=2 if one_thread_each else 1) as pool:
        builds = {task.name: pool.submit(build, task) for task in tasks}
        try:
            # In this thread: the callbacks need not be thread-safe.
            while not all(built.done() for built in builds.values()):
                _forward_progress(updates, callbacks)
                done, _ = wait(builds.values(), timeout=_SECONDS_BETWEEN_UPDATES)
                for built in done:
                    built.result()
            _forward_progress(updates, callbacks)
        except BaseException:
            stop.set()
            raise
    trim_heap()
    return {name: built.result() for name, built in builds.items()}


def _forward_progress(
    updates: SimpleQueue[tuple[str, str, int, int | None]], callbacks: Mapping[str, Progress]
) -> None:
    while not updates.empty():
        name, stage, done, total = updates.get()
        if name in callbacks:
            callbacks[name](stage, done, total)


def stage_index(
    engine: sa.Engine,
    task: IndexTask,
    staging: Staging,
    progress: Progress | None = None,
    turn: Lock | None = None,
) -> IndexReport:
    """Runs build_index in a staging directory and writes its report for assemble_release.

    An index that an earlier run staged there is used again when it was built from the same input.
    """
    if task.model not in INDEX_FILES:
        raise ReleaseError(
            f"the contract has no index for embedder {task.model}; it knows {', '.join(INDEX_FILES)}"
        )
    staging = staging.of(task.flavour)
    path = staging.release / INDEX_FILES[task.model]
    report = _staged_index(engine, task, staging) or build_index(engine, task, path, progress, turn)
    staging.write_part(f"index-{task.model}", asdict(report))
    return report


def _staged_index(engine: sa.Engine, task: IndexTask, staging: Staging) -> IndexReport | None:
    """The report of an index that an earlier run staged, when a build would give the same; else None."""
    begun = time.monotonic()
    model, params = task.model, task.params
    path = staging.release / INDEX_FILES[model]
    if not (staging.has_part(f"index-{model}") and path.is_file()):
        return None
    report = IndexReport(**staging.read_part(f"index-{model}"))
    with reading(engine) as connection:
        order = read_face_order(connection)
        facts = read_facts(connection, order, model)
    digest = index_digest(facts.digest, params.fitting(facts.count, facts.dimensions), order)
    made = (report.input_digest, report.order_digest, report.threads)
    if made != (digest, order.digest, params.threads) or report.sha256 != sha256_file(path):
        return None
    return replace(report, reused=True, seconds=time.monotonic() - begun)


@dataclass(frozen=True)
class IndexVectors:
    """The vectors of ids 0..n-1, together of `shape` (n, dim): `blocks` returns them in order, at each call.

    With `axes` (dim, graph_dimensions) the graph is built along them, and links the ids of one person: `owners` (n,).
    """

    blocks: Callable[[], Iterable[NDArray[np.float32]]]
    shape: tuple[int, int]
    axes: Axes | None = None
    owners: NDArray[np.int64] | None = None


def write_index(
    vectors: IndexVectors,
    params: IndexParams,
    path: Path,
    progress: Progress | None = None,
    turn: Lock | None = None,
) -> None:
    """Builds the Cosine index of the vectors into `path`.

    `turn` is held while the links of a graph along axes are completed. That takes all cores, and 3.5 KB a face with 96
    links, so two builds do it one after the other.
    """
    import voyager

    storage = {
        Storage.FLOAT32: voyager.StorageDataType.Float32,
        Storage.E4M3: voyager.StorageDataType.E4M3,
        Storage.FLOAT8: voyager.StorageDataType.Float8,
    }[params.storage]
    (count, dimensions), axes = vectors.shape, vectors.axes
    index = voyager.Index(
        voyager.Space.Cosine,
        num_dimensions=dimensions if axes is None else axes.shape[1],
        M=params.m,
        ef_construction=params.ef_construction,
        random_seed=params.seed,
        max_elements=count,
        storage_data_type=storage if axes is None else voyager.StorageDataType.Float32,
    )
    done = 0
    for block in vectors.blocks():
        rows = block if axes is None else along(axes, block)
        index.add_items(rows, ids=range(done, done + len(block)), num_threads=params.threads)
        done += len(block)
        if progress is not None:
            progress("vectors", done, count)
    if index.num_elements != count:
        raise ReleaseError(
            f"Voyager holds {index.num_elements} of {count} vectors after the build; no index was written"
        )
    # Given a path, Voyager does not notice a full disk. A Python stream raises.
    with path.open("wb") as stream:
        if axes is None:
            index.save(stream)
            return
        with TemporaryFile(dir=path.parent) as narrow:
            index.save(narrow)
            narrow.flush()
            # Before its file is read: both take a kilobyte a face.
            del index
            with turn or nullcontext():
                write_whole_vectors(
                    NarrowIndex(narrow, vectors.owners, params.exact_links),
                    vectors.blocks,
                    storage,
                    stream,
                    progress,
                )
