"""The law of deltas: a full release with the delta to the next one is the next full release, and no number ever moves."""

from __future__ import annotations

import random
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.sense2.publish import Sense2Report, publish_sense2
from stash_sense_pipeline_tests.release.memory_disk import memory_disk

from .client import export, install, opened, read_json, state, unpack, update
from .world import DAY, EVENTS, World

# Some histories are long: a number that moves may need many releases to be seen.
RELEASES = (4, 14)
State = dict[str, Any]
# Most events add people and pictures, which the others need; another network is rare.
COMMON = [name for name in EVENTS if name != "embed_anew"] + ["person", "picture", "picture"]
HISTORIES = st.tuples(
    st.integers(0, 2**32),
    st.lists(
        st.lists(st.sampled_from([*COMMON * 4, "embed_anew"]), min_size=1, max_size=6),
        min_size=RELEASES[0],
        max_size=RELEASES[1],
    ),
)


@contextmanager
def new_world(catalog_file: Path, seed: int) -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=memory_disk()) as directory:
        data = Path(directory)
        engine = open_catalog(f"sqlite:///{shutil.copy2(catalog_file, data / 'catalog.db')}")
        world = World(engine, data, random.Random(seed))
        for _ in range(12):
            world.person()
        world.picture(next(iter(world.records)))
        yield world
        engine.dispose()


class Numbers:
    """All numbers that releases have used, by what they mean. What an erasure `blanked` may have several."""

    def __init__(self, blanked: set[str]) -> None:
        self.blanked = blanked
        self.performers: dict[int, str] = {}
        self.faces: dict[int, str] = {}

    def see(self, full: Path) -> None:
        """Notes the numbers of a release, and asserts that each means what it always meant."""
        with closing(opened(full / "performers.db")) as connection:
            records = connection.execute("SELECT * FROM stashbox_ids").fetchall()
            for row in records:
                uid = f"{row['endpoint']}:{row['stashbox_performer_id']}"
                assert self.performers.setdefault(row["performer_id"], uid) == uid
            for row in connection.execute("SELECT * FROM faces"):
                url = row["image_url"]
                assert self.faces.setdefault(row["embedding_index"], url) == url
        assert not self._twice(self.performers, ":"), "a record has two numbers"
        assert not self._twice(self.faces, "/"), "a face has two indices"

    def _twice(self, meant: dict[int, str], before_id: str) -> list[str]:
        """What several numbers mean, although it never lost one."""
        several = [text for text, count in Counter(meant.values()).items() if count > 1]
        return [text for text in several if text.rpartition(before_id)[2] not in self.blanked]


class Client:
    """An installation that follows the releases."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.version: str | None = None
        self.updates = 0

    @property
    def data(self) -> Path:
        return self.root / "installed"

    def follow(self, report: Sense2Report) -> None:
        """Applies the delta of a release, where it leads from the installed version; else installs it in full."""
        if report.delta is None or self.version is None:
            shutil.rmtree(self.data, ignore_errors=True)
            install(report.full, self.data)
        else:
            assert report.delta.name == f"stash-sense2-delta-{self.version}-to-{report.version}.zip"
            before, work = state(self.data), self.root / f"delta-{report.version}"
            update(self.data, report.delta, report.version, work)
            check_rows(work, before, state(self.data))
            self.updates += 1
        self.version = report.version


def publish(world: World, number: int) -> Sense2Report | None:
    world.write()
    if not world.has_faces:
        return None
    report = publish_sense2(world.engine, world.data, world.spec, DAY + timedelta(days=number))
    assert not failures(report.checks), failures(report.checks)
    return report


def forbidden_texts(path: Path, texts: Sequence[str]) -> list[str]:
    """Those of the texts that a zip holds anywhere in its files."""
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    return [text for text in texts if text.encode() in content]


# A history takes seconds: to shrink one would take an hour.
def examples(count: int) -> settings:
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(max_examples=count, phases=phases, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@examples(25)
@given(history=HISTORIES)
def test_a_release_with_its_delta_is_the_next_release_for_random_histories(
    catalog_file: Path, history: tuple[int, list[list[str]]]
) -> None:
    follow(catalog_file, history)


def follow(catalog_file: Path, history: tuple[int, list[list[str]]]) -> None:
    """Publishes each release of a history, and compares a client that applies the deltas with the full release."""
    seed, releases = history
    with new_world(catalog_file, seed) as world:
        client, numbers = Client(world.data / "client"), Numbers(world.blanked)
        for number, events in enumerate([[], *releases]):
            for event in events:
                EVENTS[event](world)
            report = publish(world, number)
            if report is None or not report.changed:
                continue
            client.follow(report)
            full = install(report.full, world.data / "full" / report.version)
            assert state(client.data) == state(full)
            numbers.see(full)
            check_files(full, report)
            for path in report.path.glob("*.zip"):
                assert forbidden_texts(path, world.suppressed) == []


@pytest.mark.slow
def test_a_history_is_the_same_on_both_databases(any_catalog: sa.Engine, tmp_path: Path) -> None:
    world = World(any_catalog, tmp_path, random.Random(7))
    for _ in range(12):
        world.person()
    client = Client(tmp_path / "client")
    events = [
        "picture",
        "suppress",
        "come_back",
        "merge",
        "hold",
        "come_back",
        "measure",
        "embed_anew",
        "suppress",
    ]
    for number, event in enumerate(events):
        EVENTS[event](world)
        report = publish(world, number)
        assert report is not None
        if report.changed:
            client.follow(report)
            assert state(client.data) == state(install(report.full, tmp_path / report.version))
    assert client.updates >= 2


def check_rows(delta: Path, before: State, after: State) -> None:
    """A delta sends what changed, and nothing else: a client matches the scenes of each performer that it sends again."""
    with closing(opened(delta / "delta.db")) as connection:
        sent = {row["embedding_index"] for row in connection.execute("SELECT * FROM faces")}
        removed = {row["embedding_index"] for row in connection.execute("SELECT * FROM removed_faces")}
        people = {
            row["id"] for row in connection.execute("SELECT * FROM performers WHERE action != 'removed'")
        }
    faces = [_by_key(each["faces"], 1, each["vectors"]) for each in (before, after)]
    assert sent == _new_or_changed(*faces)
    assert removed == faces[0].keys() - faces[1].keys()
    rows = []
    for each in (before, after):
        aliases: dict[int, list[object]] = {}
        for row in each["aliases"]:
            aliases.setdefault(row[0], []).append(row)
        # The count of faces is no column of a delta.
        place = each["columns"].index("face_count")
        rows.append(_by_key([(*row[:place], *row[place + 1 :]) for row in each["performers"]], 0, aliases))
    assert people == _new_or_changed(*rows)


def _by_key(rows: Sequence[tuple[Any, ...]], place: int, more: Mapping[int, object]) -> dict[int, object]:
    return {row[place]: (row, more.get(row[place])) for row in rows}


def _new_or_changed(before: Mapping[int, object], after: Mapping[int, object]) -> set[int]:
    return {key for key, value in after.items() if before.get(key) != value}


def check_files(full: Path, report: Sense2Report) -> None:
    """The JSON files are the client's export, and the links package has the files of the full release."""
    with closing(opened(full / "performers.db")) as connection:
        for name, value in export(connection).items():
            assert read_json(full / name) == value
    links = unpack(report.links, full.parent / f"links-{report.version}")
    for name in ("performer_links.json", "aliases.json"):
        assert (links / name).read_bytes() == (full / name).read_bytes()
