"""Two packs in one catalog: each picture is fetched once for both, and neither pack's faces depend on the other's."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.embedding.crop_queue import leasing
from stash_sense_pipeline.catalog.queries.embedding.face_queue import FaceQueue
from stash_sense_pipeline.catalog.queries.face_templates import read_own_faces
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    embeddings,
    faces,
    second_verdicts,
    source_images,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.collect import CollectReport, collect_faces
from stash_sense_pipeline.faces.collection.image_refusals import FINAL_REFUSALS
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.faces.embed_waiting import embed_waiting, embed_waiting_of_second, embedding_backlog
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.faces.requeue import check_second_pack, load_second_pack, second_backlog
from stash_sense_pipeline.foundation.errors import ModelPackError
from stash_sense_pipeline.privacy.suppression.suppression_hashes import image_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    NO_SUPPRESSIONS,
    HashRow,
    load_suppressions,
    store_hashes,
)
from stash_sense_pipeline.sandbox.demo import DEMO_PACK, DEMO_SENSE2_PACK
from stash_sense_pipeline.sandbox.invented.rendered_person import HELD_OUT_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import render_portrait, render_scenery
from stash_sense_pipeline.settings.schema import GlobalSettings
from stash_sense_pipeline_tests.faces.picture_files import jpeg_file, png_file, saved
from stash_sense_pipeline_tests.faces.world import (
    ImageServer,
    box,
    image_request,
    list_performers,
    png,
    polite_client,
)

FIRST = load_pack(str(DEMO_PACK), Path("nowhere"))
SECOND = load_pack(str(DEMO_SENSE2_PACK), Path("nowhere"))
NONE = ("rejected", "no_face")


def portrait(seed: int, degrees: int = 0) -> bytes:
    image = Image.fromarray(render_portrait(make_person(HELD_OUT_SEEDS[seed]), seed, (400, 500), 10.0).image)
    return png(np.asarray(image.rotate(degrees, expand=True)))


# Name → bytes, the state for the first pack, and for the second.
PICTURES: dict[str, tuple[bytes, str, str]] = {
    "upright": (portrait(1), "done", "done"),
    "other": (portrait(2), "done", "done"),
    "turned": (portrait(5, 90), "rejected", "done"),
    "scenery": (png(render_scenery(4).image), "rejected", "rejected"),
}


@dataclass
class World:
    """A catalog and a server, to be collected from with one pack or with two."""

    catalog: sa.Engine
    server: ImageServer
    suppressions: Any = NO_SUPPRESSIONS
    now: datetime = datetime(2026, 3, 1, tzinfo=UTC)

    def collect(self, second: ModelPack | None = SECOND, first: ModelPack = FIRST) -> CollectReport:
        async def go() -> CollectReport:
            async with polite_client(self.server) as client:
                return await collect_faces(
                    self.catalog,
                    box(self.server),
                    first,
                    client,
                    image_request,
                    GlobalSettings(),
                    self.suppressions,
                    second=second,
                    limits=CollectLimits(batch_seconds=0.1),
                    now=lambda: self.now,
                )

        return asyncio.run(go())

    def embed(self) -> None:
        embed_waiting(self.catalog, "boxed", FIRST)
        embed_waiting_of_second(self.catalog, "boxed", SECOND)

    def rows(self, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
        chosen = [table.c[name] for name in columns] or [table]
        with reading(self.catalog) as connection:
            return [tuple(row) for row in connection.execute(sa.select(*chosen).order_by(*table.primary_key))]

    def states(self) -> dict[str, tuple[str, str | None]]:
        rows = self.rows(source_images, "image_id", "state", "reason")
        return {image_id: (state, reason) for image_id, state, reason in rows}

    def second_states(self) -> dict[str, str]:
        return dict(self.rows(second_verdicts, "image_id", "state"))

    def found(self) -> set[tuple[str, bool]]:
        return set(self.rows(faces, "image_id", "second"))

    def outcome(self) -> Any:
        """What both packs know of each image, without ids and times."""
        images = self.rows(
            source_images, "image_id", "state", "reason", "sha256", "picture_hash", "next_attempt_at"
        )
        marks = self.rows(faces, "image_id", "second", "detector_digest", "pack", "landmarks", "yaw", "roll")
        verdicts = self.rows(second_verdicts, "image_id", "state", "reason", "detector_digest", "judged_by")
        return images, sorted(marks), verdicts


def serve(world: World, names: Sequence[str] = tuple(PICTURES)) -> None:
    world.server.bodies.update({name: PICTURES[name][0] for name in names})
    list_performers(world.catalog, world.server, {f"of-{name}": [name] for name in names})


@pytest.fixture
def world(any_catalog: sa.Engine, server: ImageServer) -> World:
    made = World(any_catalog, server)
    serve(made)
    return made


@pytest.fixture
def lite(catalog: sa.Engine, server: ImageServer) -> World:
    made = World(catalog, server)
    serve(made)
    return made


def expected_faces() -> set[tuple[str, bool]]:
    return {
        (name, second)
        for name, (_, *states) in PICTURES.items()
        for second, state in enumerate(states)
        if state == "done"
    }


@pytest.mark.slow
def test_one_fetch_gives_the_faces_of_both_packs(world: World) -> None:
    report = world.collect()
    assert set(world.server.requests.values()) == {1}
    assert {name: state for name, (state, _) in world.states().items()} == {
        name: first for name, (_, first, _) in PICTURES.items()
    }
    assert world.second_states() == {name: second for name, (_, _, second) in PICTURES.items()}
    assert world.found() == expected_faces()
    assert (report.faces, report.second_faces, report.second_looks, report.processed) == (2, 3, 0, 4)
    detectors = dict(world.rows(faces, "second", "detector_digest"))
    assert detectors == {False: FIRST.detector.finding_digest, True: SECOND.detector.finding_digest}
    again = world.collect()
    assert (again.fetched, again.reopened.images) == (0, 0)


@pytest.mark.slow
def test_the_first_pack_s_faces_are_those_of_a_run_without_a_second(
    world: World, tmp_path: Path, server: ImageServer
) -> None:
    world.collect(second=None)
    columns = ("image_id", "landmarks", "detector_digest", "quality", "second")
    alone = sorted(world.rows(faces, *columns))
    crops = world.rows(aligned_crops, "png")
    with writing(world.catalog) as connection:
        connection.execute(sa.delete(faces))
        connection.execute(sa.update(source_images).values(state="pending", sha256=None))
    world.collect()
    both = sorted(world.rows(faces, *columns))
    assert [row for row in both if not row[-1]] == alone
    assert set(crops) <= set(world.rows(aligned_crops, "png"))


@pytest.mark.slow
def test_a_second_pack_that_is_added_later_looks_once_more_and_touches_no_face_of_the_first(
    world: World,
) -> None:
    world.collect(second=None)
    embed_waiting(world.catalog, "boxed", FIRST)
    before = {table: world.rows(table) for table in (faces, embeddings)}
    images = world.rows(source_images, "image_id", "state", "reason", "sha256", "processed_at", "judged_by")
    with reading(world.catalog) as connection:
        assert second_backlog(connection, SECOND) == {"boxed": 4}
    report = world.collect()
    assert (report.reopened.second_pack, report.second_looks, report.second_faces) == (4, 4, 3)
    assert (report.faces, report.rejected, report.failed) == (0, {}, {})
    assert set(world.server.requests.values()) == {2}
    for table, rows in before.items():
        assert [row for row in world.rows(table) if row in rows] == rows
    assert images == world.rows(
        source_images, "image_id", "state", "reason", "sha256", "processed_at", "judged_by"
    )
    assert world.found() == expected_faces()
    assert world.collect().fetched == 0
    with reading(world.catalog) as connection:
        assert second_backlog(connection, SECOND) == {}


@pytest.mark.slow
@pytest.mark.parametrize("answer", [404, 410, 403, 500, b"<html>down", b"", PICTURES["upright"][0][:900]])
def test_a_failed_second_look_changes_nothing_and_is_given_up_at_last(
    lite: World, answer: int | bytes
) -> None:
    lite.collect(second=None)
    lite.embed()
    before = lite.rows(faces)
    if isinstance(answer, int):
        lite.server.statuses["upright"] = answer
    else:
        lite.server.bodies["upright"] = answer
    for _ in range(FINAL_REFUSALS + 6):
        lite.collect()
        state = lite.states()["upright"]
        assert state == ("done", None)
        assert [row for row in lite.rows(faces) if row in before] == before
        lite.now += timedelta(days=100)
    assert lite.second_states()["upright"] == "rejected"
    asked = lite.server.requests["upright"]
    lite.collect()
    assert lite.server.requests["upright"] == asked


@pytest.mark.slow
def test_other_bytes_at_the_second_look_are_judged_by_both_packs(lite: World) -> None:
    lite.collect(second=None)
    lite.server.bodies["upright"] = portrait(7)
    lite.server.bodies["other"] = PICTURES["scenery"][0]
    lite.collect()
    assert lite.states()["other"] == NONE
    assert lite.second_states()["other"] == "rejected"
    assert {("upright", False), ("upright", True)} <= lite.found()
    assert not {("other", False), ("other", True)} & lite.found()


@pytest.mark.slow
def test_without_a_second_pack_no_look_stays_due_and_its_faces_stay(lite: World) -> None:
    lite.collect(second=None)
    lite.server.statuses["*"] = 500
    lite.collect()
    lite.server.statuses.clear()
    lite.now += timedelta(days=30)
    assert lite.collect(second=None).fetched == 0
    assert {row[0] for row in lite.rows(source_images, "next_attempt_at")} == {None}
    lite.collect()
    assert lite.found() == expected_faces()
    lite.collect(second=None)
    assert lite.found() == expected_faces()


@pytest.mark.slow
def test_equal_bytes_are_searched_once_for_both_packs(lite: World) -> None:
    lite.collect()
    lite.embed()
    list_performers(lite.catalog, lite.server, {"copy": ["copy-upright"], "third": ["copy-turned"]})
    lite.server.bodies |= {"copy-upright": PICTURES["upright"][0], "copy-turned": PICTURES["turned"][0]}
    report = lite.collect()
    assert (report.reused, report.second_faces) == (2, 2)
    assert {("copy-upright", False), ("copy-upright", True), ("copy-turned", True)} <= lite.found()
    assert embedding_backlog(lite.catalog, "boxed", FIRST, SECOND) == 0
    with reading(lite.catalog) as connection:
        without = (
            sa.select(sa.func.count())
            .select_from(faces)
            .where(~sa.exists().where(embeddings.c.face_id == faces.c.face_id))
        )
        assert connection.scalar(without) == 0


@pytest.mark.slow
def test_one_address_of_several_images_is_fetched_once_for_both_packs(lite: World) -> None:
    for name in ("turned", "upright", "scenery"):
        url = lite.server.url(name)
        list_performers(lite.catalog, lite.server, {f"{name}-{n}": [f"{name}-{n}"] for n in range(3)})
        with writing(lite.catalog) as connection:
            connection.execute(
                sa.update(source_images)
                .where(source_images.c.image_id.startswith(f"{name}-"))
                .values(url=url)
            )
    lite.collect(second=None)
    lite.collect()
    states = lite.second_states()
    for name in ("turned", "upright", "scenery"):
        assert {states[f"{name}-{n}"] for n in range(3)} == {PICTURES[name][2]}
        assert {lite.states()[f"{name}-{n}"][0] for n in range(3)} == {PICTURES[name][1]}
    assert max(lite.server.requests.values()) <= 3


@pytest.mark.slow
def test_both_queues_are_embedded_with_the_networks_of_their_packs(world: World) -> None:
    world.collect()
    assert embedding_backlog(world.catalog, "boxed", FIRST) == 2
    assert embedding_backlog(world.catalog, "boxed", FIRST, SECOND) == 5
    world.embed()
    query = sa.select(faces.c.second, embeddings.c.model, embeddings.c.pack, sa.func.count()).join(
        embeddings, embeddings.c.face_id == faces.c.face_id
    )
    with reading(world.catalog) as connection:
        rows = {
            tuple(row)
            for row in connection.execute(query.group_by(faces.c.second, "model", embeddings.c.pack))
        }
    assert rows == {
        (False, "arcface", FIRST.name, 2),
        (False, "facenet", FIRST.name, 2),
        (True, "w600k", SECOND.name, 3),
    }
    assert world.rows(aligned_crops) == []


@pytest.mark.slow
def test_another_embedder_of_the_second_pack_looks_again_where_the_crop_is_gone(lite: World) -> None:
    lite.collect()
    lite.embed()
    ((name, spec),) = SECOND.embedders.items()
    other = replace(SECOND, embedders={name: replace(spec, digest="e" * 64)})
    report = lite.collect(second=other)
    assert report.reopened.second_pack == 3
    assert lite.found() == expected_faces()
    assert embedding_backlog(lite.catalog, "boxed", FIRST) == 0
    assert len(lite.rows(aligned_crops)) == 3


@pytest.mark.slow
def test_packs_that_change_places_replace_each_other_s_faces(lite: World) -> None:
    lite.collect()
    lite.collect(first=SECOND, second=FIRST)
    detectors = dict(lite.rows(faces, "second", "detector_digest"))
    assert detectors == {False: SECOND.detector.finding_digest, True: FIRST.detector.finding_digest}
    assert {(name, not second) for name, second in lite.found()} == expected_faces()


@pytest.mark.slow
def test_a_picture_that_is_suppressed_before_the_second_look_loses_the_faces_of_both(lite: World) -> None:
    key = b"k" * 32
    lite.collect()
    digest = {row[0]: row[1] for row in lite.rows(source_images, "image_id", "sha256")}["upright"]
    with writing(lite.catalog) as connection:
        store_hashes(connection, key, [HashRow("image", image_hash(key, digest), "asked", lite.now)])
        connection.execute(sa.delete(second_verdicts))
    lite.suppressions = load_suppressions(lite.catalog, key)
    lite.collect()
    assert lite.states()["upright"] == ("rejected", "suppressed")
    assert not {("upright", False), ("upright", True)} & lite.found()
    assert "upright" not in lite.second_states()


@pytest.mark.slow
def test_a_template_reads_only_the_first_pack_s_faces(lite: World) -> None:
    lite.collect()
    lite.embed()
    with reading(lite.catalog) as connection:
        own = read_own_faces(connection, FIRST.digests)
        of_second = read_own_faces(connection, SECOND.digests)
    assert sorted(face.image_id for face in own) == ["other", "upright"]
    assert of_second == []


def test_packs_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelPackError, match="one detector in one way"):
        check_second_pack(FIRST, replace(SECOND, detector=FIRST.detector))
    with pytest.raises(ModelPackError, match=f"two packs have the name {FIRST.name}"):
        check_second_pack(FIRST, replace(SECOND, name=FIRST.name))
    assert load_second_pack("", tmp_path, FIRST) is None
    with pytest.raises(ModelPackError, match="models pull sense2"):
        load_second_pack("sense2", tmp_path, FIRST)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_as_one_run_with_both_packs(
    catalog: sa.Engine, server: ImageServer, tmp_path: Path, seed: int
) -> None:
    """Random orders of packs, failures, other pictures and embeddings; then everything works."""
    rng = random.Random(seed)
    world = World(catalog, server)
    serve(world)
    second: ModelPack | None
    for _ in range(6):
        world.server.statuses = {name: rng.choice([404, 500]) for name in PICTURES if rng.random() < 0.4}
        for name in PICTURES:
            if rng.random() < 0.3:
                world.server.bodies[name] = PICTURES[rng.choice(list(PICTURES))][0]
        second = rng.choice([None, SECOND])
        world.collect(second=second)
        if rng.random() < 0.5:
            world.embed()
        world.now += timedelta(days=rng.choice([0, 1, 10]))
    server.statuses = {}
    server.bodies.update({name: PICTURES[name][0] for name in PICTURES})
    # The images are pending again, as another detector or looser limits would make them.
    with writing(catalog) as connection:
        connection.execute(sa.update(source_images).values(state="pending", attempts=0, next_attempt_at=None))
    world.collect()
    history = world.outcome()
    with writing(catalog) as connection:
        connection.execute(sa.delete(source_images))
    serve(world)
    world.collect()
    assert history == world.outcome()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


BAD: Mapping[str, tuple[bytes, str, str | None]] = {
    "corrupt": (PICTURES["upright"][0][:700], "failed", None),
    "noise": (bytes(random.Random(1).randbytes(5000)), "failed", None),
    "huge": (saved(Image.new("1", (8000, 6400)), format="PNG"), "rejected", None),
    "large": (saved(Image.new("RGB", (4600, 4600)), format="PNG"), "rejected", "rejected"),
    "tiny": (saved(Image.new("RGB", (1, 1)), format="PNG"), "rejected", None),
    "strip": (saved(Image.new("RGB", (300, 12000)), format="PNG"), "rejected", "rejected"),
    "grey": (png_file(opened(portrait(1)), "L"), "done", "done"),
    "alpha": (png_file(opened(portrait(1)), "RGBA"), "done", "done"),
    "exif": (jpeg_file(opened(portrait(1)), "RGB", orientation=6), "done", "done"),
    "animated": (
        saved(
            opened(portrait(1)),
            format="WEBP",
            lossless=True,
            save_all=True,
            append_images=[Image.new("RGB", (400, 500))],
        ),
        "done",
        "done",
    ),
}


@pytest.mark.slow
def test_each_kind_of_bad_file_has_its_outcome_for_both_packs(
    catalog: sa.Engine, server: ImageServer
) -> None:
    world = World(catalog, server)
    world.server.bodies = {name: body for name, (body, _, _) in BAD.items()}
    list_performers(catalog, server, {f"of-{name}": [name] for name in BAD})
    world.collect()
    assert {name: state for name, (state, _) in world.states().items()} == {
        name: first for name, (_, first, _) in BAD.items()
    }
    assert world.second_states() == {
        name: second for name, (_, _, second) in BAD.items() if second is not None
    }
    roll = {row[0]: row[1] for row in world.rows(faces, "image_id", "roll")}
    assert abs(roll["exif"]) < 20, "turned upright by EXIF before anything is searched"


@pytest.mark.slow
@pytest.mark.postgres
def test_a_worker_leases_the_faces_of_its_pack_only(postgres_catalog_url: str, server: ImageServer) -> None:
    engine = open_catalog(postgres_catalog_url)
    world = World(engine, server)
    serve(world)
    world.collect()
    queues = {
        pack.name: FaceQueue("boxed", pack.detector.finding_digest, pack.digests) for pack in (FIRST, SECOND)
    }
    of_pack = dict(world.rows(faces, "face_id", "pack"))
    with leasing(engine) as one, leasing(engine) as other:
        for session, name in ((one, FIRST.name), (other, SECOND.name)):
            leased, ids = queues[name].lease(session, 0, 9)
            assert ids == [face_id for face_id, pack in of_pack.items() if pack == name]
            assert {missing for face in leased for missing in face.missing} == set(queues[name].digests)
        with leasing(engine) as third:
            assert queues[SECOND.name].lease(third, 0, 9) == ([], [])
    world.embed()
    assert embedding_backlog(engine, "boxed", FIRST, SECOND) == 0
    engine.dispose()
