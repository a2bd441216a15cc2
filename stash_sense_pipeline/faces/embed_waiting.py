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
    """What one run did: faces that have all their vectors now, vectors by model, and crops that are still
    stored.

    `re_embedded` of the faces had a vector of another network. `reopened`: images whose faces this pack
    cannot use and that wait to be fetched again.
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
    """Gives each face of `source` with a crop a vector of each of the pack's embedders; a vector of another
    network is replaced.

    Images whose face cannot get them (found by another detector and so aligned otherwise, or without a crop)
    are made pending for the next collecting. One transaction a batch; it ends early when `stop` says so;
    without `keep_crops` a crop goes with the transaction that completes its vectors. `threads` faces are
    embedded side by side on the CPU (default: all cores this process may use). On PostgreSQL any number of
    processes may work on one source at once: each leases its batches. Raises DeviceError when CUDA
    is asked for and missing, ModelPackError for an unfit network, EmbeddingError for a vector that is zero or
    not finite, CatalogError when the catalog cannot be written.
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
        session: sa.Connection | None = None
        if total and engine.dialect.name == "postgresql":
            session = stack.enter_context(catalog.leasing(engine))
        if total:
            workers = threads or len(os.sched_getaffinity(0))
            embedders = {
                name: stack.enter_context(Embedder(name, spec, Device(device), workers))
                for name, spec in pack.embedders.items()
            }
        while total and not (interrupted := stop()):
            place = (queue, after, batch_size)
            batch, rows, last = _next_batch(engine, session, place, embedders, pack, keep_crops)
            if last is None:
                with reading(engine) as connection:
                    if not catalog.count_waiting(connection, queue):
                        break
                # Others are at work on what is left. What one of them does not finish is ours.
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


def _next_batch(
    engine: sa.Engine,
    session: sa.Connection | None,
    place: tuple[catalog.EmbeddingQueue, int, int],
    embedders: Mapping[str, Embedder],
    pack: ModelPack,
    keep_crops: bool,
) -> tuple[list[catalog.WaitingFace], list[dict[str, Any]], int | None]:
    """Embeds and stores the faces of one batch; they, their rows, and the last id that was looked at, None at the end.

    No transaction is open while vectors are made. On PostgreSQL the faces are leased in `session` until these are
    stored. SQLite is one machine's, with one worker for each source.
    """
    if session is None:
        with reading(engine) as connection:
            batch = catalog.waiting_faces(connection, *place)
        leased = [face.face_id for face in batch]
    else:
        with server_errors_in_one_line(shown_url(engine.url), "write to"):
            batch, leased = catalog.lease_faces(session, *place)
    last = leased[-1] if leased else None
    rows = _embed(batch, embedders, pack) if batch else []
    if batch:
        with writing(engine) as connection:
            catalog.store_vectors(connection, rows)
            if not keep_crops:
                catalog.drop_crops(connection, [face.face_id for face in batch])
    if session is not None:
        with server_errors_in_one_line(shown_url(engine.url), "write to"):
            catalog.release_faces(session, leased)
    return batch, rows, last


def _embed(
    batch: Sequence[catalog.WaitingFace], embedders: Mapping[str, Embedder], pack: ModelPack
) -> list[dict[str, Any]]:
    """Rows of `embeddings` for what the faces of a batch lack."""
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
