"""Operations: the demo, start of the UI, start of a launched run, four embedding workers, and a night without changes.

Each part can be run by its name, as in `python -m stash_sense_pipeline_tests.bench operations.workers`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.faces import StoredFace, store_faces
from stash_sense_pipeline.catalog.schema import faces, source_images
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.extraction.extract_face import encode_crop
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.faces.nets import describe_pack, marker_detector, random_embedder
from stash_sense_pipeline_tests.postgres import free_port, running_server, server_program

_PROGRAM = Path(sys.executable).with_name("stash-sense")
_PROCESSES = multiprocessing.get_context("spawn")
_WORKERS, _FACES_EACH, _BATCH = 4, 128, 8
_LAUNCHES = 3


def demo() -> Iterator[Row]:
    """The demo, then a night, the UI and a launch on its data, with five stash-boxes and four sites.

    The memory is that of the demo's process with its servers. The bounds in seconds are those that an operator accepts, not
    a comparison.
    """
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "demo"
        first = _run_demo(data)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 / 1024
        yield Row("demo: peak memory", peak, "GB", 1.5)
        second = _run_demo(data)
        yield Row("demo: second run / first run", second / first, "x", 0.5)
        yield _seconds("nine sources and publish, nothing changed", second, 60)
        begun = time.perf_counter()
        with _ui(data) as address:
            yield _seconds("UI up", time.perf_counter() - begun, 10)
            # The first launch waits until the daemon reads its queue, so it does not count.
            started = [_launch_to_started(address) for _ in range(1 + _LAUNCHES)][1:]
        yield _seconds(f"launch to started, median of {_LAUNCHES}", median(started), 6)


def workers() -> Iterator[Row]:
    """Four workers on one source of one PostgreSQL catalog, against four workers with a source each.

    Both use the same cores. The comparison with four times one worker has a bound only when each worker has a core.
    """
    program = server_program()
    if program is None:
        raise RuntimeError("no PostgreSQL server program on this machine (apt-get install postgresql)")
    with tempfile.TemporaryDirectory() as directory, running_server(program) as server:
        pack = _pack(Path(directory) / "pack")
        alone = [f"alone{number}" for number in range(_WORKERS)]
        with server.database() as url:
            _fill(url, pack, {"first": _FACES_EACH, "shared": _WORKERS * _FACES_EACH})
            _fill(url, pack, dict.fromkeys(alone, _FACES_EACH))
            single = _rate(url, pack, ["first"])
            apart = _rate(url, pack, alone)
            together = _rate(url, pack, ["shared"] * _WORKERS)
    yield Row("operations: 4 workers on one source", together, "face/s")
    name = "operations: 4 workers on one source / on one each"
    yield Row(name, together / apart, "x", 0.9, at_least=True)
    enough = len(os.sched_getaffinity(0)) > _WORKERS
    bound = 0.9 if enough else None
    yield Row(
        "operations: 4 workers / 4 x one alone", together / single / _WORKERS, "x", bound, at_least=True
    )


PARTS: Mapping[str, Callable[[], Iterator[Row]]] = {"demo": demo, "workers": workers}


def _run_demo(data: Path) -> float:
    begun = time.perf_counter()
    subprocess.run([_PROGRAM, "demo", "--data-dir", data], check=True, capture_output=True)
    return time.perf_counter() - begun


def _seconds(name: str, value: float, bound: float) -> Row:
    return Row(f"operations: {name}", value, "s", bound)


@contextmanager
def _ui(data: Path) -> Iterator[str]:
    port = free_port()
    server = subprocess.Popen(
        [_PROGRAM, "ui", "--data-dir", data, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/server_info", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=60)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def _launch_to_started(address: str) -> float:
    """Seconds until a run of publish that was launched in the UI has started; returns when it has ended."""
    launch = """mutation($p: ExecutionParams!) {launchPipelineExecution(executionParams: $p) {
      ... on LaunchRunSuccess {run {runId}}}}"""
    selector = {
        "repositoryLocationName": "stash_sense",
        "repositoryName": "__repository__",
        "jobName": "publish",
    }
    begun = time.time()
    params = {"selector": selector, "mode": "default", "runConfigData": {}}
    made = _ask(address, launch, {"p": params})["launchPipelineExecution"]["run"]["runId"]
    query = "query($id: ID!) {runOrError(runId: $id) {... on Run {status startTime}}}"
    while True:
        run = _ask(address, query, {"id": made})["runOrError"]
        if run["status"] == "SUCCESS":
            return float(run["startTime"]) - begun
        if run["status"] == "FAILURE":
            raise RuntimeError("the launched run failed")
        time.sleep(0.2)


def _ask(address: str, query: str, variables: dict[str, object]) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer)["data"])


def _pack(directory: Path) -> ModelPack:
    """Embedders with the interfaces of FaceNet512 and ArcFace, and about a tenth of their operations.

    Small networks make the share of the workers' common resources larger.
    """
    directory.mkdir()
    marker_detector(directory / "detector.onnx")
    random_embedder(directory / "facenet.onnx", 1, size=160, layout="nhwc", widths=(64, 128, 256))
    random_embedder(directory / "arcface.onnx", 2, size=112, layout="nhwc", widths=(96, 192, 384))
    describe_pack(directory)
    return load_pack(str(directory), directory)


def _fill(url: str, pack: ModelPack, counts: Mapping[str, int]) -> None:
    """Stores faces without vectors, a number for each source."""
    engine, now = open_catalog(url), datetime.now(UTC)
    noise = np.random.default_rng(1)
    columns: dict[str, Any] = {column.name: 0.5 for column in faces.c if isinstance(column.type, sa.Float)}
    columns |= {"face_index": 0, "landmarks": bytes(40), "pack": pack.name}
    columns["detector_digest"] = pack.detector.digest
    for source, count in counts.items():
        crop = encode_crop(noise.integers(0, 255, (112, 112, 3), dtype=np.uint8))
        names = [f"i{number}" for number in range(count)]
        images = [{"source": source, "image_id": name, "url": name, "state": "done"} for name in names]
        with writing(engine) as connection:
            connection.execute(sa.insert(source_images), images)
            store_faces(connection, source, [(name, StoredFace(columns, crop, None)) for name in names], now)
    engine.dispose()


def _rate(url: str, pack: ModelPack, sources: Sequence[str]) -> float:
    """Faces a second of one worker for each source, from the moment when all are ready until the last one ends."""
    ready = _PROCESSES.Barrier(len(sources) + 1)
    embedded = _PROCESSES.Queue()
    arguments = [(url, str(pack.directory), source, ready, embedded) for source in sources]
    processes = [_PROCESSES.Process(target=_work, args=given) for given in arguments]
    for process in processes:
        process.start()
    ready.wait(120)
    begun = time.perf_counter()
    done = sum(embedded.get(timeout=200) for _ in processes)
    seconds = time.perf_counter() - begun
    for process in processes:
        process.join()
    assert done == _FACES_EACH * len(sources), done
    return done / seconds


def _work(url: str, directory: str, source: str, ready: Any, embedded: Any) -> None:
    engine, pack = open_catalog(url), load_pack(directory, Path(directory))
    ready.wait(120)
    embedded.put(embed_waiting(engine, source, pack, EmbeddingRules(batch_size=_BATCH, threads=1)).embedded)
    engine.dispose()
