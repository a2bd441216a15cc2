"""A run that is killed at any moment, or meets a full disk or a locked database, ends with the catalog of an
undisturbed run.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    embeddings,
    faces,
    source_images,
    tattoo_crops,
    tattoo_detections,
    tattoo_embeddings,
    tattoo_scans,
)
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline_tests.faces.crash_child import BATCH, FETCHES, STORED, work
from stash_sense_pipeline_tests.faces.nets import picture, tattooed
from stash_sense_pipeline_tests.faces.processes import process_context
from stash_sense_pipeline_tests.faces.world import ImageServer, list_performers, png

KILLS_FETCHING, KILLS_EMBEDDING = 12, 8
PATIENCE = 240.0  # seconds
GOOD = [(5, 5, 0.95, 120)]


def populate(server: ImageServer, people: int = 50) -> dict[str, list[str]]:
    """People with five images each: good ones with a tattoo, ones without a face, missing ones, shared and equal ones."""
    rng = random.Random(4)
    listed: dict[str, list[str]] = {}
    for person in range(people):
        listed[f"p{person:02}"] = names = [f"i{person:02}-{k}" for k in range(5)]
        for name in names:
            kind = rng.random()
            if kind < 0.6:
                server.bodies[name] = png(tattooed(picture(GOOD, rng.randrange(10**6)), 2, 15))
            elif kind < 0.8:
                server.bodies[name] = png(picture([], rng.randrange(10**6), size=(320, 320)))
            elif kind < 0.9 and server.bodies:
                server.bodies[name] = rng.choice(list(server.bodies.values()))
        if person and rng.random() < 0.4:
            names.append(rng.choice(listed[f"p{rng.randrange(person):02}"]))
    server.bodies[STORED] = b""
    return listed


# A run that is killed counts no refusals: its images are asked for again the next day.
SKIPPED = {"face_id", "tattoo_id", "created_at", "processed_at", "next_attempt_at", "refusals"}


def _columns(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.c if column.name not in SKIPPED]


def content(engine: sa.Engine) -> dict[str, list[Any]]:
    """All that a run leaves, without ids and times. A vector is known by the image of its face."""
    of_face = [faces.c.source, faces.c.image_id]
    of_tattoo = faces.join(tattoo_detections, tattoo_detections.c.face_id == faces.c.face_id)
    queries = {
        "images": sa.select(*_columns(source_images)),
        "faces": sa.select(*_columns(faces)),
        "vectors": sa.select(*of_face, *_columns(embeddings)).join(embeddings),
        "crops": sa.select(*of_face, aligned_crops.c.png).join(aligned_crops),
        "scans": sa.select(*of_face, tattoo_scans.c.detector_digest, tattoo_scans.c.tattoos).join(
            tattoo_scans
        ),
        "tattoos": sa.select(*of_face, *_columns(tattoo_detections)).select_from(of_tattoo),
        "tattoo vectors": sa.select(*of_face, *_columns(tattoo_embeddings)).select_from(
            of_tattoo.join(tattoo_embeddings)
        ),
        "tattoo crops": sa.select(*of_face, tattoo_crops.c.png).select_from(of_tattoo.join(tattoo_crops)),
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
    server: ImageServer, pack: ModelPack, undisturbed: Path, disturbed: Path, people: int = 50
) -> Iterator[Worlds]:
    """Two catalogs in the given directories that list the same people."""
    listed = populate(server, people)
    urls = {
        "undisturbed": f"sqlite:///{undisturbed / 'undisturbed.db'}",
        "disturbed": f"sqlite:///{disturbed / 'disturbed.db'}",
    }
    engines = {name: open_catalog(url) for name, url in urls.items()}
    for engine in engines.values():
        list_performers(engine, server, listed)
    yield Worlds(server, pack, urls, engines, process_context())
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
    tmp_path: Path, small_disk: Path, server: ImageServer, tattoo_pack: ModelPack
) -> None:
    with two_worlds(server, tattoo_pack, tmp_path, small_disk, people=30) as worlds:
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
        del server.requests[STORED]
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
    time.sleep(0.2)
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
    tmp_path: Path, server: ImageServer, tattoo_pack: ModelPack
) -> None:
    with two_worlds(server, tattoo_pack, tmp_path, tmp_path, people=10) as worlds:
        assert worlds.run("undisturbed") == 0
        with locked(worlds.urls["disturbed"], seconds=0.1):
            assert worlds.run("disturbed") == 0, "it waits for its turn"
        assert worlds.content("disturbed") == worlds.content("undisturbed")
        assert_sound(worlds.engines["disturbed"])


class Gate:
    """Lets so many requests of a server through, and holds the others back. Other names than `only` pass at once."""

    def __init__(self, only: str | None = None) -> None:
        self._only = only
        self._changed = threading.Condition()
        self._asked = self._permitted = 0

    def __call__(self, image_id: str) -> None:
        """Waits for its turn, in the thread of the request."""
        if self._only not in (None, image_id):
            return
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: mine <= self._permitted, 600)

    def permit(self, more: int) -> None:
        """All requests that wait, and so many more."""
        with self._changed:
            self._permitted = max(self._asked, self._permitted) + more
            self._changed.notify_all()

    @property
    def holds(self) -> bool:
        """A request waits."""
        return self._asked > self._permitted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_that_are_killed_again_and_again_lose_and_double_nothing(
    tmp_path: Path, server: ImageServer, tattoo_pack: ModelPack
) -> None:
    with two_worlds(server, tattoo_pack, tmp_path, tmp_path) as worlds:
        _kill_and_compare(worlds)


def _kill_and_compare(worlds: Worlds) -> None:
    server, disturbed = worlds.server, worlds.engines["disturbed"]
    assert worlds.run("undisturbed") == 0
    expected = worlds.content("undisturbed")
    assert len(expected["faces"]) > 60
    assert len(expected["vectors"]) == 2 * len(expected["faces"])
    assert len(expected["tattoo vectors"]) == len(expected["faces"])
    del server.requests[STORED]
    needed = sum(server.requests.values())
    assert set(server.requests.values()) == {1}

    server.requests.clear()
    server.gate = gate = Gate()
    rng = random.Random(9)
    settled = {settled_images(disturbed)}
    for place in range(KILLS_FETCHING):
        child = held_after(worlds, gate, 5, embed=False)
        if place % 2:
            wait_until(lambda: settled_images(disturbed) > max(settled))
        else:
            time.sleep(rng.uniform(0, 0.03))
        kill(child)
        settled.add(settled_images(disturbed))
    assert len(settled) > KILLS_FETCHING // 2, "they were killed in the middle"
    gate.permit(10**6)
    assert worlds.run("disturbed", embed=False) == 0

    server.gate = gate = Gate(STORED)
    embedded, embedded_tattoos = set(), set()
    for _ in range(KILLS_EMBEDDING):
        child = held_after(worlds, gate, 1, embed=True)
        gate.permit(0)
        time.sleep(rng.uniform(0, 0.03))
        kill(child)
        embedded.add(count_of(disturbed, embeddings))
        embedded_tattoos.add(count_of(disturbed, tattoo_embeddings))
    for some, name in ((embedded, "vectors"), (embedded_tattoos, "tattoo vectors")):
        assert some - {0, len(expected[name])}, "they were killed in the middle"
    gate.permit(10**6)
    assert worlds.run("disturbed") == 0
    assert content(disturbed) == expected
    # Each kill costs at most what was in flight, waiting for its batch, or in the batch that was being written.
    del server.requests[STORED]
    assert sum(server.requests.values()) <= needed + KILLS_FETCHING * (FETCHES + 2 * BATCH)
    assert_sound(disturbed)


def count_of(engine: sa.Engine, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    with reading(engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table).where(*where)) or 0


def settled_images(engine: sa.Engine) -> int:
    return count_of(engine, source_images, source_images.c.state != "pending")


def held_after(worlds: Worlds, gate: Gate, more: int, embed: bool) -> Any:
    """A process that does the work of `disturbed`, when it waits for the answer after so many more."""
    gate.permit(more)
    child = worlds.start("disturbed", embed)
    wait_until(lambda: gate.holds or not child.is_alive())
    return child


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def kill(child: Any) -> None:
    child.kill()
    child.join()
