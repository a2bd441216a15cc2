"""A worker process of the test with several workers: embeds waiting crops and tells its parent how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
from stash_sense_pipeline.faces.models.model_packs import load_pack
from stash_sense_pipeline_tests.faces.embedding_kinds import KINDS


@dataclass(frozen=True)
class Work:
    """What a worker embeds, and how."""

    kind: str
    catalog_url: str
    pack_directory: Path
    batch_size: int
    keep_crops: bool


def work(given: Work, parent: Connection) -> None:
    """Sends the number of embedded crops after each batch, and after the last one again.

    After a batch it waits until the parent answers with True, for one more batch, or with False, for all others.
    """
    engine = open_catalog(given.catalog_url)
    asks = True

    def progress(stage: str, done: int, total: int | None) -> None:
        nonlocal asks
        parent.send(done)
        if asks:
            asks = parent.recv()

    rules = EmbeddingRules(batch_size=given.batch_size, keep_crops=given.keep_crops, threads=1)
    pack = load_pack(str(given.pack_directory), Path("nowhere"))
    parent.send(KINDS[given.kind].embed(engine, pack, rules, progress))
    engine.dispose()
