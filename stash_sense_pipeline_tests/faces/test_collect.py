"""The streaming worker, end to end: a loopback image server, a real catalog, real networks."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    embeddings,
    faces,
    identities,
    identity_members,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.collect import CollectReport, collect_faces
from stash_sense_pipeline.faces.collection.image_fetcher import ImageRequest
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.extract_face import decode_crop
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.foundation.errors import CatalogError, Outcome
from stash_sense_pipeline.privacy.suppression.suppression_hashes import image_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    NO_SUPPRESSIONS,
    HashRow,
    load_suppressions,
    store_hashes,
)
from stash_sense_pipeline.settings.schema import GlobalSettings, QualityFilters, SourceSettings
from stash_sense_pipeline_tests.faces.databases import by_database
from stash_sense_pipeline_tests.faces.nets import picture, write_pack
from stash_sense_pipeline_tests.faces.world import (
    LONG_AGO,
    ImageServer,
    box,
    image_request,
    list_performers,
    png,
    polite_client,
)

KEY = b"k" * 32
QUICK = CollectLimits(batch_seconds=0.1)


@dataclass
class World:
    """A catalog, a server and the settings of one source, to be collected from as often as a test likes."""

    catalog: sa.Engine
    server: ImageServer
    pack: ModelPack
    source: SourceSettings
    settings: GlobalSettings
    suppressions: Any = NO_SUPPRESSIONS
    limits: CollectLimits = QUICK
    now: datetime = datetime(2026, 3, 1, tzinfo=UTC)

    def serve(self, **bodies: bytes) -> None:
        self.server.bodies.update({name.replace("_", "-"): body for name, body in bodies.items()})

    def list(
        self, listed: Mapping[str, Sequence[str]], source: str = "boxed", seen: datetime = LONG_AGO
    ) -> None:
        list_performers(self.catalog, self.server, listed, source, seen)

    def collect(self, **kwargs: Any) -> CollectReport:
        return asyncio.run(self.collecting(**kwargs))

    async def collecting(self, request: ImageRequest = image_request, **kwargs: Any) -> CollectReport:
        async with polite_client(self.server) as client:
            return await collect_faces(
                self.catalog,
                self.source,
                self.pack,
                client,
                request,
                self.settings,
                self.suppressions,
                **{"limits": self.limits, "now": lambda: self.now, **kwargs},
            )

    def images(self, source: str = "boxed") -> dict[str, Any]:
        query = sa.select(source_images).where(source_images.c.source == source)
        with reading(self.catalog) as connection:
            return {row.image_id: row for row in connection.execute(query)}

    def states(self) -> dict[str, tuple[str, str | None]]:
        return {image_id: (row.state, row.reason) for image_id, row in self.images().items()}

    def rows(self, table: sa.Table) -> list[Any]:
        with reading(self.catalog) as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key)))


@pytest.fixture
def world(any_catalog: sa.Engine, server: ImageServer, pack: ModelPack) -> World:
    return World(any_catalog, server, pack, box(server), GlobalSettings())


@pytest.fixture
def lite(catalog: sa.Engine, server: ImageServer, pack: ModelPack) -> World:
    return World(catalog, server, pack, box(server), GlobalSettings())


GOOD = [(5, 5, 0.95, 120)]


@cache
def portrait(seed: int) -> bytes:
    return png(picture(GOOD, seed))


def portraits(world: World, listed: Mapping[str, Sequence[str]]) -> None:
    """Lists performers with images that all show one good face."""
    world.list(listed)
    names = sorted({name for names in listed.values() for name in names})
    world.server.bodies.update({name: portrait(seed) for seed, name in enumerate(names)})


@pytest.mark.slow
def test_a_good_image_becomes_a_face_and_a_crop(world: World) -> None:
    portraits(world, {"p": ["a"]})
    report = world.collect()
    assert (report.done, report.faces, report.fetched, report.processed) == (1, 1, 1, 1)
    assert report.outcome is None
    image = world.images()["a"]
    assert (image.state, image.reason, image.attempts) == ("done", None, 0)
    assert image.sha256 == hashlib.sha256(world.server.bodies["a"]).hexdigest()
    assert image.detector_digest == world.pack.detector.digest
    assert image.processed_at == world.now
    (face,) = world.rows(faces)
    assert (face.source, face.image_id, face.face_index) == ("boxed", "a", 0)
    assert face.x2 - face.x1 == pytest.approx(152.5, abs=1)
    assert face.detection_confidence == pytest.approx(0.95, abs=0.01)
    assert np.frombuffer(face.landmarks, "<f4").shape == (10,)
    assert abs(face.yaw) < 1
    assert 0 < face.quality < 1
    (crop,) = world.rows(aligned_crops)
    assert crop.face_id == face.face_id
    assert decode_crop(crop.png).shape == (112, 112, 3)


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(world: World) -> None:
    portraits(world, {"p": ["a", "b"], "q": ["c"]})
    world.collect()
    before = world.rows(faces)
    report = world.collect()
    assert (report.processed, report.fetched, report.performers) == (0, 0, 0)
    assert world.rows(faces) == before
    assert set(world.server.requests.values()) == {1}


@pytest.mark.slow
def test_every_verdict_has_its_reason(world: World) -> None:
    buffer = io.BytesIO()
    Image.new("1", (8000, 6000)).save(buffer, format="PNG")
    pictures = {
        "no-face": png(picture([], 1)),
        "dim": png(picture([(5, 5, 0.6, 120)], 2)),
        "small": png(picture([(5, 5, 0.95, 20)], 3)),
        "several": png(picture([(4, 4, 0.95, 120), (13, 13, 0.95, 120)], 4)),
        "tiny": png(picture(GOOD, 5, size=(250, 640))),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "bomb": buffer.getvalue(),
    }
    world.server.bodies.update(pictures)
    world.list({"p": [*pictures, "missing"]})
    world.server.bodies["moved"] = b""
    report = world.collect()
    assert world.states() == {
        "no-face": ("rejected", "no_face"),
        "dim": ("rejected", "low_confidence"),
        "small": ("rejected", "face_too_small"),
        "several": ("rejected", "several_faces"),
        "tiny": ("rejected", "image_too_small"),
        "svg": ("rejected", "svg"),
        "bomb": ("rejected", "too_many_pixels"),
        "missing": ("gone", "not_found"),
    }
    assert sum(report.rejected.values()) == 7
    assert report.rejected["several_faces"] == 1
    assert report.gone == 1
    assert world.rows(faces) == []


@pytest.mark.slow
def test_several_faces_at_medium_trust_give_the_largest(lite: World) -> None:
    lite.serve(group=png(picture([(4, 4, 0.95, 100), (13, 13, 0.95, 140)], 4)))
    lite.list({"p": ["group"]})
    lite.source = box(lite.server, trust_level="medium")
    lite.collect()
    (face,) = lite.rows(faces)
    assert face.x1 > 256


@pytest.mark.slow
def test_performers_with_the_fewest_faces_come_first(lite: World) -> None:
    portraits(lite, {"p": ["p1", "p2", "p3"], "q": ["q1", "q2"]})
    lite.source = box(lite.server, max_faces=2)
    lite.collect()
    portraits(lite, {"r": ["r1", "r2"], "p": ["p1", "p2", "p3"], "s": ["s1"]})
    lite.source = box(lite.server, max_faces=3)
    order: list[str] = []
    base = image_request

    async def go() -> None:
        async with polite_client(lite.server) as client:
            await collect_faces(
                lite.catalog,
                lite.source,
                lite.pack,
                client,
                lambda url: (order.append(url.rsplit("/", 1)[1]), base(url))[1],
                lite.settings,
                NO_SUPPRESSIONS,
                limits=replace(QUICK, fetches=1),
            )

    asyncio.run(go())
    assert order == ["r1", "s1", "r2", "p3"]


@pytest.mark.slow
def test_a_performer_gets_no_more_faces_than_its_caps_and_none_when_complete(lite: World) -> None:
    portraits(lite, {"p": [f"p{i}" for i in range(9)], "q": [f"q{i}" for i in range(9)]})
    lite.source = box(lite.server, max_faces=4)
    assert lite.collect().faces == 8
    assert len(lite.server.requests) == 8
    lite.source = box(lite.server, max_faces=6)
    assert lite.collect().faces == 4
    # p is one person with three faces from another source.
    lite.list({"other-p": ["o1", "o2", "o3"]}, source="other")
    with writing(lite.catalog) as connection:
        connection.execute(
            sa.update(source_images).where(source_images.c.source == "other").values(state="done")
        )
    one_person(lite, {"boxed": "p", "other": "other-p"})
    lite.source = box(lite.server, max_faces=9)
    lite.settings = GlobalSettings(completeness_threshold=6)
    assert lite.collect().faces == 0, "p is complete with 6 + 3 faces, q with its own 6"
    lite.settings = GlobalSettings(completeness_threshold=10, max_faces_per_performer=10)
    assert lite.collect().faces == 4, "p may have 10 in all and has 6 + 3; q may have 9 from this source"
    lite.settings = GlobalSettings(completeness_threshold=11, max_faces_per_performer=20)
    assert lite.collect().faces == 2


def one_person(world: World, records: Mapping[str, str]) -> None:
    """Makes one identity of a record of each source."""
    with writing(world.catalog) as connection:
        connection.execute(sa.insert(identities).values(performer_id=1, created_at=LONG_AGO))
        connection.execute(
            sa.insert(identity_members),
            [
                {"source": source, "source_id": source_id, "performer_id": 1}
                for source, source_id in records.items()
            ],
        )


def shown(world: World, source: str) -> set[str]:
    return {image_id for image_id, row in world.images(source).items() if row.state == "done"}


@pytest.mark.slow
@pytest.mark.parametrize("order", [("boxed", "second"), ("second", "boxed")])
def test_faces_of_all_sources_make_a_performer_complete_in_any_order(
    lite: World, order: tuple[str, str]
) -> None:
    lite.settings = GlobalSettings(completeness_threshold=4)
    names = {source: [f"{source[0]}{number}" for number in range(3)] for source in order}
    for seed, source in enumerate(order):
        lite.list({source: names[source]}, source=source)
        lite.server.bodies.update(
            {name: portrait(10 * seed + place) for place, name in enumerate(names[source])}
        )
    one_person(lite, {source: source for source in order})
    for source, most in zip(order, (2, 3), strict=True):
        lite.source = box(lite.server, name=source, max_faces=most)
        lite.collect()
    assert {source: len(shown(lite, source)) for source in order} == {order[0]: 2, order[1]: 3}
    # Two and three faces are enough; the image that waits in the first source was listed before.
    lite.source = box(lite.server, name=order[0], max_faces=5)
    assert lite.collect().processed == 0
    lite.settings = GlobalSettings(completeness_threshold=6)
    assert lite.collect().faces == 1, "with more faces wanted, the performer is not complete"


@pytest.mark.slow
def test_a_complete_performer_gets_only_images_that_appear_afterwards(lite: World) -> None:
    lite.settings = GlobalSettings(completeness_threshold=2)
    portraits(lite, {"p": ["a", "b", "c"]})
    lite.source = box(lite.server, max_faces=2)
    assert lite.collect().faces == 2
    lite.source = box(lite.server, max_faces=9)
    assert lite.collect().processed == 0
    lite.list({"p": ["d", "e"]}, seen=lite.now + timedelta(days=1))
    lite.serve(d=portrait(80), e=portrait(81))
    one_each = replace(QUICK, fetches=1, max_images=1)
    assert [lite.collect(limits=one_each).faces for _ in range(3)] == [1, 1, 0], "a run that ends early"
    assert {name for name, row in lite.images().items() if row.state == "pending"} == {"c"}
    assert len(shown(lite, "boxed")) == 4


@pytest.mark.slow
def test_a_complete_performer_gets_back_the_faces_that_another_detector_needs(lite: World) -> None:
    portraits(lite, {"p": ["a", "b", "c", "d"]})
    lite.source = box(lite.server, max_faces=3)
    lite.collect()
    lite.settings = GlobalSettings(completeness_threshold=1)
    lite.source = box(lite.server, max_faces=9)
    with writing(lite.catalog) as connection:
        other = sa.update(source_images).where(source_images.c.state == "done")
        connection.execute(other.values(detector_digest="0" * 64))
    one = replace(QUICK, fetches=1, max_images=1)
    assert [lite.collect(limits=one).faces for _ in range(4)] == [1, 1, 1, 0]


def copy_of(body: bytes) -> bytes:
    """The picture as another site has it: smaller, and as a JPEG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(body)).resize((576, 576)).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


@pytest.mark.slow
def test_a_copy_of_a_picture_is_not_another_face_of_a_person(world: World) -> None:
    portraits(world, {"p": ["a", "c", "d"], "q": ["e", "f", "g"]})
    world.serve(b=copy_of(world.server.bodies["a"]))
    world.list({"p": ["a", "b", "c", "d"]})
    world.source = box(world.server, max_faces=2)
    report = world.collect()
    assert (report.faces, report.copies) == (5, 1)
    assert world.images()["d"].state == "pending", "a, its copy b, and c are two pictures"
    assert world.images()["a"].picture_hash is not None
    assert world.collect().processed == 0

    # The same person in another source, with a copy of a picture of the first source: with enough faces in each source
    # before the records are one identity, there are enough afterwards.
    world.serve(x=copy_of(world.server.bodies["e"]), y=portrait(70), z=portrait(71))
    world.list({"other": ["x", "y", "z"]}, source="second")
    with writing(world.catalog) as connection:
        connection.execute(sa.insert(identities).values(performer_id=1, created_at=LONG_AGO))
        rows = [("boxed", "q"), ("second", "other")]
        connection.execute(
            sa.insert(identity_members),
            [{"source": source, "source_id": one, "performer_id": 1} for source, one in rows],
        )
    world.source = box(world.server, name="second", max_faces=1)
    report = world.collect()
    assert (report.faces, report.copies, report.fetched) == (1, 0, 1)
    world.source = box(world.server, max_faces=2)
    assert world.collect().processed == 0


def test_images_of_deleted_records_are_not_fetched(lite: World) -> None:
    portraits(lite, {"dead": ["a", "shared"], "alive": ["shared"]})
    with writing(lite.catalog) as connection:
        of_dead = source_performers.c.source_id == "dead"
        connection.execute(sa.update(source_performers).where(of_dead).values(deleted_at=LONG_AGO))
    assert lite.collect().faces == 1
    assert set(lite.server.requests) == {"shared"}


@pytest.mark.slow
def test_an_image_of_several_people_is_fetched_once(world: World) -> None:
    portraits(world, {f"p{i}": ["shared", f"own{i}"] for i in range(5)})
    report = world.collect()
    assert report.faces == 6
    assert world.server.requests["shared"] == 1


@dataclass
class Suppress:
    """A suppression list in clear."""

    records: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    looks: frozenset[str] = frozenset()

    def covers_record(self, source: str, source_id: str) -> bool:
        return source_id in self.records

    def covers_url(self, url: str) -> bool:
        return url in self.urls

    def covers_image(self, sha256_hex: str) -> bool:
        return sha256_hex in self.images

    def covers_likeness(self, picture_hash: str) -> bool:
        return picture_hash in self.looks

    def refreshed(self, connection: sa.Connection) -> Suppress:
        return self


@pytest.mark.slow
def test_nothing_of_a_suppressed_image_is_stored(lite: World) -> None:
    portraits(lite, {"p": ["by-bytes", "by-url", "free"], "gone": ["hers"]})
    digest = hashlib.sha256(lite.server.bodies["by-bytes"]).hexdigest()
    lite.suppressions = Suppress(
        records=frozenset({"gone"}), urls=frozenset({lite.server.url("by-url")}), images=frozenset({digest})
    )
    report = lite.collect()
    assert report.rejected == {"suppressed": 2}
    assert lite.states()["hers"] == ("pending", None)
    assert [image.sha256 for name, image in lite.images().items() if name != "free"] == [None] * 3
    assert [face.image_id for face in lite.rows(faces)] == ["free"]
    assert set(lite.server.requests) == {"by-bytes", "free"}


@pytest.mark.slow
def test_a_picture_that_is_suppressed_while_it_is_fetched_is_not_stored(lite: World) -> None:
    portraits(lite, {"p": ["hers", "free"]})
    digest = hashlib.sha256(lite.server.bodies["hers"]).hexdigest()
    lite.suppressions = load_suppressions(lite.catalog, KEY)

    def suppress() -> None:
        with writing(lite.catalog) as connection:
            store_hashes(connection, KEY, [HashRow("image", image_hash(KEY, digest), "asked", LONG_AGO)])

    report = collect_while(lite, suppress)
    assert (report.done, report.rejected) == (1, {"suppressed": 1})
    assert [face.image_id for face in lite.rows(faces)] == ["free"]
    assert lite.images()["hers"].sha256 is None


@pytest.mark.slow
@pytest.mark.parametrize("status", [404, 410])
def test_a_picture_that_is_taken_down_leaves_no_face(
    lite: World, other_embedders: ModelPack, status: int
) -> None:
    portraits(lite, {"p": ["a", "b"]})
    lite.collect()
    embed_waiting(lite.catalog, "boxed", lite.pack)
    # Its vectors are of no use any more, so that it is fetched again.
    lite.pack = other_embedders
    lite.server.statuses["a"] = status
    for _ in range(5):
        assert lite.collect().gone == 1
        assert {face.image_id for face in lite.rows(faces)} == {"a", "b"}, "one refusal is not final"
        assert lite.images()["a"].picture_hash is not None, "erasure finds the face by it"
        lite.now += timedelta(days=100)
    assert lite.collect().gone == 1
    assert [face.image_id for face in lite.rows(faces)] == ["b"]
    assert lite.images()["a"].picture_hash is None
    lite.now += timedelta(days=1000)
    assert lite.collect().processed == 0


def collect_while(world: World, act: Callable[[], None]) -> CollectReport:
    """Collects. The server answers the first requests only when `act` is done."""
    may_answer = threading.Event()
    world.server.gate = lambda image_id: may_answer.wait(120)

    async def go() -> CollectReport:
        task = asyncio.create_task(world.collecting())
        await asked_for(world.server, 1)
        act()
        may_answer.set()
        return await task

    return asyncio.run(go())


def count_detections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from stash_sense_pipeline.faces.models.detector import Detector

    seen: list[int] = []
    detect = Detector.detect
    monkeypatch.setattr(Detector, "detect", lambda self, rgb: (seen.append(1), detect(self, rgb))[1])
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("any_catalog", "embedded_before"), by_database(True, False), indirect=["any_catalog"]
)
def test_the_same_bytes_in_another_source_are_not_detected_again(
    world: World, monkeypatch: pytest.MonkeyPatch, embedded_before: bool
) -> None:
    detections = count_detections(monkeypatch)
    world.serve(a=portrait(1), b=png(picture([], 2)))
    world.list({"p": ["a", "b"]})
    world.collect()
    if embedded_before:
        embed_waiting(world.catalog, "boxed", world.pack)
    world.serve(c=portrait(1), d=png(picture([], 2)))
    world.list({"q": ["c", "d"]}, source="second")
    world.source = box(world.server, name="second")
    report = world.collect()
    assert (report.reused, report.done, report.rejected) == (2, 1, {"no_face": 1})
    assert len(detections) == 2
    first, second = world.rows(faces)
    assert [first.source, second.source] == ["boxed", "second"]
    assert first[3:-1] == second[3:-1]
    embed_waiting(world.catalog, "boxed", world.pack)
    embed_waiting(world.catalog, "second", world.pack)
    vectors: dict[str, set[bytes]] = {}
    for row in world.rows(embeddings):
        vectors.setdefault(row.model, set()).add(row.vector)
    assert {model: len(found) for model, found in vectors.items()} == {"facenet": 1, "arcface": 1}
    assert len(world.rows(embeddings)) == 4


@pytest.mark.slow
def test_a_verdict_is_not_reused_at_another_trust_level(lite: World) -> None:
    group = png(picture([(4, 4, 0.95, 100), (13, 13, 0.95, 140)], 4))
    lite.serve(group=group, same=group)
    lite.list({"p": ["group"]})
    lite.collect()
    lite.list({"q": ["same"]}, source="medium")
    lite.source = box(lite.server, name="medium", trust_level="medium")
    report = lite.collect()
    assert (report.reused, report.done) == (0, 1)


@pytest.mark.slow
def test_a_listed_size_that_is_too_small_needs_no_request(lite: World) -> None:
    portraits(lite, {"p": ["a", "b"]})
    with writing(lite.catalog) as connection:
        of_a = source_images.c.image_id == "a"
        connection.execute(sa.update(source_images).where(of_a).values(width=200, height=900))
    assert lite.collect().rejected == {"image_too_small": 1}
    assert set(lite.server.requests) == {"b"}
    lite.settings = GlobalSettings(quality_filters=QualityFilters(min_image_size=100))
    assert lite.collect().done == 1


@pytest.mark.slow
def test_a_failed_image_is_tried_again_later_and_given_up_in_the_end(lite: World) -> None:
    portraits(lite, {"p": ["a", "b"]})
    lite.server.statuses["a"] = 500
    waits = []
    for attempt in range(1, 6):
        assert lite.collect().failed == {"timeout": 1}
        image = lite.images()["a"]
        assert (image.state, image.reason, image.attempts) == ("failed", "timeout", attempt)
        assert lite.collect().processed == 0, "not before its time"
        waits.append(image.next_attempt_at - lite.now)
        lite.now = image.next_attempt_at
    assert waits[:4] == [timedelta(hours=4**n) for n in range(4)]
    # From here on it is given up, and looked at again on other days.
    for refusals in range(2, 7):
        lite.collect()
        image = lite.images()["a"]
        assert (image.state, image.refusals) == ("failed", refusals)
        if refusals < 6:
            waits.append(image.next_attempt_at - lite.now)
            lite.now = image.next_attempt_at
    assert [wait + timedelta(hours=4) for wait in waits[4:]] == [timedelta(days=3**n) for n in range(5)]
    assert image.next_attempt_at is None
    lite.now += timedelta(days=1000)
    assert lite.collect().processed == 0


@pytest.mark.slow
def test_a_failed_image_that_recovers_is_done(lite: World) -> None:
    portraits(lite, {"p": ["a", "b"]})
    lite.server.statuses["a"] = 500
    lite.collect()
    lite.server.statuses.clear()
    lite.now += timedelta(hours=1)
    assert lite.collect().done == 1
    image = lite.images()["a"]
    assert (image.state, image.reason, image.attempts, image.next_attempt_at) == ("done", None, 0, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"<!doctype html><p>we are down for maintenance", "html"),
        (portrait(1)[:5000], "truncated"),
        (b"\x00\x01garbage", "not_an_image"),
    ],
)
def test_spoiled_bytes_are_rejected_after_the_last_attempt(lite: World, body: bytes, reason: str) -> None:
    lite.serve(a=body)
    lite.list({"p": ["a"]})
    for attempt in range(1, 5):
        assert lite.collect().failed == {reason: 1}
        assert lite.images()["a"].attempts == attempt
        lite.now += timedelta(days=30)
    assert lite.collect().rejected == {reason: 1}
    assert lite.states()["a"] == ("rejected", reason)


@pytest.mark.slow
def test_more_permitted_attempts_requeue_images_that_were_given_up(lite: World) -> None:
    lite.serve(failing=portrait(1), spoiled=b"<html>", none=png(picture([], 1)))
    lite.server.statuses["failing"] = 500
    lite.list({"p": ["failing", "spoiled", "none"]})
    lite.limits = replace(QUICK, max_attempts=1)
    report = lite.collect()
    assert (report.failed, report.rejected) == ({"timeout": 1}, {"html": 1, "no_face": 1})
    for _ in range(5):
        lite.now += timedelta(days=1000)
        assert lite.collect().processed == 2
    lite.now += timedelta(days=1000)
    assert lite.collect().processed == 0
    lite.limits = replace(QUICK, max_attempts=9)
    report = lite.collect()
    assert (report.reopened.more_attempts, report.failed) == (2, {"timeout": 1, "html": 1})
    assert {image.attempts for image in lite.images().values() if image.state == "failed"} == {7}
    assert lite.collect().reopened.images == 0, "they wait for their time"


@pytest.mark.slow
def test_spoiled_bytes_that_recover_are_used(lite: World) -> None:
    lite.serve(a=b"<html>")
    lite.list({"p": ["a"]})
    lite.collect()
    lite.serve(a=portrait(1))
    lite.now += timedelta(hours=1)
    assert lite.collect().done == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "outcome"), [(429, Outcome.RATE_LIMITED), (403, Outcome.BLOCKED), (503, Outcome.TIMEOUT)]
)
def test_a_run_ends_when_its_source_gives_no_answers(lite: World, status: int, outcome: Outcome) -> None:
    portraits(lite, {f"p{i:02}": [f"i{i:02}"] for i in range(60)})
    lite.server.statuses["*"] = status
    report = lite.collect()
    assert report.outcome is outcome
    assert "boxed" in (report.message or "")
    assert not report.interrupted
    asked = {image for image, requests in lite.server.requests.items() if requests}
    assert sum(lite.server.requests.values()) <= 12
    failed = {name for name, image in lite.images().items() if image.state == "failed"}
    assert all(image.attempts == (name in failed) for name, image in lite.images().items())
    assert failed, "it counts for the image"
    # A rate limit ends the run at once: requests under way are broken off and have no answer.
    assert failed == asked if status != 429 else failed <= asked
    lite.server.statuses.clear()
    lite.now += timedelta(days=1)
    assert lite.collect().done == 60


@pytest.mark.slow
def test_faces_that_were_fetched_before_a_source_blocks_are_kept(lite: World) -> None:
    portraits(lite, {f"p{i:02}": [f"i{i:02}"] for i in range(40)})
    lite.limits = replace(QUICK, fetches=1)
    lite.server.statuses |= {f"i{i}": 403 for i in range(20, 40)}
    request, asked = image_request, 0

    def refuse_from_now_on(url: str) -> tuple[str, Mapping[str, str]]:
        nonlocal asked
        asked += 1
        if asked > 20:
            lite.server.statuses["*"] = 403
            lite.server.statuses |= {f"i{i:02}": 403 for i in range(20)}
        return request(url)

    report = lite.collect(request=refuse_from_now_on)
    assert report.outcome is Outcome.BLOCKED
    assert report.done == len(lite.rows(faces)) == 20
    states = Counter(state for state, _ in lite.states().values())
    assert states == {"done": 20, "failed": 6, "pending": 14}


@pytest.mark.slow
def test_an_unreachable_server_ends_the_run(lite: World) -> None:
    portraits(lite, {f"p{i}": [f"i{i}"] for i in range(30)})
    closed = box(lite.server)
    lite.server.port, port = 1, lite.server.port
    with writing(lite.catalog) as connection:
        connection.execute(sa.update(source_images).values(url="http://127.0.0.1:1/images/x"))
    lite.source = closed
    report = lite.collect()
    lite.server.port = port
    assert report.outcome is Outcome.TIMEOUT
    assert {image.attempts for image in lite.images().values()} == {1}, "they have one address"


@pytest.mark.slow
def test_one_forbidden_image_does_not_end_the_run(lite: World) -> None:
    portraits(lite, {"p": ["a", "b", "c", "d"]})
    lite.server.statuses["b"] = 403
    lite.limits = replace(QUICK, fetches=1)
    report = lite.collect()
    assert report.outcome is None
    assert (report.done, report.failed) == (3, {"blocked": 1})


async def judged(detections: list[int], images: int) -> None:
    """Returns when the detector has begun with so many images: the first ones have their verdicts."""
    while len(detections) < images:
        await asyncio.sleep(0.01)


async def asked_for(server: ImageServer, images: int) -> None:
    """Returns when the server has had so many requests."""
    while sum(server.requests.values()) < images:
        await asyncio.sleep(0.01)


@pytest.mark.slow
def test_a_file_that_is_too_long_is_not_read_to_its_end(lite: World) -> None:
    portraits(lite, {"p": ["a", "b"]})
    lite.server.bodies["a"] += bytes(300_000)
    lite.limits = replace(QUICK, decode=DecodeLimits(max_bytes=300_000))
    report = lite.collect()
    assert (report.done, report.rejected) == (1, {"too_many_bytes": 1})
    lite.limits = QUICK
    report = lite.collect()
    assert (report.reopened.looser_rules, report.done) == (1, 1)


class Terminated(BaseException):
    """What a handler of SIGTERM raises, as Dagster's does."""


@pytest.mark.slow
def test_a_signal_that_interrupts_stores_what_has_a_verdict(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    detections = count_detections(monkeypatch)
    portraits(lite, {f"p{i:03}": [f"i{i:03}"] for i in range(80)})
    lite.server.latency = 0.02
    lite.limits = replace(QUICK, batch_seconds=60.0, batch_size=1000)

    def handle(*_: object) -> None:
        raise Terminated

    async def go() -> None:
        async def watch() -> None:
            await judged(detections, 20)
            os.kill(os.getpid(), signal.SIGTERM)

        watcher = asyncio.create_task(watch())
        await lite.collecting()
        await watcher

    before = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(Terminated):
            asyncio.run(go())
    finally:
        signal.signal(signal.SIGTERM, before)
    stored = len(lite.rows(faces))
    assert stored > 0
    lite.limits = QUICK
    assert lite.collect().done == 80 - stored


@pytest.mark.slow
def test_a_stopped_run_stores_every_image_that_it_fetched(lite: World) -> None:
    portraits(lite, {f"p{i:03}": [f"i{i:03}"] for i in range(80)})
    lite.server.latency = 0.02

    async def go() -> CollectReport:
        stop = asyncio.Event()
        task = asyncio.create_task(lite.collecting(stop=stop))
        await asked_for(lite.server, 40)
        stop.set()
        return await task

    report = asyncio.run(go())
    assert report.interrupted
    assert report.outcome is None
    assert 0 < report.done < 80
    assert len(lite.rows(faces)) == report.done == report.fetched
    rest = lite.collect()
    assert report.done + rest.done == 80
    assert sum(lite.server.requests.values()) <= 80 + QUICK.fetches


@pytest.mark.slow
def test_cancelling_stores_what_has_a_verdict(lite: World, monkeypatch: pytest.MonkeyPatch) -> None:
    detections = count_detections(monkeypatch)
    portraits(lite, {f"p{i:03}": [f"i{i:03}"] for i in range(80)})
    lite.server.latency = 0.02
    lite.limits = replace(QUICK, batch_seconds=60.0, batch_size=1000)

    async def go() -> None:
        task = asyncio.create_task(lite.collecting())
        await judged(detections, 20)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(go())
    stored = len(lite.rows(faces))
    assert stored > 0, "nothing was committed before, so the drain did it"
    lite.limits = QUICK
    assert lite.collect().done == 80 - stored


@pytest.mark.slow
def test_an_image_that_the_source_withdrew_meanwhile_is_not_stored(lite: World) -> None:
    portraits(lite, {"p": ["a", "b"]})

    def withdraw() -> None:
        with writing(lite.catalog) as connection:
            connection.execute(sa.delete(source_images).where(source_images.c.image_id == "a"))

    collect_while(lite, withdraw)
    assert [face.image_id for face in lite.rows(faces)] == ["b"]


@pytest.mark.slow
def test_looser_filters_requeue_the_images_that_they_may_accept(lite: World) -> None:
    lite.serve(small=png(picture([(5, 5, 0.95, 20)], 3)), none=png(picture([], 1)), good=portrait(9))
    lite.list({"p": ["small", "none", "good"]})
    lite.collect()
    lite.settings = GlobalSettings(quality_filters=QualityFilters(min_face_size=40))
    report = lite.collect()
    assert report.reopened.looser_rules == 1
    assert (report.done, report.fetched) == (1, 1)
    assert lite.collect().reopened.images == 0


@pytest.fixture(scope="module")
def other_embedders(tmp_path_factory: pytest.TempPathFactory, pack: ModelPack) -> ModelPack:
    """The same detector with other embedders."""
    directory = write_pack(tmp_path_factory.mktemp("other"), "other-pack", seed=50)
    other = load_pack(str(directory), Path("nowhere"))
    assert other.detector.digest == pack.detector.digest
    return other


@pytest.fixture(scope="module")
def other_detector(tmp_path_factory: pytest.TempPathFactory) -> ModelPack:
    directory = write_pack(tmp_path_factory.mktemp("random"), "another", seed=12, detector="random")
    return load_pack(str(directory), Path("nowhere"))


@pytest.mark.slow
def test_a_new_pack_reembeds_from_crops_and_requeues_images_without_one(
    world: World, other_embedders: ModelPack
) -> None:
    portraits(world, {"p": ["a", "b"]})
    world.collect()
    embed_waiting(world.catalog, "boxed", world.pack, EmbeddingRules(keep_crops=True))
    old = {(row.face_id, row.model): row.vector for row in world.rows(embeddings)}
    report = embed_waiting(world.catalog, "boxed", other_embedders)
    assert (report.embedded, report.re_embedded, report.crops_left) == (2, 2, 0)
    assert report.reopened.images == 0
    new = {(row.face_id, row.model): row for row in world.rows(embeddings)}
    assert new.keys() == old.keys()
    assert all(row.vector != old[key] for key, row in new.items())
    assert {row.pack for row in new.values()} == {"other-pack"}
    # Back again: the crops are gone by now.
    report = embed_waiting(world.catalog, "boxed", world.pack)
    assert (report.embedded, report.reopened.crop_dropped) == (0, 2)
    report_again = world.collect()
    assert (report_again.done, report_again.reopened.images) == (2, 0)
    report = embed_waiting(world.catalog, "boxed", world.pack)
    assert (report.embedded, report.re_embedded, report.reopened.images) == (2, 0, 0)
    assert sorted(row.vector for row in world.rows(embeddings)) == sorted(old.values())


@pytest.mark.slow
def test_collecting_requeues_for_its_pack_by_itself(world: World, other_embedders: ModelPack) -> None:
    portraits(world, {"p": ["a", "b"]})
    world.collect()
    embed_waiting(world.catalog, "boxed", world.pack)
    world.pack = other_embedders
    report = world.collect()
    assert report.reopened.crop_dropped == 2
    assert report.done == 2


@pytest.mark.slow
def test_another_detector_requeues_all_images(lite: World, other_detector: ModelPack) -> None:
    lite.serve(a=portrait(1), none=png(picture([], 2)), svg=b"<svg></svg>")
    lite.list({"p": ["a", "none", "svg"]})
    lite.collect()
    # Crops that the other detector cut are not embedded.
    embedding = embed_waiting(lite.catalog, "boxed", other_detector)
    assert (embedding.embedded, embedding.reopened.other_detector) == (0, 2)
    report = lite.collect()
    assert (report.fetched, report.done, report.rejected) == (2, 1, {"no_face": 1})
    assert len(lite.rows(faces)) == 1


@pytest.mark.slow
def test_a_catalog_that_cannot_be_written_gives_one_clear_line(lite: World) -> None:
    portraits(lite, {f"p{i}": [f"i{i}"] for i in range(40)})
    with lite.catalog.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def full(connection: Any, record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 25}")

    lite.catalog.dispose()
    sa.event.listen(lite.catalog, "connect", full)
    lite.limits = replace(QUICK, batch_size=4)
    with pytest.raises(CatalogError, match=r"cannot write to the catalog .*full") as caught:
        lite.collect()
    assert "\n" not in str(caught.value)
    sa.event.remove(lite.catalog, "connect", full)
    lite.catalog.dispose()
    stored = len(lite.rows(faces))
    assert stored == len(lite.rows(aligned_crops))
    assert stored == sum(state == "done" for state, _ in lite.states().values())
    assert lite.collect().done == 40 - stored


@pytest.mark.slow
def test_a_locked_catalog_gives_one_clear_line(lite: World, tmp_path: Path) -> None:
    portraits(lite, {"p": ["a"]})
    lite.catalog.dispose()
    sa.event.listen(
        lite.catalog, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=50")
    )
    other = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    with writing(other), pytest.raises(CatalogError, match=r"cannot write to the catalog .*locked"):
        lite.collect()
    other.dispose()
    assert lite.collect().done == 1


@pytest.mark.slow
def test_progress_reports_images_and_performers(lite: World) -> None:
    portraits(lite, {f"p{i}": [f"i{i}"] for i in range(5)})
    told: list[tuple[str, int, int | None, dict[str, int]]] = []
    lite.collect(progress=lambda stage, done, total, /, **counts: told.append((stage, done, total, counts)))
    assert told[-1] == ("performers", 5, 5, {"images": 5, "faces": 5, "failed": 0})
