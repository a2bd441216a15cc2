"""Several embedding processes on one source of one PostgreSQL catalog: no face twice, none lost, not even by a kill."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries import faces as catalog_faces
from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings, faces
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces import embed_waiting as module
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline_tests.faces.test_embed_waiting import fill
from stash_sense_pipeline_tests.faces.world import ImageServer

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

FACES, BATCH = 160, 5


def worker(url: str, pack: ModelPack, rest: float, keep: bool = False) -> subprocess.Popen[str]:
    """A worker that rests after each batch, so that all of them get some."""
    arguments = [url, str(pack.directory), str(BATCH), str(rest), "keep" if keep else "drop"]
    command = [sys.executable, "-m", "stash_sense_pipeline_tests.faces.embedding_child", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def count(engine: sa.Engine, table: sa.Table) -> int:
    with reading(engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.mark.parametrize("keep", [False, True])
def test_four_workers_share_a_source_and_one_of_them_is_killed(
    postgres_catalog_url: str, server: ImageServer, pack: ModelPack, keep: bool
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, pack, FACES)
    workers = [worker(postgres_catalog_url, pack, 0.05, keep) for _ in range(4)]
    victim = workers[0]
    assert victim.stdout is not None
    # It has stored one batch, and is killed with the next one leased or about to be.
    assert victim.stdout.readline().startswith("batch")
    said_by_victim = BATCH
    victim.kill()
    for line in victim.stdout:
        said_by_victim = int(line.split()[1])
    done = []
    for other in workers[1:]:
        said, _ = other.communicate(timeout=200)
        assert other.returncode == 0
        done.append(int(said.rsplit("embedded", 1)[1]))
    victim.wait()
    assert count(engine, embeddings) == 2 * FACES
    assert count(engine, aligned_crops) == (FACES if keep else 0)
    # Each face was made by one worker; the victim may have stored one more batch than it could say.
    assert FACES - sum(done) - said_by_victim in (0, BATCH)
    assert all(done), "each of them had a share"
    engine.dispose()


def test_a_lease_ends_with_its_connection_and_not_before(
    postgres_catalog_url: str, server: ImageServer, pack: ModelPack
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, pack, 4)
    queue = catalog_faces.EmbeddingQueue("boxed", pack.detector.digest, pack.digests)
    with catalog_faces.leasing(engine) as one:
        mine, ids = catalog_faces.lease_faces(one, queue, 0, 3)
        assert [face.face_id for face in mine] == ids
        assert len(mine) == 3
        with catalog_faces.leasing(engine) as other:
            theirs, _ = catalog_faces.lease_faces(other, queue, 0, 3)
            assert len(theirs) == 1
            assert theirs[0].face_id not in ids
            assert catalog_faces.lease_faces(other, queue, ids[-1], 3)[0] == theirs
        # What the other had is free again; what is ours is not.
        with catalog_faces.leasing(engine) as third:
            assert len(catalog_faces.lease_faces(third, queue, 0, 9)[0]) == 1
            catalog_faces.release_faces(one, ids[:1])
            assert [face.face_id for face in catalog_faces.lease_faces(third, queue, 0, 1)[0]] == ids[:1]
    with catalog_faces.leasing(engine) as last:
        assert len(catalog_faces.lease_faces(last, queue, 0, 9)[0]) == 4
    engine.dispose()


def test_a_face_that_is_removed_while_it_is_embedded_gets_no_vector(
    postgres_catalog_url: str, server: ImageServer, pack: ModelPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, pack, 3)
    embed = module._embed

    def remove_one_meanwhile(batch: Any, *arguments: Any) -> Any:
        with writing(engine) as connection:
            connection.execute(sa.delete(faces).where(faces.c.face_id == batch[0].face_id))
        return embed(batch, *arguments)

    monkeypatch.setattr(module, "_embed", remove_one_meanwhile)
    module.embed_waiting(engine, "boxed", pack)
    assert count(engine, faces) == 2
    assert count(engine, embeddings) == 4
    assert count(engine, aligned_crops) == 0
    engine.dispose()


def test_embedding_outlasts_the_time_that_a_transaction_may_be_idle(
    postgres_catalog_url: str, server: ImageServer, pack: ModelPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, pack, 3)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        database = engine.url.database
        connection.exec_driver_sql(
            f"ALTER DATABASE {database} SET idle_in_transaction_session_timeout = '100ms'"
        )
    engine.dispose()
    embed = module._embed

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.5)
        return embed(*arguments)

    monkeypatch.setattr(module, "_embed", slowly)
    assert module.embed_waiting(engine, "boxed", pack).embedded == 3
    engine.dispose()


def test_removing_a_face_waits_for_its_worker_and_is_no_deadlock(
    postgres_catalog_url: str, server: ImageServer, pack: ModelPack
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, pack, 3)

    embedders = {name: Embedder(name, spec, Device.CPU, 1) for name, spec in pack.embedders.items()}

    async def both() -> None:
        leased, stored = asyncio.Event(), asyncio.Event()

        async def embed() -> None:
            with writing(engine) as connection:
                queue = catalog_faces.EmbeddingQueue("boxed", pack.detector.digest, pack.digests)
                batch = catalog_faces.waiting_faces(connection, queue, 0, 9)
                rows = module._embed(batch, embedders, pack)
                catalog_faces.store_vectors(connection, rows)
                leased.set()
                await asyncio.sleep(0.5)
                catalog_faces.drop_crops(connection, [face.face_id for face in batch])
            stored.set()

        async def remove() -> None:
            await leased.wait()

            def delete() -> None:
                with writing(engine) as connection:
                    connection.execute(sa.delete(faces))

            await asyncio.to_thread(delete)
            assert stored.is_set()

        await asyncio.gather(embed(), remove())

    asyncio.run(both())
    assert count(engine, faces) == count(engine, aligned_crops) == 0
    engine.dispose()
