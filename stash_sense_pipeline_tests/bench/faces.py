"""Collecting and embedding against the rate limit and against bare loops over the same networks.

The networks have random weights, the interfaces of det_500m, FaceNet512 and ArcFace, and about as many operations.
Server, worker and embedding are one process each, as on an operator's machine. Each part can be run by its name, as
in `python -m stash_sense_pipeline_tests.bench faces.limit`; the first images of a process, which load the networks, are
not measured.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import httpx
import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    embeddings,
    faces,
)
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.collect import CollectReport, collect_faces
from stash_sense_pipeline.faces.collection.image_fetcher import ImageClient
from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.extract_face import FaceExtractor, decode_crop
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.settings.schema import GlobalSettings
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.faces.nets import (
    describe_pack,
    marker_detector,
    picture,
    random_embedder,
)
from stash_sense_pipeline_tests.faces.world import (
    ImageServer,
    box,
    image_request,
    list_performers,
    polite_client,
)

_PICTURES = 40
_LATENCY = 0.1
_UNLIMITED = 600_000.0
PROCESSES = multiprocessing.get_context("spawn")


def limit() -> Iterator[Row]:
    """The share of the rate limit that is used, alone and while another process embeds."""
    with home_with_pack() as (home, pack), served(_LATENCY) as server:
        collect(home, server, pack, 40)
        for rate, images in ((4, 60), (40, 800)):
            kept = images / rate / collect(home, server, pack, images, rate).seconds
            yield ratio_row(f"{rate} images/s at 100 ms: share of the limit", kept, 0.95)
        (home / "beside").mkdir()
        with _embedding(home / "catalog.db", pack):
            kept = 60 / 4 / collect(home / "beside", server, pack, 60, 4).seconds
        yield ratio_row("4 images/s while embedding: share of the limit", kept, 0.95)


def predecessor() -> Iterator[Row]:
    """Against fetching and detecting one image after the other, as the predecessor does.

    The predecessor also embeds and saves each image in between, which this loop leaves out.
    """
    with home_with_pack() as (home, pack), served(_LATENCY) as server:
        collect(home, server, pack, 40)
        sequential = _one_after_another(server, pack, 40)
        ours = 600 / collect(home, server, pack, 600).seconds
        yield ratio_row("collecting, times one image after another", ours / sequential, 8)


def compute() -> Iterator[Row]:
    """An unlimited server against a bare loop over the same networks: to the vectors, and to the crops alone."""
    with home_with_pack() as (home, pack), served(0) as server:
        collect(home, server, pack, 100)
        made = fastest(_embed(home / "catalog.db", pack) for _ in range(2))
        cut = fastest((_bare(pack, 600), collect(home, server, pack, 600).seconds / 600) for _ in range(2))
        yield Row("faces: collecting and embedding, unlimited server", 1 / (cut[1] + made[1]), "img/s")
        ratio = (cut[0] + made[0]) / (cut[1] + made[1])
        yield ratio_row("collecting and embedding / bare loop", ratio, 0.9)
        yield Row("faces: collecting alone, beside its server / bare loop", cut[0] / cut[1], "x")


def embedding() -> Iterator[Row]:
    """Re-embedding 20,000 retained crops.

    Networks of the real size would take an hour. The cost of catalog and batches is measured with tiny networks over all
    crops, and compared with the cost of the real networks a face.
    """
    with home_with_pack() as (home, pack), served(0) as server:
        collect(home, server, pack, 100)
        true, ours = fastest(_embed(home / "catalog.db", pack) for _ in range(2))
        yield Row("faces: embedding", 1 / ours, "face/s")
        yield ratio_row("embedding 100 crops / bare loop", true / ours, 0.95)
        tiny = _pack(home / "tiny", widths=((2, 2, 4), (2, 2, 4)))
        _multiply_crops(home / "catalog.db", 20_000)
        bare, ours = _embed(home / "catalog.db", tiny)
        yield Row("faces: embedding 20,000 crops, beside the networks", max(0.0, ours - bare) * 1e3, "ms")
        yield ratio_row("embedding 20,000 crops / bare loop", true / (true + max(0.0, ours - bare)), 0.95)


def memory() -> Iterator[Row]:
    """The worker's peak with a short and a long queue.

    Over HTTP and with a detector of the real size the long queue would take half an hour. Its files come from inside the
    process, and a tiny detector searches them. The short queue runs in the same way too, for comparison.
    """
    with home_with_pack() as (home, pack), served(0) as server:
        peak = _in_a_process(_peak_of, home, server.port, pack.directory, 1000)
        yield Row("faces: peak memory with 1,000 images", peak, "MiB", 1024)
        tiny = _pack(home / "tiny", widths=((2, 2, 4), (2, 2, 4)), ballast=0, input_size=320)
        for images in (1000, 20_000):
            peak = _in_a_process(_peak_of, home, None, tiny.directory, images)
            yield Row(f"faces: peak memory with {images:,} images, tiny nets", peak, "MiB", 1024)


PARTS: Mapping[str, Callable[[], Iterator[Row]]] = {
    "limit": limit,
    "predecessor": predecessor,
    "compute": compute,
    "embedding": embedding,
    "memory": memory,
}


def fastest(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The least of the first and of the second numbers: the measurements with the least disturbance."""
    firsts, seconds = zip(*pairs, strict=True)
    return min(firsts), min(seconds)


def ratio_row(name: str, value: float, at_least: float) -> Row:
    return Row(f"faces: {name}", value, "x", at_least, at_least=True)


@contextmanager
def home_with_pack() -> Iterator[tuple[Path, ModelPack]]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name), _pack(Path(name) / "pack")


def _pack(
    directory: Path,
    widths: tuple[tuple[int, int, int], tuple[int, int, int]] = ((160, 320, 512), (256, 640, 1024)),
    ballast: int = 36,
    input_size: int = 640,
) -> ModelPack:
    directory.mkdir()
    marker_detector(directory / "detector.onnx", ballast=ballast)
    random_embedder(directory / "facenet.onnx", 1, size=160, layout="nhwc", widths=widths[0])
    random_embedder(directory / "arcface.onnx", 2, size=112, layout="nhwc", widths=widths[1])
    describe_pack(directory)
    description = directory / "pack.yaml"
    description.write_text(description.read_text().replace("input_size: 640", f"input_size: {input_size}"))
    return load_pack(str(directory), directory)


def _pictures(side: int = 640) -> list[bytes]:
    middle = side // 80
    portraits = [picture([(middle, middle, 0.97, 200)], seed, size=(side, side)) for seed in range(_PICTURES)]
    return [cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes() for image in portraits]


def _body(pictures: list[bytes], number: int) -> bytes:
    """JPEG files that all differ, at least in the bytes after the image."""
    return pictures[number % len(pictures)] + number.to_bytes(4, "big")


class _AnyNumber(dict[str, bytes]):
    """The file of `i<number>`, made on request."""

    def __init__(self, pictures: list[bytes]) -> None:
        super().__init__()
        self._pictures = pictures

    def __contains__(self, image_id: object) -> bool:
        return True

    def get(self, image_id: str, _: Any = None) -> Any:
        return _body(self._pictures, int(image_id[1:]))


class _FromHere:
    """An ImageClient without a network. It returns small files that all differ."""

    def __init__(self) -> None:
        self._bodies = _AnyNumber(_pictures(side=320))

    async def get(
        self, url: str, *, headers: Mapping[str, str], max_bytes: int, may_retry: Callable[[], bool]
    ) -> SimpleNamespace:
        return SimpleNamespace(content=self._bodies.get(url.split("?")[0].rsplit("/", 1)[-1]))


def _serve(latency: float, pictures: list[bytes], port: Any) -> None:
    server = ImageServer()
    server.latency = latency
    server.bodies = _AnyNumber(pictures)
    with server.running():
        port.send(server.port)
        port.recv()


@contextmanager
def served(latency: float, pictures: list[bytes] | None = None) -> Iterator[ImageServer]:
    """An image server in its own process. It serves `pictures` in turn."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_serve, args=(latency, pictures or _pictures(), theirs))
    process.start()
    try:
        server = ImageServer()
        server.port = ours.recv()
        yield server
    finally:
        ours.send("end")
        process.join()


def collect(
    home: Path,
    server: ImageServer,
    pack: ModelPack,
    images: int,
    rate: float | None = None,
    client: ImageClient | None = None,
) -> CollectReport:
    """Collects from a fresh catalog; `rate` in images a second. With a `client` the server gets no request."""
    for old in home.glob("catalog.db*"):
        old.unlink()
    engine = open_catalog(f"sqlite:///{home / 'catalog.db'}")
    names = [f"i{number}" for number in range(images)]
    list_performers(engine, server, {f"p{name}": [name] for name in names})

    async def go() -> CollectReport:
        async with polite_client(server, rate=rate * 60 if rate else _UNLIMITED) as polite:
            asked = client or polite
            return await collect_faces(
                engine, box(server), pack, asked, image_request, GlobalSettings(), NO_SUPPRESSIONS
            )

    report = asyncio.run(go())
    engine.dispose()
    assert report.done == images, report
    return report


def _multiply_crops(catalog: Path, count: int) -> None:
    """Repeats the catalog's faces until there are `count`, each with its crop and its own image."""
    engine = open_catalog(f"sqlite:///{catalog}")
    with engine.begin() as connection:
        rows = [dict(row._mapping) for row in connection.execute(sa.select(faces))]
        pngs = dict(
            connection.execute(sa.select(aligned_crops.c.face_id, aligned_crops.c.png)).tuples().all()
        )
        first = max(row["face_id"] for row in rows) + 1
        copies = [(first + number, rows[number % len(rows)], number) for number in range(count - len(rows))]
        more = [
            {**row, "face_id": face_id, "face_index": 1 + number // len(rows)}
            for face_id, row, number in copies
        ]
        connection.execute(sa.insert(faces), more)
        crops = [{"face_id": face_id, "png": pngs[row["face_id"]]} for face_id, row, _ in copies]
        connection.execute(sa.insert(aligned_crops), crops)
    engine.dispose()


def _peak_of(home: Path, port: int | None, pack_directory: Path, images: int) -> float:
    """The peak memory of this process in MiB while it collects images, from a server or from inside the process."""
    server = ImageServer()
    server.port = port or 1
    pack = load_pack(str(pack_directory), pack_directory)
    collect(home, server, pack, images, client=None if port else _FromHere())
    # Not getrusage: its maximum includes that of the parent process at the fork.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _in_a_process(work: Callable[..., float], *arguments: Any) -> float:
    with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        return pool.submit(work, *arguments).result()


def _bare(pack: ModelPack, images: int) -> float:
    """Seconds an image of decoding, detecting and aligning alone, with as many threads as the worker has."""
    pictures = _pictures()
    bodies = [_body(pictures, number) for number in range(images)]
    extractor = FaceExtractor(
        pack, Detector(pack.detector), GlobalSettings().quality_filters, True, DecodeLimits()
    )
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        faces = list(pool.map(extractor.extract, bodies))
    assert len(faces) == images
    return (time.perf_counter() - started) / images


def _one_after_another(server: ImageServer, pack: ModelPack, images: int) -> float:
    """Images a second when each is fetched and searched before the next, as the predecessor does, without embedding."""
    extractor = FaceExtractor(
        pack, Detector(pack.detector), GlobalSettings().quality_filters, True, DecodeLimits()
    )
    started = time.perf_counter()
    with httpx.Client() as client:
        for number in range(images):
            extractor.extract(client.get(server.url(f"i{number}")).content)
    return images / (time.perf_counter() - started)


def _embed(catalog: Path, pack: ModelPack) -> tuple[float, float]:
    """Seconds a face of a bare loop over the same networks with the same threads, and of face_embeddings.

    Crops are kept and vectors removed between the runs.
    """
    engine = open_catalog(f"sqlite:///{catalog}")
    with reading(engine) as connection:
        pngs = connection.scalars(sa.select(aligned_crops.c.png)).all()
    started = time.perf_counter()
    crops = np.stack([decode_crop(png) for png in pngs])
    for name, spec in pack.embedders.items():
        with Embedder(name, spec, threads=2) as embedder:
            embedder.embed(crops, flip_averaging=True)
    bare = time.perf_counter() - started
    ours = embed_waiting(engine, "boxed", pack, EmbeddingRules(keep_crops=True, threads=2))
    assert ours.embedded == len(pngs)
    with engine.begin() as connection:
        connection.execute(sa.delete(embeddings))
    engine.dispose()
    return bare / len(pngs), ours.seconds / len(pngs)


def _embed_for_ever(catalog: Path, pack_directory: Path) -> None:
    # The benchmark may run with real-time priority, where a computing thread keeps a core for 100 ms at a time. An
    # ordinary scheduler would give the core to a process that wakes up.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    pack = load_pack(str(pack_directory), pack_directory)
    while True:
        _embed(catalog, pack)


@contextmanager
def _embedding(catalog: Path, pack: ModelPack) -> Iterator[None]:
    """Embedding runs in another process, as the face_embeddings step does."""
    process = PROCESSES.Process(target=_embed_for_ever, args=(catalog, pack.directory), daemon=True)
    process.start()
    time.sleep(3)
    try:
        yield
    finally:
        process.kill()
        process.join()
