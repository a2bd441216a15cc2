"""The sandbox world: the same every time, full of what makes linking hard, and true to its own records."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter

import cv2
import numpy as np
import pytest

from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.invented.pictures import BROKEN, Kind, Picture, PictureStore, sniff
from stash_sense_pipeline.sandbox.world import HOSTS, SOURCES, THEPORNDB
from stash_sense_pipeline_tests.sandbox.synthetic_world import make_synthetic_world


@pytest.fixture(scope="module")
def world():
    return make_demo_world()


def contents(world):
    boxes = {
        name: (box.performers, box.joins, box.images, box.edits, box.people)
        for name, box in world.boxes.items()
    }
    store = world.theporndb
    return boxes, store.performers, store.site_performers, store.posters


def persons_by_picture(world):
    """Picture → its (source, image id) pairs."""
    places: dict[Picture, set[tuple[str, str]]] = {}
    for name, box in world.boxes.items():
        for row in box.images.values():
            places.setdefault(row.picture, set()).add((name, row.id))
    for number, picture in world.theporndb.posters.items():
        places.setdefault(picture, set()).add((THEPORNDB, str(number)))
    return places


@pytest.mark.slow
def test_a_seed_gives_the_same_world_every_time(world):
    assert contents(make_demo_world()) == contents(world)
    assert contents(make_demo_world(seed=2)) != contents(world)


@pytest.mark.slow
def test_a_world_is_made_in_seconds_without_rendering_pictures(monkeypatch):
    def refuse(*_):
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr("stash_sense_pipeline.sandbox.invented.pictures._render", refuse)
    started = time.thread_time()  # CPU time, so that other work on the machine does not fail the test
    make_demo_world()
    assert time.thread_time() - started < 1.0


def test_five_sources_share_people_and_each_person_has_a_record(world):
    assert len(world.people) == 250
    assert tuple(world.sources) == SOURCES
    by_source = {name: set(source.people.values()) for name, source in world.sources.items()}
    assert set.union(*by_source.values()) == set(range(250))
    assert all(len(people) >= 50 for people in by_source.values())
    for name in set(SOURCES) - {"stashdb"}:
        assert len(by_source["stashdb"] & by_source[name]) >= 25


def test_every_record_of_a_box_has_a_person_and_junk_has_none(world):
    for box in world.boxes.values():
        assert box.people.keys() == box.performers.keys()
    nobody = [
        row.name for key, row in world.theporndb.performers.items() if world.person_of(THEPORNDB, key) is None
    ]
    assert len(nobody) == 5
    for person in world.people[:20]:
        records = world.records_of(person.number)
        assert {name for name, _ in records} == set(person.sources)
        assert all(world.person_of(name, key) == person.number for name, key in records)


def test_all_are_adults_and_some_dates_are_partial(world):
    dates = [
        row.birth_date for box in world.boxes.values() for row in box.performers.values() if row.birth_date
    ]
    assert all(int(date[:4]) <= 2004 for date in dates)
    assert {len(date) for date in dates} == {4, 7, 10}
    extras = [row.extras.get("birthday") for row in world.theporndb.performers.values()]
    assert all(int(date[:4]) <= 2004 for date in extras if date)


def test_names_are_in_several_scripts(world):
    names = " ".join(person.name for person in world.people)
    for script in (r"[a-z]", r"[\u0400-\u04ff]", r"[\u30a0-\u30ff]", r"[\uac00-\ud7af]", r"[âåäëêėïîöøüû]"):
        assert re.search(script, names)


def test_people_with_one_name_have_a_disambiguation_on_stashdb(world):
    by_name: dict[str, list[int]] = {}
    for person in world.people:
        by_name.setdefault(person.name, []).append(person.number)
    doubles = [numbers for numbers in by_name.values() if len(numbers) > 1]
    assert len(doubles) >= 5
    box = world.boxes["stashdb"]
    pairs = Counter(
        (row.name, row.disambiguation)
        for row in box.performers.values()
        if not row.deleted and row.disambiguation
    )
    assert all(count == 1 for count in pairs.values())
    together = [numbers for numbers in doubles if all(number in box.people.values() for number in numbers)]
    assert together


def test_cross_links_lead_to_a_record_of_the_same_person(world):
    hosts = {host: name for name, host in {**HOSTS, THEPORNDB: "theporndb.net"}.items()}
    links = [
        (name, key, link.url)
        for name, box in world.boxes.items()
        for key, joins in box.joins.items()
        for link in joins.urls
    ]
    links += [
        (THEPORNDB, key, url) for key, row in world.theporndb.performers.items() for url in row.links.values()
    ]
    found = Counter()
    tombstones = 0
    for name, key, url in links:
        match = re.fullmatch(r"https://([^/]+)/performers/([0-9a-f-]{36})", url)
        if match is None:
            continue
        there, record = hosts[match[1]], match[2]
        assert world.person_of(there, record) == world.person_of(name, key)
        found[name, there] += 1
        tombstones += there != THEPORNDB and world.boxes[there].performers[record].deleted
    assert found["pmvstash", "stashdb"] >= 15
    assert found["javstash", "stashdb"] >= 5
    assert found[THEPORNDB, "stashdb"] >= 5
    assert found["javstash", THEPORNDB] >= 1
    assert tombstones >= 1


def test_some_links_are_of_one_person_and_some_of_a_dozen(world):
    people: dict[str, set[int]] = {}
    for box in world.boxes.values():
        for key, joins in box.joins.items():
            for link in joins.urls:
                people.setdefault(link.url.lower().rstrip("/").replace("x.com", "twitter.com"), set()).add(
                    box.people[key]
                )
    crowded = {url for url, persons in people.items() if len(persons) > 1}
    studios = {url for url in crowded if len(people[url]) >= 8}
    assert len(studios) == 3
    # Each of the eight sites that stash-boxes link to has one link to another person's page.
    assert [len(people[url]) for url in crowded - studios] == [2] * 8
    assert sum("iafd.com/person.rme/id=" in url for url in people) > 50


def test_a_large_part_of_the_rows_shares_one_timestamp(world):
    rows = world.boxes["stashdb"].performers.values()
    commonest = Counter(row.updated for row in rows).most_common(1)[0][1]
    assert 0.3 < commonest / len(rows) < 0.5


def test_merges_leave_tombstones_that_lead_to_the_survivor_in_one_step(world):
    box = world.boxes["stashdb"]
    deleted = [row for row in box.performers.values() if row.deleted]
    merged = {row.id: box.redirect_of(row.id) for row in deleted if box.redirect_of(row.id)}
    assert len(merged) >= 6
    assert len(deleted) > len(merged)
    targets = [target for target in merged.values() if box.performers[target].deleted]
    assert len(targets) == 1, "one survivor was destroyed afterwards"
    assert not set(merged) & set(merged.values()), "chains are flat"
    assert max(Counter(merged.values()).values()) == 2
    assert {edit.operation for edit in box.edits.values()} == {"CREATE", "MERGE", "DESTROY"}


def test_pictures_that_two_sources_share_show_the_same_people(world):
    shared = [
        places for places in persons_by_picture(world).values() if len({name for name, _ in places}) > 1
    ]
    assert len(shared) >= 60
    for places in shared:
        assert len({world.people_in(name, key) for name, key in places}) == 1


def test_the_pictures_of_a_record_show_its_person(world):
    for box in world.boxes.values():
        for key, joins in box.joins.items():
            for image_id in joins.images:
                picture = box.images[image_id].picture
                assert not picture.people or box.people[key] in picture.people


def test_a_group_photo_has_one_id_on_several_performers(world):
    box = world.boxes["stashdb"]
    groups = [row for row in box.images.values() if row.picture.kind is Kind.GROUP]
    assert len(groups) >= 10
    assert all(len(box.performers_with(row.id)) >= 2 for row in groups if not _lost_a_performer(box, row))
    assert any(len(row.picture.people) > len(box.performers_with(row.id)) for row in groups)


def _lost_a_performer(box, row):
    return any(
        box.performers[key].deleted for key, person in box.people.items() if person in row.picture.people
    )


def test_the_demo_has_tiny_faceless_and_broken_pictures(world):
    kinds = Counter(row.picture.kind for row in world.boxes["stashdb"].images.values())
    assert kinds[Kind.SCENERY] >= 10
    assert all(kinds[kind] == 3 for kind in BROKEN)
    assert sum(max(row.picture.size) < 300 for row in world.boxes["stashdb"].images.values()) >= 8
    assert any(len(set(joins.images)) < len(joins.images) for joins in world.boxes["stashdb"].joins.values())


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None


def test_pictures_have_their_declared_size_and_broken_files_do_not_decode(world, tmp_path):
    store = PictureStore(tmp_path)
    chosen: dict[Kind, Picture] = {}
    for row in world.boxes["stashdb"].images.values():
        chosen.setdefault(row.picture.kind, row.picture)
    assert set(chosen) == set(Kind) - {Kind.PLAIN}
    for kind, picture in chosen.items():
        data = store.original(picture)
        if kind in (Kind.EMPTY, Kind.HTML, Kind.NOT_AN_IMAGE):
            assert decode(data) is None
            assert picture.shown == ()
        elif kind is Kind.TRUNCATED:
            assert data.startswith(b"\xff\xd8")
            assert not data.endswith(b"\xff\xd9")
        else:
            assert decode(data).shape[1::-1] == picture.size
        assert PictureStore(tmp_path).original(picture) == data, "the directory keeps it"
        assert PictureStore().original(picture) == data, "and it is the same without one"


def test_equal_pictures_give_equal_files_and_different_ones_do_not():
    first = Picture(1, Kind.PORTRAIT, (3,), (True,))
    store = PictureStore()
    assert store.original(first) == PictureStore().original(Picture(1, Kind.PORTRAIT, (3,), (True,)))
    others = [
        Picture(2, Kind.PORTRAIT, (3,), (True,)),
        Picture(1, Kind.PORTRAIT, (4,), (True,)),
        Picture(5),
        Picture(6),
    ]
    digests = {hashlib.sha256(store.original(picture)).hexdigest() for picture in (first, *others)}
    assert len(digests) == 5


def test_resized_pictures_and_face_crops_are_smaller():
    store = PictureStore()
    picture = Picture(1, Kind.PORTRAIT, (3,), (True,), (400, 600))
    assert max(decode(store.resized(picture, 300)).shape) == 300
    assert store.resized(picture, 1280) == store.original(picture)
    face = decode(store.face(picture))
    assert max(face.shape[:2]) < 400
    assert sniff(store.face(picture)) == "image/jpeg"


def test_a_synthetic_world_has_the_given_size_and_share_of_ties():
    world = make_synthetic_world({"stashdb": 3000, THEPORNDB: 200, "fansdb": 10})
    assert world.boxes["stashdb"].count() == 3000
    assert len(world.theporndb.performers) == 200
    assert world.boxes["fansdb"].count() == 10
    assert world.boxes["pmvstash"].count() == 0
    commonest = Counter(row.updated for row in world.boxes["stashdb"].performers.values()).most_common(1)[0][
        1
    ]
    assert 0.37 < commonest / 3000 < 0.43


def test_a_world_of_few_people_can_be_made():
    for people in (1, 3, 12):
        world = make_demo_world(people=people)
        assert set().union(*(source.people.values() for source in world.sources.values())) == set(
            range(people)
        )
