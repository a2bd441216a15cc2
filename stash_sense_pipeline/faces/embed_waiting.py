"""Embeds the aligned crops of a source that lack a vector."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries import faces as catalog
from stash_sense_pipeline.catalog.transactions import reading, server_errors_in_one_line, shown_url, writing
from stash_sense_pipeline.faces.extraction.extract_face import decode_crop
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.faces.requeue import Requeued, requeue_for_pack
from stash_sense_pipeline.foundation.progress import Progress

_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class EmbedReport:
    """The results of one run: faces that got all their vectors, vectors by model, and crops that are still stored.

    `re_embedded` of the faces had a vector of another network. `reopened` counts images that are pending again because
    this pack cannot use their faces.
    """

    source: str
    embedded: int
    re_embedded: int
    vectors: Mapping[str, int]
    crops_left: int
    reopened: Requeued
    interrupted: bool
    seconds: float


def embed_waiting(
    engine: sa.Engine,
    source: str,
    pack: ModelPack,
    device: Device | str = Device.CPU,
    batch_size: int = 64,
    keep_crops: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> EmbedReport:
    """Computes, for each face of `source` with a crop, the vectors of all embedders of the pack that it lacks.

    A vector of another network is replaced. Images with a face that cannot be embedded (aligned by another detector, or
    without a crop) become pending for the next collecting run.

    Each batch is one transaction. The run ends early when `stop` returns True. Without `keep_crops` a crop is deleted
    in the transaction that completes its vectors. On the CPU `threads` faces are embedded in parallel (default: all
    cores that this process may use). On PostgreSQL several processes may work on one source: each leases its batches.

    Raises DeviceError when CUDA is requested and missing, ModelPackError for an unfit network, EmbeddingError for a
    vector that is zero or not finite, CatalogError when the catalog cannot be written.
    """
    started = time.monotonic()
    with writing(engine) as connection:
        reopened = requeue_for_pack(connection, source, pack)
    digests = pack.digests
    queue = catalog.EmbeddingQueue(source, pack.detector.digest, digests)
    with reading(engine) as connection:
        total = catalog.count_waiting(connection, queue)
    done, again, after, interrupted = 0, 0, 0, False
    vectors = dict.fromkeys(digests, 0)
    with ExitStack() as stack:
        if total:
            session = _lease_session(stack, engine)
            embedders = _embedders(stack, pack, Device(device), threads)
            batches = _Batches(engine, queue, pack, batch_size, keep_crops, session, embedders)
        while total and not (interrupted := stop()):
            batch, rows, last = batches.embed_next(after)
            if last is None:
                if not batches.count_waiting():
                    break
                # Other processes lease the remaining faces. This one takes over those that they do not finish.
                after = 0
                time.sleep(_LOOK_AGAIN_SECONDS)
                continue
            for row in rows:
                vectors[row["model"]] += 1
            done, after = done + len(batch), last
            again += sum(face.outdated for face in batch)
            if progress is not None:
                progress("faces", done, max(total, done))
    if not keep_crops:
        with writing(engine) as connection:
            catalog.drop_embedded_crops(connection, queue)
    with reading(engine) as connection:
        crops_left = catalog.count_crops(connection, source)
    seconds = time.monotonic() - started
    return EmbedReport(source, done, again, vectors, crops_left, reopened, interrupted, seconds)


def embedding_backlog(engine: sa.Engine, source: str, pack: ModelPack) -> int:
    """The number of faces of `source` with a crop that lack a vector of this pack."""
    queue = catalog.EmbeddingQueue(source, pack.detector.digest, pack.digests)
    with reading(engine) as connection:
        return catalog.count_waiting(connection, queue)


def _embedders(stack: ExitStack, pack: ModelPack, device: Device, threads: int | None) -> dict[str, Embedder]:
    workers = threads or len(os.sched_getaffinity(0))
    return {
        name: stack.enter_context(Embedder(name, spec, device, workers))
        for name, spec in pack.embedders.items()
    }


def _lease_session(stack: ExitStack, engine: sa.Engine) -> sa.Connection | None:
    """A connection that holds leases. None on SQLite, where each source has only one worker."""
    return stack.enter_context(catalog.leasing(engine)) if engine.dialect.name == "postgresql" else None


@dataclass(frozen=True)
class _Batches:
    engine: sa.Engine
    queue: catalog.EmbeddingQueue
    pack: ModelPack
    batch_size: int
    keep_crops: bool
    session: sa.Connection | None
    embedders: Mapping[str, Embedder]

    def count_waiting(self) -> int:
        with reading(self.engine) as connection:
            return catalog.count_waiting(connection, self.queue)

    def embed_next(self, after: int) -> tuple[list[catalog.WaitingFace], list[dict[str, Any]], int | None]:
        """Embeds and stores the faces behind the id `after`: the faces, their rows, and the last id, None at the end.

        No transaction is open while vectors are computed. On PostgreSQL the faces are leased in `session` until their
        vectors are stored.
        """
        place = (self.queue, after, self.batch_size)
        if self.session is None:
            with reading(self.engine) as connection:
                batch = catalog.waiting_faces(connection, *place)
            leased = [face.face_id for face in batch]
        else:
            with server_errors_in_one_line(shown_url(self.engine.url), "write to"):
                batch, leased = catalog.lease_faces(self.session, *place)
        last = leased[-1] if leased else None
        rows = _embed(batch, self.embedders, self.pack) if batch else []
        if batch:
            with writing(self.engine) as connection:
                catalog.store_vectors(connection, rows)
                if not self.keep_crops:
                    catalog.drop_crops(connection, [face.face_id for face in batch])
        if self.session is not None:
            with server_errors_in_one_line(shown_url(self.engine.url), "write to"):
                catalog.release_faces(self.session, leased)
        return batch, rows, last


def _embed(
    batch: Sequence[catalog.WaitingFace], embedders: Mapping[str, Embedder], pack: ModelPack
) -> list[dict[str, Any]]:
    """Rows of `embeddings` for the vectors that the faces of a batch lack."""
    crops = np.stack([decode_crop(face.png) for face in batch])
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    for name, embedder in embedders.items():
        places = [place for place, face in enumerate(batch) if name in face.missing]
        made = embedder.embed(crops[places], pack.flip_averaging)
        rows += [
            {
                "face_id": batch[place].face_id,
                "model": name,
                "vector": vector.astype("<f4").tobytes(),
                "pack": pack.name,
                "model_digest": embedder.spec.digest,
                "created_at": now,
            }
            for place, vector in zip(places, made, strict=True)
        ]
    return rows
