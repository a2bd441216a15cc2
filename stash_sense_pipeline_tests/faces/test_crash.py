"""A run that is killed at any moment, or meets a full disk or a locked database, ends with the catalog of an
undisturbed run.
"""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings, faces, source_images
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline_tests.faces.crash_child import BATCH, FETCHES, work
from stash_sense_pipeline_tests.faces.nets import picture
from stash_sense_pipeline_tests.faces.world import ImageServer, list_performers, png

KILLS_FETCHING, KILLS_EMBEDDING = 35, 15
GOOD = [(5, 5, 0.95, 120)]


def populate(server: ImageServer, people: int = 90) -> dict[str, list[str]]:
    """People with five images each: good ones, ones without a face, missing ones, shared and equal ones."""
    rng = random.Random(4)
    listed: dict[str, list[str]] = {}
    for person in range(people):
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
    # A run that is killed counts no refusals: its images are asked for again the next day.
    skipped = {"face_id", "created_at", "processed_at", "next_attempt_at", "refusals"}
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


@dataclass
class Worlds:
    """The same work for two catalogs, one of which is disturbed; each start of it is a process of its own."""

    server: ImageServer
    pack: ModelPack
    urls: dict[str, str]
    engines: dict[str, sa.Engine]
    processes: Any

    def start(self, name: str, embed: bool = True) -> Any:
        arguments = (self.urls[name], self.server.port, self.pack.directory, embed)
        child = self.processes.Process(target=work, args=arguments)
        child.start()
        return child

    def run(self, name: str, embed: bool = True) -> int:
        child = self.start(name, embed)
        child.join()
        return int(child.exitcode)

    def content(self, name: str) -> dict[str, list[Any]]:
        return content(self.engines[name])


@contextmanager
def two_worlds(
    server: ImageServer, pack: ModelPack, undisturbed: Path, disturbed: Path, people: int = 90
) -> Iterator[Worlds]:
    """Two catalogs in the given directories that list the same people."""
    listed = populate(server, people)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([work.__module__])
    urls = {
        "undisturbed": f"sqlite:///{undisturbed / 'undisturbed.db'}",
        "disturbed": f"sqlite:///{disturbed / 'disturbed.db'}",
    }
    engines = {name: open_catalog(url) for name, url in urls.items()}
    for engine in engines.values():
        list_performers(engine, server, listed)
    yield Worlds(server, pack, urls, engines, processes)
    for engine in engines.values():
        engine.dispose()


def assert_sound(engine: sa.Engine) -> None:
    with reading(engine) as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory. `mount -o remount,size=` changes what it holds."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine permits no mount of a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_disk_that_is_full_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path, small_disk: Path, server: ImageServer, pack: ModelPack
) -> None:
    with two_worlds(server, pack, tmp_path, small_disk, people=30) as worlds:
        assert worlds.run("undisturbed") == 0
        server.requests.clear()
        failures, used = 0, sum(file.stat().st_size for file in small_disk.iterdir())
        for room in (200_000 * 2**step for step in range(8)):
            subprocess.run(["mount", "-o", f"remount,size={used + room}", str(small_disk)], check=True)
            if worlds.run("disturbed") == 0:
                break
            failures += 1
        assert failures >= 3, "the disk was full in the middle"
        assert worlds.content("disturbed") == worlds.content("undisturbed")
        assert_sound(worlds.engines["disturbed"])
        # A run that finds no room has fetched at most its lanes and what waited for its batch.
        assert max(server.requests.values()) <= 1 + failures
        assert server.requests.total() <= len(server.requests) + failures * (FETCHES + 2 * BATCH)


HOLD = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
while True:
    held.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    held.execute("COMMIT")
    time.sleep(0.15)
"""


@contextmanager
def locked(url: str, seconds: float) -> Iterator[None]:
    """Another process takes the write lock for so many seconds, over and over."""
    command = [sys.executable, "-c", HOLD, url.removeprefix("sqlite:///"), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            yield
        finally:
            holder.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_database_that_another_process_locks_is_waited_for(
    tmp_path: Path, server: ImageServer, pack: ModelPack
) -> None:
    with two_worlds(server, pack, tmp_path, tmp_path, people=20) as worlds:
        assert worlds.run("undisturbed") == 0
        with locked(worlds.urls["disturbed"], seconds=0.3):
            assert worlds.run("disturbed", embed=False) == 0, "it waits for its turn"
        with locked(worlds.urls["disturbed"], seconds=0.3):
            assert worlds.run("disturbed") == 0
        assert worlds.content("disturbed") == worlds.content("undisturbed")
        assert_sound(worlds.engines["disturbed"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_that_are_killed_again_and_again_lose_and_double_nothing(
    tmp_path: Path, server: ImageServer, pack: ModelPack
) -> None:
    with two_worlds(server, pack, tmp_path, tmp_path) as worlds:
        _kill_and_compare(worlds)


def _kill_and_compare(worlds: Worlds) -> None:
    server, disturbed = worlds.server, worlds.engines["disturbed"]
    assert worlds.run("undisturbed") == 0
    expected = worlds.content("undisturbed")
    assert len(expected["faces"]) > 100
    assert len(expected["vectors"]) == 2 * len(expected["faces"])
    needed = sum(server.requests.values())
    assert set(server.requests.values()) == {1}

    server.requests.clear()
    server.latency = 0.01
    rng = random.Random(9)

    def vectors() -> int:
        with reading(disturbed) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(embeddings)) or 0

    def kill_when(measure: Callable[[], int], more: int, embed: bool) -> None:
        """Starts the work and kills it when it got so much further, plus a moment."""
        until = measure() + more
        child = worlds.start("disturbed", embed)
        while child.is_alive() and measure() < until:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        child.join()

    collected = set()
    for _ in range(KILLS_FETCHING):
        kill_when(server.requests.total, rng.randrange(1, 12), embed=False)
        collected.add(len(content(disturbed)["faces"]))
    assert worlds.run("disturbed", embed=False) == 0
    between = collected - {0, len(content(disturbed)["faces"])}
    assert len(between) >= 5, "they were killed in the middle"
    embedded = set()
    for _ in range(KILLS_EMBEDDING):
        kill_when(vectors, rng.randrange(0, 18), embed=True)
        embedded.add(vectors())
    assert any(0 < some < len(expected["vectors"]) for some in embedded), "they were killed in the middle"
    assert worlds.run("disturbed") == 0
    assert content(disturbed) == expected
    # Each kill costs at most what was in flight, waiting for its batch, or in the batch that was being written.
    assert sum(server.requests.values()) <= needed + KILLS_FETCHING * (FETCHES + 2 * BATCH)
    assert_sound(disturbed)
