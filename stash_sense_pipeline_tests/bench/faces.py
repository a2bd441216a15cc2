"""Collecting and embedding against the rate limit and against bare loops over the same networks.

The networks have random weights, the interfaces of det_500m, FaceNet512 and ArcFace, and about as many operations.
Server, worker and embedding are one process each, as on an operator's machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog, reading
from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings
from stash_sense_pipeline.faces.collect import CollectReport, collect_faces
from stash_sense_pipeline.faces.decode import DecodeLimits
from stash_sense_pipeline.faces.detect import Detector
from stash_sense_pipeline.faces.embed import Embedder
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.examine import Examiner, decode_crop
from stash_sense_pipeline.faces.packs import ModelPack, load_pack
from stash_sense_pipeline.privacy.suppression import NO_SUPPRESSIONS
from stash_sense_pipeline.settings import GlobalSettings
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.faces.nets import describe_pack, marker_detector, picture, random_embedder
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
_PROCESSES = multiprocessing.get_context("spawn")


def rows() -> Iterator[Row]:
    """Shares of the rate limit that are kept, and speed as a share of bare loops; each pair is measured in turn."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        pack = _pack(home / "pack")
        with _served(_LATENCY) as server:
            for rate, images in ((4, 32), (40, 400)):
                kept = images / rate / _collect(home, server, pack, images, rate).seconds
                yield Row(
                    f"faces: {rate} images/s at 100 ms: share of the limit", kept, "x", 0.95, at_least=True
                )
            sequential = _one_after_another(server, pack, 40)
            ours = 400 / _collect(home, server, pack, 400).seconds
            yield Row(
                "faces: collecting, times one image after another", ours / sequential, "x", 8, at_least=True
            )
            # The crops of the last run are embedded by another process meanwhile.
            (home / "beside").mkdir()
            with _embedding(home / "catalog.db", pack):
                kept = 60 / 4 / _collect(home / "beside", server, pack, 60, 4).seconds
            yield Row("faces: 4 images/s while embedding: share of the limit", kept, "x", 0.95, at_least=True)
        with _served(0) as server:
            pairs = [(_bare(pack, 200), _collect(home, server, pack, 200).seconds / 200) for _ in range(3)]
            yield Row("faces: unlimited server", 1 / min(ours for _, ours in pairs), "img/s")
            ratio = min(bare for bare, _ in pairs) / min(ours for _, ours in pairs)
            yield Row("faces: unlimited server / bare loop", ratio, "x", 0.9, at_least=True)
        pairs = [_embed(home / "catalog.db", pack) for _ in range(2)]
        yield Row("faces: embedding", 1 / min(ours for _, ours in pairs), "face/s")
        ratio = min(bare for bare, _ in pairs) / min(ours for _, ours in pairs)
        yield Row("faces: embedding / bare loop", ratio, "x", 0.95, at_least=True)


def _pack(directory: Path) -> ModelPack:
    directory.mkdir()
    marker_detector(directory / "detector.onnx", ballast=36)
    random_embedder(directory / "facenet.onnx", 1, size=160, layout="nhwc", widths=(160, 320, 512))
    random_embedder(directory / "arcface.onnx", 2, size=112, layout="nhwc", widths=(256, 640, 1024))
    describe_pack(directory)
    return load_pack(str(directory), directory)


def _pictures() -> list[bytes]:
    portraits = [picture([(8, 8, 0.97, 200)], seed) for seed in range(_PICTURES)]
    return [cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes() for image in portraits]


def _bodies(count: int) -> list[bytes]:
    """JPEG files that all differ, if only in the bytes behind the picture."""
    pictures = _pictures()
    return [pictures[number % _PICTURES] + number.to_bytes(4, "big") for number in range(count)]


def _serve(latency: float, port: Any) -> None:
    server = ImageServer()
    server.latency = latency
    server.bodies = {f"i{number}": body for number, body in enumerate(_bodies(400))}
    with server.running():
        port.send(server.port)
        port.recv()


@contextmanager
def _served(latency: float) -> Iterator[ImageServer]:
    """An image server in a process of its own."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_serve, args=(latency, theirs))
    process.start()
    try:
        server = ImageServer()
        server.port = ours.recv()
        yield server
    finally:
        ours.send("end")
        process.join()


def _collect(
    home: Path, server: ImageServer, pack: ModelPack, images: int, rate: float | None = None
) -> CollectReport:
    """Collects from a fresh catalog; `rate` in images a second."""
    for old in home.glob("catalog.db*"):
        old.unlink()
    engine = open_catalog(f"sqlite:///{home / 'catalog.db'}")
    names = [f"i{number}" for number in range(images)]
    list_performers(engine, server, {f"p{name}": [name] for name in names})

    async def go() -> CollectReport:
        async with polite_client(server, rate=rate * 60 if rate else _UNLIMITED) as client:
            return await collect_faces(
                engine, box(server), pack, client, image_request, GlobalSettings(), NO_SUPPRESSIONS
            )

    report = asyncio.run(go())
    engine.dispose()
    assert report.done == images, report
    return report


def _bare(pack: ModelPack, images: int) -> float:
    """Seconds an image: decode, detect and align on as many threads as the worker has, and nothing else."""
    bodies = _bodies(images)
    examiner = Examiner(pack, Detector(pack.detector), GlobalSettings().quality_filters, True, DecodeLimits())
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        faces = list(pool.map(examiner.examine, bodies))
    assert len(faces) == images
    return (time.perf_counter() - started) / images


def _one_after_another(server: ImageServer, pack: ModelPack, images: int) -> float:
    """Images a second of the predecessor's way, without its embedding: fetch one, detect, then the next."""
    examiner = Examiner(pack, Detector(pack.detector), GlobalSettings().quality_filters, True, DecodeLimits())
    started = time.perf_counter()
    with httpx.Client() as client:
        for number in range(images):
            examiner.examine(client.get(server.url(f"i{number}")).content)
    return images / (time.perf_counter() - started)


def _embed(catalog: Path, pack: ModelPack) -> tuple[float, float]:
    """Seconds a face: a loop over the same networks with the same threads, and ours. Crops are kept, vectors are not."""
    engine = open_catalog(f"sqlite:///{catalog}")
    with reading(engine) as connection:
        pngs = connection.scalars(sa.select(aligned_crops.c.png)).all()
    started = time.perf_counter()
    crops = np.stack([decode_crop(png) for png in pngs])
    for name, spec in pack.embedders.items():
        with Embedder(name, spec, threads=2) as embedder:
            embedder.embed(crops, flip_averaging=True)
    bare = time.perf_counter() - started
    ours = embed_waiting(engine, "boxed", pack, keep_crops=True, threads=2)
    assert ours.embedded == len(pngs)
    with engine.begin() as connection:
        connection.execute(sa.delete(embeddings))
    engine.dispose()
    return bare / len(pngs), ours.seconds / len(pngs)


def _embed_for_ever(catalog: Path, pack_directory: Path) -> None:
    pack = load_pack(str(pack_directory), pack_directory)
    while True:
        _embed(catalog, pack)


@contextmanager
def _embedding(catalog: Path, pack: ModelPack) -> Iterator[None]:
    """Embedding at work in another process, as the face_embeddings step is."""
    process = _PROCESSES.Process(target=_embed_for_ever, args=(catalog, pack.directory), daemon=True)
    process.start()
    time.sleep(3)
    try:
        yield
    finally:
        process.kill()
        process.join()
