"""Embeds the aligned crops of a source that lack a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.embedding.face_queue import FaceQueue, WaitingFace
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.crop_embedding import EmbeddingControl, EmbeddingRules, Networks, embed_crops
from stash_sense_pipeline.faces.extraction.extract_face import decode_crop
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.requeue import Requeued, requeue_for_pack


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
    rules: EmbeddingRules | None = None,
    control: EmbeddingControl | None = None,
) -> EmbedReport:
    """Computes, for each face of `source` with a crop, the vectors of all embedders of the pack that it lacks.

    A vector of another network is replaced. Images with a face that cannot be embedded (aligned by another detector, or
    without a crop) become pending for the next collecting run. Batches are as those of `embed_crops`.

    Raises DeviceError when CUDA is requested and missing, ModelPackError for an unfit network, EmbeddingError for a
    vector that is zero or not finite, CatalogError when the catalog cannot be written.
    """
    with writing(engine) as connection:
        reopened = requeue_for_pack(connection, source, pack)
    report = embed_waiting_of_second(engine, source, pack, rules, control)
    return replace(report, reopened=reopened)


def embed_waiting_of_second(
    engine: sa.Engine,
    source: str,
    pack: ModelPack,
    rules: EmbeddingRules | None = None,
    control: EmbeddingControl | None = None,
) -> EmbedReport:
    """As `embed_waiting`, for the second pack: the next collecting run sees to faces that cannot be embedded."""
    rules = rules or EmbeddingRules()
    vectors = dict.fromkeys(pack.digests, 0)

    def open_networks(stack: ExitStack) -> Networks[WaitingFace]:
        embedders = {
            name: stack.enter_context(Embedder(name, spec, rules.device, rules.workers))
            for name, spec in pack.embedders.items()
        }

        def embed(batch: Sequence[WaitingFace]) -> Sequence[Mapping[str, Any]]:
            rows = _embed(batch, embedders, pack)
            for row in rows:
                vectors[row["model"]] += 1
            return rows

        return embed

    made = embed_crops(engine, _queue(source, pack), open_networks, rules, control or EmbeddingControl())
    return EmbedReport(
        source, made.crops, made.outdated, vectors, made.left, Requeued(), made.interrupted, made.seconds
    )


def embedding_backlog(
    engine: sa.Engine, source: str, pack: ModelPack, second: ModelPack | None = None
) -> int:
    """The number of faces of `source` with a crop that lack a vector of their pack, the first or the second one."""
    with reading(engine) as connection:
        return sum(_queue(source, each).count(connection) for each in (pack, second) if each is not None)


def _queue(source: str, pack: ModelPack) -> FaceQueue:
    return FaceQueue(source, pack.detector.finding_digest, pack.digests)


def _embed(
    batch: Sequence[WaitingFace], embedders: Mapping[str, Embedder], pack: ModelPack
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
                "face_id": batch[place].id,
                "model": name,
                "vector": vector.astype("<f4").tobytes(),
                "pack": pack.name,
                "model_digest": embedder.spec.digest,
                "created_at": now,
            }
            for place, vector in zip(places, made, strict=True)
        ]
    return rows
