"""The two kinds of crops that are embedded, faces and tattoos, for tests that hold for both."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.embedding.crop_queue import CropQueue
from stash_sense_pipeline.catalog.queries.embedding.face_queue import FaceQueue
from stash_sense_pipeline.catalog.queries.embedding.tattoo_queue import TattooQueue
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    embeddings,
    faces,
    tattoo_crops,
    tattoo_detections,
    tattoo_embeddings,
)
from stash_sense_pipeline.faces import embed_waiting as of_faces
from stash_sense_pipeline.faces.crop_embedding import EmbeddingControl, EmbeddingRules
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.models.tattoo_embedder import TattooEmbedder
from stash_sense_pipeline.faces.tattoos import embed_waiting as of_tattoos
from stash_sense_pipeline.foundation.progress import Progress


@dataclass(frozen=True)
class Kind:
    """`module` has the function `_embed`. `owners`: the faces or tattoos that the crops are of, with the column `key`."""

    name: str
    module: ModuleType
    owners: sa.Table
    key: sa.Column[int]
    crops: sa.Table
    vectors: sa.Table
    vectors_each: int

    def queue(self, pack: ModelPack) -> CropQueue[Any]:
        """The queue of the source `boxed`."""
        if self is TATTOOS:
            assert pack.tattoo is not None
            return TattooQueue("boxed", pack.tattoo.models)
        return FaceQueue("boxed", pack.detector.finding_digest, pack.digests)

    def networks(self, pack: ModelPack, stack: ExitStack) -> Mapping[str, Embedder] | TattooEmbedder:
        """What `module._embed` takes beside a batch and the pack."""
        if self is TATTOOS:
            assert pack.tattoo is not None
            return stack.enter_context(TattooEmbedder(pack.tattoo.embedder))
        return {name: stack.enter_context(Embedder(name, spec)) for name, spec in pack.embedders.items()}

    def embed(
        self,
        engine: sa.Engine,
        pack: ModelPack,
        rules: EmbeddingRules | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Embeds what waits in the source `boxed`. Returns the number of crops."""
        embed = self.module.embed_waiting_tattoos if self is TATTOOS else self.module.embed_waiting
        report = embed(engine, "boxed", pack, rules or EmbeddingRules(), EmbeddingControl(progress))
        return int(report.embedded)


FACES = Kind("faces", of_faces, faces, faces.c.face_id, aligned_crops, embeddings, 2)
TATTOOS = Kind(
    "tattoos",
    of_tattoos,
    tattoo_detections,
    tattoo_detections.c.tattoo_id,
    tattoo_crops,
    tattoo_embeddings,
    1,
)
KINDS = {kind.name: kind for kind in (FACES, TATTOOS)}
