"""Collecting with and without tattoos, and embedding them, with networks of the true size.

The detector has the layers of a YOLOv5m, as that of stash-sense-v1: 83 MB, 48 GFLOP a picture. The pictures are portraits
of 600 x 900 pixels, each with one face and two tattoos.

At 240 pictures a minute, the limit of the largest sources, the search runs while the next pictures are waited for. It
needs two cores at that rate; with more it costs no time. Without a limit no bound can hold on CPUs: the search takes more
than ten times the processor time of everything else, and nothing hides it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import tattoo_crops, tattoo_detections, tattoo_embeddings
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
from stash_sense_pipeline.faces.extraction.extract_face import decode_crop
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.faces.models.tattoo_embedder import TattooEmbedder
from stash_sense_pipeline.faces.tattoos.embed_waiting import embed_waiting_tattoos
from stash_sense_pipeline_tests.bench.faces import collect, fastest, home_with_pack, served
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.faces.nets import picture, with_tattoos
from stash_sense_pipeline_tests.faces.world import ImageServer
from stash_sense_pipeline_tests.faces.yolo_network import yolov5m

_LATENCY = 0.1
# Pictures a second, and how many of them are collected.
_RATE, _IMAGES = 4, 40
_MOST = 1.6
_CORES = 2
# On a quiet machine this process gets at least this share of two cores.
_QUIET = 0.9
_CROPS = 200


def _collecting() -> Iterator[Row]:
    """Time of a run with tattoos over that of one without: at the rate limit, by processor time, without a limit."""
    with home_with_pack() as (home, plain), served(_LATENCY, _portraits()) as server:
        pack = _with_networks(plain)
        _collected(home, server, plain, 4)
        _collected(home, server, pack, 4)
        pairs, free = [], [_share_of_cores()]
        for _ in range(2):
            pairs.append((_collected(home, server, plain), _collected(home, server, pack)))
            free.append(_share_of_cores())
        ratio = min(slow.seconds for _, slow in pairs) / min(fast.seconds for fast, _ in pairs)
        # When other processes need the cores, this measures them.
        quiet = min(free) >= _QUIET
        of = f"{_RATE} pictures/s" if quiet else f"{_RATE} pictures/s, busy machine"
        yield Row(f"tattoos: {of}, time with / without", ratio, "x", _MOST if quiet else None)
        face, both = fastest((fast.processor / _IMAGES, slow.processor / _IMAGES) for fast, slow in pairs)
        yield Row("tattoos: processor time of a picture, without", face, "s")
        yield Row("tattoos: processor time of a picture, with", both, "s")
        busy = both * _RATE / _CORES
        yield Row(
            f"tattoos: {_RATE} pictures/s by processor time, {_CORES} cores", max(1.0, busy), "x", _MOST
        )
        unlimited = [_collected(home, server, each, 16, rate=None) for each in (plain, pack)]
        ratio = unlimited[1].seconds / unlimited[0].seconds
        yield Row("tattoos: unlimited server, time with / without", ratio, "x")


def _embedding() -> Iterator[Row]:
    """Embedding tattoos against a bare loop over the same network. The detector is tiny here."""
    with home_with_pack() as (home, plain), served(0, _portraits()) as server:
        with_tattoos(plain.directory, widths=(96, 160, 96))
        pack = load_pack(str(plain.directory), home)
        collect(home, server, pack, 8)
        _multiply_crops(home / "catalog.db", _CROPS)
        pairs, free = [], [_share_of_cores()]
        for _ in range(5):
            pairs.append(_embed(home / "catalog.db", pack))
            free.append(_share_of_cores())
        bare, ours = fastest((one.seconds, other.seconds) for one, other in pairs)
        yield Row("tattoos: embedding", _CROPS / ours, "/s")
        quiet = min(free) >= _QUIET
        name = "tattoos: embedding / bare loop" + ("" if quiet else ", busy machine")
        yield Row(name, bare / ours, "x", 0.95 if quiet else None, at_least=True)
        bare, ours = fastest((one.processor, other.processor) for one, other in pairs)
        yield Row("tattoos: embedding / bare loop, processor time", bare / ours, "x", 0.95, at_least=True)


def rows() -> Iterator[Row]:
    """The rows of `faces.tattoos`."""
    yield from _collecting()
    yield from _embedding()


PARTS: Mapping[str, Callable[[], Iterator[Row]]] = {"tattoos": rows}


def _share_of_cores() -> float:
    """The share of two cores that this process gets for a second."""

    def spin(_: int) -> float:
        data, started = bytes(1 << 20), time.perf_counter()
        while (passed := time.perf_counter() - started) < 1:
            hashlib.sha256(data)
        return time.thread_time() / passed

    with ThreadPoolExecutor(_CORES) as pool:
        return sum(pool.map(spin, range(_CORES))) / _CORES


class _Timed:
    """Context manager: the seconds and the processor seconds that its block takes."""

    seconds = 0.0
    processor = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, processor = self._began
        self.seconds, self.processor = time.perf_counter() - seconds, time.process_time() - processor


def _collected(
    home: Path, server: ImageServer, pack: ModelPack, images: int = _IMAGES, rate: float | None = _RATE
) -> _Timed:
    with _Timed() as timed:
        collect(home, server, pack, images, rate)
    return timed


def _with_networks(plain: ModelPack) -> ModelPack:
    with_tattoos(plain.directory, ballast=yolov5m)
    return load_pack(str(plain.directory), plain.directory)


def _portraits() -> list[bytes]:
    """JPEG files of 600 x 900 pixels. The face and the tattoos are drawn at the scale at which the networks see them."""
    files = []
    for seed in range(_IMAGES):
        image = picture([(6, 6, 0.995, 100)], seed, size=(640, 427))
        for column, row in ((22, 480), (278, 416)):
            # The grey bars put these columns on the grid of the detector.
            image[row : row + 32, column : column + 32] = (30, 60, 255)
        shown = cv2.resize(image, (600, 900), interpolation=cv2.INTER_NEAREST)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        files.append(cv2.imencode(".jpg", np.ascontiguousarray(shown[:, :, ::-1]), quality)[1].tobytes())
    return files


def _multiply_crops(catalog: Path, count: int) -> None:
    """Repeats the tattoos until there are `count`, each with its crop."""
    engine = open_catalog(f"sqlite:///{catalog}")
    with engine.begin() as connection:
        rows = [dict(row._mapping) for row in connection.execute(sa.select(tattoo_detections))]
        crops = sa.select(tattoo_crops.c.tattoo_id, tattoo_crops.c.png)
        pngs = dict(connection.execute(crops).tuples().all())
        first = max(row["tattoo_id"] for row in rows) + 1
        copies = [(first + number, rows[number % len(rows)], number) for number in range(count - len(rows))]
        more = [{**row, "tattoo_id": key, "tattoo_index": 100 + number} for key, row, number in copies]
        connection.execute(sa.insert(tattoo_detections), more)
        made = [{"tattoo_id": key, "png": pngs[row["tattoo_id"]]} for key, row, _ in copies]
        connection.execute(sa.insert(tattoo_crops), made)
    engine.dispose()


def _embed(catalog: Path, pack: ModelPack) -> tuple[_Timed, _Timed]:
    """A bare loop over the network, and tattoo_embeddings. Crops are kept, and vectors are removed."""
    assert pack.tattoo is not None
    threads = min(_CORES, len(os.sched_getaffinity(0)))
    engine = open_catalog(f"sqlite:///{catalog}")
    with reading(engine) as connection:
        pngs = connection.scalars(sa.select(tattoo_crops.c.png)).all()
    with _Timed() as bare, TattooEmbedder(pack.tattoo.embedder, threads=threads) as embedder:
        embedder.vectors(np.stack([decode_crop(png) for png in pngs]))
    rules = EmbeddingRules(keep_crops=True, threads=threads)
    with _Timed() as ours:
        assert embed_waiting_tattoos(engine, "boxed", pack, rules).embedded == len(pngs) == _CROPS
    with engine.begin() as connection:
        connection.execute(sa.delete(tattoo_embeddings))
    engine.dispose()
    return bare, ours
