"""The command `demo` and its release."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from contextlib import closing
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.sandbox.demo import PEOPLE, SEED, SITES
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.world import World
from stash_sense_pipeline_tests.orchestration.conftest import run_demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_run_history_holds_no_name_of_a_person(demo: tuple[Path, str]) -> None:
    """Event log, run storage and the logs of steps: no name, alias, id, link or picture of a person, and no key."""
    directory, printed = demo
    with closing(sqlite3.connect(directory / "catalog.db")) as catalog:
        needles = {
            text.encode()
            for query in (
                "SELECT name FROM source_performers",
                "SELECT alias FROM performer_aliases",
                "SELECT source_id FROM source_performers",
                "SELECT url FROM performer_urls",
                "SELECT url FROM source_images",
                "SELECT sha256 FROM source_images",
            )
            for (text,) in catalog.execute(query)
            if text is not None and len(text) > 5 and not text.isdigit()
        }
    assert len(needles) > 500
    pattern = re.compile(b"|".join(re.escape(needle) for needle in sorted(needles)))
    history = [path for path in (directory / "dagster").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in history)
    for path in history:
        found = pattern.search(path.read_bytes())
        assert found is None, (path, found)
    assert pattern.search(printed.encode()) is None


@pytest.fixture(scope="module")
def world() -> World:
    """The world that the demo serves, for its truth."""
    return make_demo_world(seed=SEED, people=PEOPLE)


def test_the_demo_ends_with_a_verified_release(demo: tuple[Path, str]) -> None:
    directory, said = demo
    latest = (directory / "releases" / "latest").resolve()
    assert str(latest) in said
    for source in ("stashdb", "theporndb", "pmvstash", "javstash", "fansdb", *SITES):
        assert re.search(rf"^{source}: \d+ performers \(\d+ added", said, re.MULTILINE), said
    assert re.search(r"^checks: (\d+) of \1 passed$", said, re.MULTILINE), said
    assert "make ui" in said
    assert failures(verify_release(latest)) == ()
    archive = latest.parent / f"stash-sense-data-v{latest.name}.zip"
    assert failures(verify_release(archive)) == ()
    manifest = json.loads((latest / "manifest.json").read_text())
    assert manifest["models"]["demo"] is True
    assert "no real person" in manifest["models"]["statement"]


def test_a_later_demo_finds_its_ports_free(demo: tuple[Path, str]) -> None:
    """Systems give connections of clients ports from 32,768, where one may be taken when a later demo begins."""
    settings = yaml.safe_load((demo[0] / "sources.yaml").read_text())
    places = [*settings["stash_boxes"].values(), *settings["reference_sites"].values()]
    ports = [urlsplit(place["url"]).port for place in places]
    assert len(set(ports)) == 5 + len(SITES)
    assert all(port and 10_000 < port < 32_768 for port in ports), ports


def test_every_live_record_of_the_world_is_in_the_catalog(demo: tuple[Path, str], world: World) -> None:
    with closing(sqlite3.connect(demo[0] / "catalog.db")) as connection:
        query = "SELECT source, source_id FROM source_performers WHERE deleted_at IS NULL"
        stored = set(connection.execute(query))
    live = {
        (name, key)
        for name, box in world.boxes.items()
        for key, row in box.performers.items()
        if not row.deleted
    }
    on_sites = {record for record in stored if record[0] in SITES}
    assert {record for record in stored if record[0] != "theporndb"} - on_sites == live
    # A reference site adds no performer that no stash-box has.
    assert {world.person_of(*record) in range(len(world.people)) for record in on_sites} == {True}
    on_theporndb = {
        record
        for person in range(len(world.people))
        for record in world.records_of(person)
        if record[0] == "theporndb"
    }
    # The other records are ThePornDB's entries that are not people: toys, titles, descriptions.
    assert on_theporndb <= stored


def test_no_identity_joins_two_people(demo: tuple[Path, str], world: World) -> None:
    with closing(sqlite3.connect(demo[0] / "catalog.db")) as connection:
        members = connection.execute(
            "SELECT performer_id, source, source_id FROM identity_members"
        ).fetchall()
    people: dict[int, set[int]] = {}
    for performer_id, source, source_id in members:
        person = world.person_of(source, source_id)
        if person is not None:
            people.setdefault(performer_id, set()).add(person)
    assert [found for found in people.values() if len(found) > 1] == []
    # Of the pairs of records that are one person, nearly all are found.
    owner = {(source, source_id): performer_id for performer_id, source, source_id in members}
    found = missed = 0
    for person in range(len(world.people)):
        ids = [owner[record] for record in world.records_of(person) if record in owner]
        for one, other in combinations(ids, 2):
            found, missed = found + (one == other), missed + (one != other)
    assert found / (found + missed) > 0.85


def test_at_most_one_person_is_twice_in_the_release_and_every_split_person_is_in_the_review(
    demo: tuple[Path, str], world: World
) -> None:
    directory, _ = demo
    with closing(sqlite3.connect(directory / "catalog.db")) as connection:
        members = connection.execute(
            "SELECT performer_id, source, source_id FROM identity_members"
        ).fetchall()
        with_face = {row[0] for row in connection.execute("SELECT performer_id FROM trusted_faces")}
    records_of: dict[int, dict[int, list[str]]] = {}
    for performer_id, source, source_id in members:
        person = world.person_of(source, source_id)
        if person is not None:
            mine = records_of.setdefault(person, {})
            mine.setdefault(performer_id, []).append(f"{source}:{source_id}")
    assert len(records_of) > 200
    split = {person: parts for person, parts in records_of.items() if len(parts) > 1}
    twice = {person for person, parts in split.items() if len(with_face & parts.keys()) > 1}
    assert len(twice) <= 1, {person: split[person] for person in twice}
    with (directory / "review" / "identity.csv").open(newline="") as stream:
        listed = {row["about"] for row in csv.DictReader(stream)}
    for person, parts in split.items():
        pairs = {
            " - ".join(sorted((a, b)))
            for one, other in combinations(parts.values(), 2)
            for a in one
            for b in other
        }
        assert pairs & listed, (person, parts)


def test_a_second_demo_prints_that_nothing_changed(demo: tuple[Path, str]) -> None:
    directory = demo[0]
    before = {path: path.stat().st_mtime_ns for path in (directory / "releases").rglob("*")}
    said = run_demo(directory)
    assert "nothing changed since it was made" in said
    assert {path: path.stat().st_mtime_ns for path in (directory / "releases").rglob("*")} == before
