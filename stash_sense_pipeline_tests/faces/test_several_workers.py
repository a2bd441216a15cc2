"""Several embedding processes on one source of one PostgreSQL catalog: no crop twice, none lost, not even by a kill."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.embedding.crop_queue import leasing
from stash_sense_pipeline.catalog.schema import faces
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline_tests.faces.embedding_child import Work, work
from stash_sense_pipeline_tests.faces.embedding_kinds import FACES, KINDS, TATTOOS, Kind
from stash_sense_pipeline_tests.faces.processes import process_context
from stash_sense_pipeline_tests.faces.test_embed_waiting import fill
from stash_sense_pipeline_tests.faces.world import ImageServer

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS),
]

CROPS, BATCH = 40, 5
PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class Worker:
    """A process that embeds, and the connection to it."""

    process: BaseProcess
    connection: Connection

    @classmethod
    def start(cls, given: Work) -> Worker:
        context = process_context()
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(given, theirs))
        process.start()
        theirs.close()
        return cls(process, ours)

    def said(self) -> int:
        """The next number of crops."""
        assert self.connection.poll(PATIENCE), "the worker says nothing"
        return int(self.connection.recv())

    def rest(self) -> list[int]:
        """All further numbers, when it has ended. A killed one leaves answers unread, which resets the connection."""
        numbers = []
        try:
            while True:
                numbers.append(self.said())
        except (EOFError, ConnectionResetError):
            self.process.join(PATIENCE)
            return numbers


def count(engine: sa.Engine, table: sa.Table) -> int:
    with reading(engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_workers_share_a_source_and_one_of_them_is_killed(
    kind: Kind, postgres_catalog_url: str, server: ImageServer, tattoo_pack: ModelPack
) -> None:
    keep = kind is TATTOOS
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, tattoo_pack, CROPS)
    given = Work(kind.name, postgres_catalog_url, tattoo_pack.directory, BATCH, keep)
    victim, *others = workers = [Worker.start(given) for _ in range(3)]
    # Each of them has stored a batch before any of them goes on.
    assert [worker.said() for worker in workers] == [BATCH] * 3
    # This one is killed with one more batch leased, stored or about to be leased.
    victim.connection.send(True)
    victim.process.kill()
    for other in others:
        other.connection.send(False)
    said_by_victim = max([BATCH, *victim.rest()])
    done = [other.rest()[-1] for other in others]
    assert [other.process.exitcode for other in others] == [0, 0]
    assert count(engine, kind.vectors) == kind.vectors_each * CROPS
    assert count(engine, kind.crops) == (CROPS if keep else 0)
    # Each crop was embedded by one worker; the victim may have stored one more batch than it could say.
    assert CROPS - sum(done) - said_by_victim in (0, BATCH)
    engine.dispose()


def test_a_lease_ends_with_its_connection_and_not_before(
    kind: Kind, postgres_catalog_url: str, server: ImageServer, tattoo_pack: ModelPack
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, tattoo_pack, 4)
    queue = kind.queue(tattoo_pack)
    with leasing(engine) as one:
        mine, ids = queue.lease(one, 0, 3)
        assert [crop.id for crop in mine] == ids
        assert len(mine) == 3
        with leasing(engine) as other:
            theirs, _ = queue.lease(other, 0, 3)
            assert len(theirs) == 1
            assert theirs[0].id not in ids
            assert queue.lease(other, ids[-1], 3)[0] == theirs
        # What the other had is free again; what is ours is not.
        with leasing(engine) as third:
            assert len(queue.lease(third, 0, 9)[0]) == 1
            queue.release(one, ids[:1])
            assert [crop.id for crop in queue.lease(third, 0, 1)[0]] == ids[:1]
    with leasing(engine) as last:
        assert len(queue.lease(last, 0, 9)[0]) == 4
    engine.dispose()


def test_a_face_that_is_removed_while_it_is_embedded_gets_no_vector(
    kind: Kind,
    postgres_catalog_url: str,
    server: ImageServer,
    tattoo_pack: ModelPack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, tattoo_pack, 3)
    embed = kind.module._embed

    def remove_one_meanwhile(batch: Any, *arguments: Any) -> Any:
        with writing(engine) as connection:
            connection.execute(sa.delete(kind.owners).where(kind.key == batch[0].id))
        return embed(batch, *arguments)

    monkeypatch.setattr(kind.module, "_embed", remove_one_meanwhile)
    kind.embed(engine, tattoo_pack)
    assert count(engine, kind.owners) == 2
    assert count(engine, kind.vectors) == 2 * kind.vectors_each
    assert count(engine, kind.crops) == 0
    engine.dispose()


def sessions(engine: sa.Engine, which: str) -> int:
    """How many other sessions of the database are in a state."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}"
    )
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


def test_no_transaction_is_open_while_vectors_are_computed(
    kind: Kind,
    postgres_catalog_url: str,
    server: ImageServer,
    tattoo_pack: ModelPack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator may have set idle_in_transaction_session_timeout to less than a batch takes."""
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, tattoo_pack, 3)
    embed, found = kind.module._embed, []

    def noted(*arguments: Any) -> Any:
        found.append((sessions(engine, "xact_start IS NOT NULL"), sessions(engine, "true") > 0))
        return embed(*arguments)

    monkeypatch.setattr(kind.module, "_embed", noted)
    assert kind.embed(engine, tattoo_pack, EmbeddingRules(batch_size=2)) == 3
    assert found == [(0, True)] * 2
    engine.dispose()


def test_removing_a_face_waits_for_its_worker_and_is_no_deadlock(
    kind: Kind, postgres_catalog_url: str, server: ImageServer, tattoo_pack: ModelPack
) -> None:
    engine = open_catalog(postgres_catalog_url)
    fill(engine, server, tattoo_pack, 3)
    queue = kind.queue(tattoo_pack)
    with ThreadPoolExecutor(1) as pool:
        with writing(engine) as connection, ExitStack() as stack:
            batch = queue.waiting(connection, 0, 9)
            rows = kind.module._embed(batch, kind.networks(tattoo_pack, stack), tattoo_pack)
            queue.store(connection, rows)
            removed = pool.submit(remove_faces, engine)
            give_up = time.monotonic() + PATIENCE
            while not sessions(engine, "wait_event_type = 'Lock'"):
                assert not removed.done(), "it did not wait"
                assert time.monotonic() < give_up
                time.sleep(0.02)
            queue.drop_crops(connection, [crop.id for crop in batch])
        removed.result(PATIENCE)
    assert count(engine, faces) == count(engine, kind.owners) == count(engine, kind.crops) == 0
    assert count(engine, FACES.crops) == 0
    engine.dispose()


def remove_faces(engine: sa.Engine) -> None:
    with writing(engine) as connection:
        connection.execute(sa.delete(faces))
