"""Several embedding processes on one source of one PostgreSQL catalog: no face twice, none lost, not even by a kill."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import faces as catalog_faces
from stash_sense_pipeline.catalog.engine import open_catalog, reading, writing
from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings, faces
from stash_sense_pipeline.faces.packs import ModelPack
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
    place = ("boxed", pack.detector.digest, pack.digests)
    with writing(engine) as one:
        mine, last = catalog_faces.lease_faces(one, *place, 0, 3)
        assert len(mine) == 3
        with writing(engine) as other:
            theirs, _ = catalog_faces.lease_faces(other, *place, 0, 3)
            assert len(theirs) == 1
            assert theirs[0].face_id not in {face.face_id for face in mine}
            assert catalog_faces.lease_faces(other, *place, last or 0, 3)[0] == theirs
        # What the other had is free again; what is ours is not.
        with writing(engine) as third:
            assert len(catalog_faces.lease_faces(third, *place, 0, 9)[0]) == 1
    engine.dispose()


def test_removing_a_face_waits_for_its_worker_and_is_no_deadlock(
    postgres_catalog_url: str, server: ImageServer, pack: ModelPack
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, pack, 3)

    async def both() -> None:
        leased, stored = asyncio.Event(), asyncio.Event()

        async def embed() -> None:
            with writing(engine) as connection:
                batch, _ = catalog_faces.lease_faces(
                    connection, "boxed", pack.detector.digest, pack.digests, 0, 9
                )
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
