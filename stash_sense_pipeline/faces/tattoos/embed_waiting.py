"""Embeds the crops of tattoos of a source that lack a vector."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.embedding.crop_queue import WaitingCrop
from stash_sense_pipeline.catalog.queries.embedding.tattoo_queue import TattooQueue
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.crop_embedding import EmbeddingControl, EmbeddingRules, Networks, embed_crops
from stash_sense_pipeline.faces.extraction.extract_face import decode_crop
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.models.tattoo_embedder import CROP_SIDE, TattooEmbedder
from stash_sense_pipeline.foundation.errors import CatalogError


@dataclass(frozen=True)
class TattooReport:
    """The results of one run: tattoos that got a vector, how many of them had one of another network, crops left."""

    source: str
    embedded: int
    re_embedded: int
    crops_left: int
    interrupted: bool
    seconds: float


def embed_waiting_tattoos(
    engine: sa.Engine,
    source: str,
    pack: ModelPack,
    rules: EmbeddingRules,
    control: EmbeddingControl | None = None,
) -> TattooReport:
    """Computes the vector of each tattoo of `source` with a crop that lacks one by the embedder of the pack.

    Batches are as those of `embed_crops`.

    Raises DeviceError when CUDA is requested and missing, ModelPackError for an unfit network or a pack without one,
    EmbeddingError for a vector that is zero or not finite, CatalogError when the catalog cannot be written.
    """
    networks = pack.for_tattoos(True).tattoo
    assert networks is not None

    def open_networks(stack: ExitStack) -> Networks[WaitingCrop]:
        embedder = TattooEmbedder(networks.embedder, rules.device, rules.workers)
        stack.callback(embedder.close)
        return lambda batch: _embed(batch, embedder, pack)

    queue = TattooQueue(source, networks.models)
    made = embed_crops(engine, queue, open_networks, rules, control or EmbeddingControl())
    return TattooReport(source, made.crops, made.outdated, made.left, made.interrupted, made.seconds)


def tattoo_backlog(engine: sa.Engine, source: str, pack: ModelPack) -> int:
    """The number of tattoos of `source` with a crop that lack a vector of this pack; 0 for a pack without networks."""
    if pack.tattoo is None:
        return 0
    with reading(engine) as connection:
        return TattooQueue(source, pack.tattoo.models).count(connection)


def _embed(batch: Sequence[WaitingCrop], embedder: TattooEmbedder, pack: ModelPack) -> list[dict[str, Any]]:
    """Rows of `tattoo_embeddings` for the vectors that the tattoos of a batch lack."""
    assert pack.tattoo is not None
    vectors = embedder.vectors(np.stack([_crop(tattoo.png) for tattoo in batch]))
    now = datetime.now(UTC)
    return [
        {
            "tattoo_id": tattoo.id,
            "vector": vector.astype("<f4").tobytes(),
            "pack": pack.name,
            "model_digest": pack.tattoo.embedder.digest,
            "created_at": now,
        }
        for tattoo, vector in zip(batch, vectors, strict=True)
    ]


def _crop(png: bytes) -> NDArray[np.uint8]:
    crop = decode_crop(png)
    if crop.shape != (CROP_SIDE, CROP_SIDE, 3):
        raise CatalogError("the crop of a tattoo in the catalog is damaged; restore a backup")
    return crop
