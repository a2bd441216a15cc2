"""Killed at any moment, any number of times, the work ends with the catalog of a run that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog, reading
from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings, faces, source_images
from stash_sense_pipeline.faces.packs import ModelPack
from stash_sense_pipeline_tests.faces.crash_child import BATCH, FETCHES, work
from stash_sense_pipeline_tests.faces.nets import picture
from stash_sense_pipeline_tests.faces.world import ImageServer, list_performers, png

KILLS_FETCHING, KILLS_EMBEDDING = 35, 15
GOOD = [(5, 5, 0.95, 120)]


def populate(server: ImageServer) -> dict[str, list[str]]:
    """90 people with five images each: good ones, ones without a face, missing ones, shared and equal ones."""
    rng = random.Random(4)
    listed: dict[str, list[str]] = {}
    for person in range(90):
        listed[f"p{person:02}"] = names = [f"i{person:02}-{k}" for k in range(5)]
        for name in names:
            kind = rng.random()
            if kind < 0.6:
                server.bodies[name] = png(picture(GOOD, rng.randrange(10**6)))
            elif kind < 0.8:
                server.bodies[name] = png(picture([], rng.randrange(10**6), size=(320, 320)))
            elif kind < 0.9 and server.bodies:
                server.bodies[name] = rng.choice(list(server.bodies.values()))
        if person and rng.random() < 0.4:
            names.append(rng.choice(listed[f"p{rng.randrange(person):02}"]))
    return listed


def content(engine: sa.Engine) -> dict[str, list[Any]]:
    """All that a run leaves, without ids and times. A vector is known by the image whose face it describes."""
    skipped = {"face_id", "created_at", "processed_at", "next_attempt_at"}
    of_face = [faces.c.source, faces.c.image_id]
    queries = {
        "images": sa.select(*(column for column in source_images.c if column.name not in skipped)),
        "faces": sa.select(*(column for column in faces.c if column.name not in skipped)),
        "vectors": sa.select(*of_face, *(c for c in embeddings.c if c.name not in skipped)).join(embeddings),
        "crops": sa.select(*of_face, aligned_crops.c.png).join(aligned_crops),
    }
    with reading(engine) as connection:
        return {
            name: sorted(map(tuple, connection.execute(query)), key=repr) for name, query in queries.items()
        }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_after_kill_and_nothing_is_lost_or_doubled(
    tmp_path: Path, server: ImageServer, pack: ModelPack
) -> None:
    listed = populate(server)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([work.__module__])
    engines, urls = {}, {}
    for name in ("undisturbed", "disturbed"):
        urls[name] = f"sqlite:///{tmp_path / name}.db"
        engines[name] = open_catalog(urls[name])
        list_performers(engines[name], server, listed)

    def start(name: str, embed: bool = True) -> Any:
        child = processes.Process(target=work, args=(urls[name], server.port, pack.directory, embed))
        child.start()
        return child

    def finish(name: str, embed: bool = True) -> None:
        child = start(name, embed)
        child.join()
        assert child.exitcode == 0

    finish("undisturbed")
    expected = content(engines["undisturbed"])
    assert len(expected["faces"]) > 100
    assert len(expected["vectors"]) == 2 * len(expected["faces"])
    needed = sum(server.requests.values())
    assert set(server.requests.values()) == {1}

    server.requests.clear()
    server.latency = 0.01
    rng = random.Random(9)

    def vectors() -> int:
        with reading(engines["disturbed"]) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(embeddings)) or 0

    def kill_when(measure: Callable[[], int], more: int, embed: bool) -> None:
        """Starts the work and kills it when it got so much further, plus a moment."""
        until = measure() + more
        child = start("disturbed", embed)
        while child.is_alive() and measure() < until:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        child.join()

    for _ in range(KILLS_FETCHING):
        kill_when(server.requests.total, rng.randrange(1, 25), embed=False)
    collected = len(content(engines["disturbed"])["faces"])
    finish("disturbed", embed=False)
    assert 0 < collected < len(content(engines["disturbed"])["faces"]), "they were killed in the middle"
    embedded = set()
    for _ in range(KILLS_EMBEDDING):
        kill_when(vectors, rng.randrange(0, 18), embed=True)
        embedded.add(vectors())
    assert any(0 < some < len(expected["vectors"]) for some in embedded), "they were killed in the middle"
    finish("disturbed")
    assert content(engines["disturbed"]) == expected
    # Each kill costs at most what was in flight, waiting for its batch, or in the batch that was being written.
    assert sum(server.requests.values()) <= needed + KILLS_FETCHING * (FETCHES + 2 * BATCH)
    with reading(engines["disturbed"]) as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
