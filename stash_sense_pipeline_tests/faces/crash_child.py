"""The process that the crash test kills: it collects and embeds faces and tattoos."""

from __future__ import annotations

import asyncio
from http.client import HTTPConnection
from pathlib import Path

import insightface  # noqa: F401 - loaded once by the fork server, not by each child

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.faces.collect import collect_faces
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
from stash_sense_pipeline.faces.models.model_packs import load_pack
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.settings.schema import GlobalSettings
from stash_sense_pipeline_tests.faces.embedding_kinds import KINDS
from stash_sense_pipeline_tests.faces.world import ImageServer, box, image_request, polite_client

FETCHES, BATCH = 4, 8
STORED = "stored"  # a name that the child asks for after each batch of vectors


def told(server: ImageServer) -> None:
    """Returns when the server permits to go on."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request("GET", f"/images/{STORED}")
    connection.getresponse().read()
    connection.close()


def work(catalog_url: str, port: int, pack_directory: Path, embed: bool) -> None:
    """Collects the waiting images, then embeds them if requested. The server knows of each batch of vectors."""
    engine = open_catalog(catalog_url)
    server = ImageServer()
    server.port = port
    pack = load_pack(str(pack_directory), Path("nowhere"))

    async def collect() -> None:
        async with polite_client(server) as client:
            await collect_faces(
                engine,
                box(server, max_faces=2),
                pack,
                client,
                image_request,
                GlobalSettings(),
                NO_SUPPRESSIONS,
                limits=CollectLimits(fetches=FETCHES, batch_size=BATCH, batch_seconds=0.05),
            )

    asyncio.run(collect())
    if embed:
        for kind in KINDS.values():
            kind.embed(engine, pack, EmbeddingRules(batch_size=BATCH), lambda *_: told(server))
    engine.dispose()
