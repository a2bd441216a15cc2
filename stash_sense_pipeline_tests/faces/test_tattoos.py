"""Tattoos: found, cropped and embedded as the sidecar does; stored with a face; bad input costs one picture at most."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from numpy.typing import NDArray
from PIL import Image

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.embedding.crop_queue import leasing
from stash_sense_pipeline.catalog.queries.embedding.tattoo_queue import TattooQueue
from stash_sense_pipeline.catalog.queries.faces import StoredFace
from stash_sense_pipeline.catalog.queries.tattoos.released import (
    searched_people,
    tattoo_vectors,
    tattoos_of_trusted_faces,
)
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels, TattooScan
from stash_sense_pipeline.catalog.queries.tattoos.unsearched import count_unsearched
from stash_sense_pipeline.catalog.schema import (
    faces,
    identities,
    tattoo_crops,
    tattoo_detections,
    tattoo_embeddings,
    tattoo_scans,
    trusted_faces,
)
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.collection.run_context import RunThreads
from stash_sense_pipeline.faces.crop_embedding import EmbeddingControl, EmbeddingRules
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits, decode_image
from stash_sense_pipeline.faces.extraction.extract_face import ExtractedFace
from stash_sense_pipeline.faces.models.embedder import EmbeddingError
from stash_sense_pipeline.faces.models.model_packs import ModelPack, TattooDetectorSpec, load_pack
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.faces.models.tattoo_detector import (
    MOST_TATTOOS,
    NMS_THRESHOLD,
    TattooDetector,
    TattooRegion,
)
from stash_sense_pipeline.faces.models.tattoo_embedder import TattooEmbedder
from stash_sense_pipeline.faces.tattoos import search
from stash_sense_pipeline.faces.tattoos.crop import cut_out
from stash_sense_pipeline.faces.tattoos.embed_waiting import embed_waiting_tattoos, tattoo_backlog
from stash_sense_pipeline.faces.tattoos.search import TattooSearch
from stash_sense_pipeline.foundation.errors import DeviceError, ModelPackError
from stash_sense_pipeline.settings.schema import GlobalSettings
from stash_sense_pipeline_tests.faces import tattoo_reference as reference
from stash_sense_pipeline_tests.faces.databases import by_database
from stash_sense_pipeline_tests.faces.nets import (
    describe_pack,
    pack_with_tattoos,
    picture,
    tattooed,
    with_tattoos,
    write_pack,
    yolo_of,
)
from stash_sense_pipeline_tests.faces.test_collect import GOOD, World
from stash_sense_pipeline_tests.faces.world import ImageServer, box, png


@pytest.fixture
def world(any_catalog: sa.Engine, server: ImageServer, tattoo_pack: ModelPack) -> World:
    return World(any_catalog, server, tattoo_pack, box(server), GlobalSettings())


@pytest.fixture
def lite(catalog: sa.Engine, server: ImageServer, tattoo_pack: ModelPack) -> World:
    return World(catalog, server, tattoo_pack, box(server), GlobalSettings())


def portrait(seed: int, *cells: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture with one good face, and a tattoo in each of the cells (column, row)."""
    image = picture(GOOD, seed)
    for column, row in cells:
        tattooed(image, column, row)
    return image


def fill(world: World) -> None:
    """Three people: with two tattoos, with none, and in a picture with another person."""
    world.source = world.source.model_copy(update={"trust_level": "medium"})
    several = tattooed(picture([(3, 3, 0.95, 120), (14, 14, 0.95, 20)], 3), 10, 10)
    world.serve(a=png(portrait(1, (12, 4), (2, 15))), b=png(portrait(2)), c=png(several))
    world.list({"p": ["a"], "q": ["b"], "r": ["c"]})


def regions(detector: TattooDetector, image: NDArray[np.uint8]) -> list[tuple[float, ...]]:
    return [(one.x, one.y, one.width, one.height, one.confidence) for one in detector.detect(image)]


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [(640, 640), (500, 400), (480, 1000), (1300, 700), (301, 301), (200, 1500)])
def test_boxes_crops_and_vectors_are_those_of_the_contract(
    size: tuple[int, int], tattoo_pack: ModelPack
) -> None:
    assert tattoo_pack.tattoo is not None
    rng = np.random.default_rng(size[0])
    image = rng.integers(0, 256, (size[0] // 20 + 1, size[1] // 20 + 1, 3), dtype=np.uint8)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        x, y = rng.integers(0, size[1] - 160), rng.integers(0, size[0] - 160)
        image[y : y + 160, x : x + 160] = (10, 90, 250)
    networks = tattoo_pack.tattoo
    found = TattooDetector(networks.detector).detect(image)
    expected = reference.detect(networks.detector.path, image)
    assert len(found) == min(len(expected), MOST_TATTOOS) > 0
    with TattooEmbedder(networks.embedder) as embedder:
        for region, box_ in zip(found, expected, strict=False):
            mine = (region.x, region.y, region.width, region.height, region.confidence)
            assert mine == pytest.approx(box_, abs=1e-6)
            assert region.location_hint == reference.hint(box_)
            crop = cut_out(image, region)
            assert crop is not None
            vector = embedder.vectors(crop[None])[0]
            assert float(vector @ reference.embed(networks.embedder.path, image, box_)) >= 0.9999
            assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_overlapping_boxes_and_weak_ones_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = np.concatenate(
        [rng.uniform(0, 640, (3000, 2)), rng.uniform(5, 200, (3000, 2)), rng.uniform(0, 1, (3000, 2))], axis=1
    ).astype(np.float32)
    rows[0] = (320, 320, 100, 100, 0.5, 0.5)  # exactly the threshold
    path = tmp_path / "many.onnx"
    yolo_of(path, rows)
    found = TattooDetector(TattooDetectorSpec(path, "d", 640)).detect(np.zeros((640, 640, 3), np.uint8))
    expected = reference.detect(path, np.zeros((640, 640, 3), np.uint8))
    assert len(expected) > MOST_TATTOOS == len(found)
    for region, box_ in zip(found, expected, strict=False):
        assert (region.x, region.y, region.width, region.height, region.confidence) == pytest.approx(
            box_, abs=1e-6
        )
    assert NMS_THRESHOLD == 0.45


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.1, 0.1, "left upper body"),
        (0.5, 0.1, "upper body"),
        (0.9, 0.1, "right upper body"),
        (0.1, 0.5, "left side"),
        (0.5, 0.5, "torso"),
        (0.9, 0.5, "right side"),
        (0.1, 0.9, "left lower body"),
        (0.5, 0.9, "lower body"),
        (0.9, 0.9, "right lower body"),
    ],
)
def test_the_place_is_said_in_the_words_of_the_sidecar(x: float, y: float, words: str) -> None:
    assert TattooRegion(x - 0.05, y - 0.05, 0.1, 0.1, 0.9).location_hint == words


# --- bad input --------------------------------------------------------------------------------------------------------

ODD_ROWS = {
    "not a number": (np.nan, 320, 50, 50, 0.9, 0.9),
    "infinite": (320, 320, np.inf, 50, 0.9, 0.9),
    "far outside": (5000, 5000, 50, 50, 0.9, 0.9),
    "negative sides": (320, 320, -50, -50, 0.9, 0.9),
    "no area": (320, 320, 0, 0, 0.9, 0.9),
    "huge": (320, 320, 1e30, 1e30, 0.9, 0.9),
    "score not a number": (320, 320, 50, 50, np.nan, 0.9),
    "score above one": (320, 320, 50, 50, 30.0, 30.0),
    "a strip": (320, 320, 640, 0.9, 0.9, 0.9),
    "less than a pixel": (320.2, 320.2, 0.01, 0.01, 0.9, 0.9),
}


@pytest.mark.parametrize("odd", ODD_ROWS)
@pytest.mark.parametrize("size", [(640, 640), (300, 900), (1, 1), (2, 3000)])
def test_an_odd_row_of_the_network_gives_a_sound_tattoo_or_none(
    odd: str, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "odd.onnx"
    yolo_of(path, np.array([ODD_ROWS[odd], (320, 320, 200, 200, 0.8, 0.8)], np.float32))
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    for region in TattooDetector(TattooDetectorSpec(path, "d", 640)).detect(image):
        assert 0 <= region.x < region.x + region.width <= 1 + 1e-9
        assert 0 <= region.y < region.y + region.height <= 1 + 1e-9
        assert 0.25 <= region.confidence <= 1
        crop = cut_out(image, region)
        assert crop is None or crop.shape == (224, 224, 3)


@pytest.mark.slow
def test_thousands_of_boxes_take_little_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = np.concatenate(
        [rng.uniform(0, 640, (25_200, 2)), np.full((25_200, 2), 4.0), np.ones((25_200, 2))], axis=1
    )
    path = tmp_path / "many.onnx"
    yolo_of(path, rows.astype(np.float32))
    assert len(regions(TattooDetector(TattooDetectorSpec(path, "d", 640)), portrait(1))) == MOST_TATTOOS


def test_a_network_without_a_finite_number_or_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    broken = pack_with_tattoos(tmp_path / "nan", broken="nan_boxes")
    assert broken.tattoo is not None
    with pytest.raises(ModelPackError, match="no finite number") as error:
        TattooDetector(broken.tattoo.detector).detect(portrait(1))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelPackError, match="takes the shape"):
        TattooDetector(TattooDetectorSpec(broken.tattoo.embedder.path, "d", 640))
    with pytest.raises(ModelPackError, match="is not a YOLOv5"):
        TattooDetector(replace(broken.tattoo.detector, path=broken.detector.path)).detect(portrait(1))
    with pytest.raises(ModelPackError, match="but pack"):
        TattooEmbedder(replace(broken.tattoo.embedder, dim=512))


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["zero", "nan"])
def test_vectors_that_are_zero_or_not_finite_are_not_stored(broken: str, tmp_path: Path, lite: World) -> None:
    lite.pack = pack_with_tattoos(tmp_path, broken=broken)
    fill(lite)
    lite.collect()
    with pytest.raises(EmbeddingError, match="zero or not finite"):
        embed_waiting_tattoos(lite.catalog, "boxed", lite.pack, EmbeddingRules())
    assert lite.rows(tattoo_embeddings) == []
    assert len(lite.rows(tattoo_crops)) == 2


def files() -> dict[str, bytes]:
    """One good picture in several forms, and damaged ones."""
    image = Image.fromarray(portrait(1, (12, 4)))
    grey = portrait(1)
    buffers = {}
    for name, shown, options in (
        ("png", image, {"format": "PNG"}),
        ("alpha", image.convert("RGBA"), {"format": "PNG"}),
        ("webp", image, {"format": "WEBP", "lossless": True}),
        ("animated", image, {"format": "WEBP", "lossless": True, "save_all": True, "append_images": [image]}),
        ("grey", Image.fromarray(grey).convert("L"), {"format": "PNG"}),
    ):
        buffer = io.BytesIO()
        shown.save(buffer, **options)
        buffers[name] = buffer.getvalue()
    return {**buffers, "cut": buffers["png"][: len(buffers["png"]) // 2], "text": b"no picture", "none": b""}


@pytest.mark.slow
def test_files_of_all_kinds_end_in_a_verdict_and_only_sound_ones_give_tattoos(lite: World) -> None:
    bodies = files()
    lite.serve(**bodies)
    lite.list({f"p-{name}": [name] for name in bodies})
    lite.collect()
    found = {row.image_id: row.face_id for row in lite.rows(faces)}
    assert set(found) == {"png", "alpha", "webp", "animated"}
    searched = {row.face_id: row.tattoos for row in lite.rows(tattoo_scans)}
    assert {name: searched[face_id] for name, face_id in found.items()} == dict.fromkeys(found, 1)


# --- storing ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_picture_with_one_face_is_searched_and_others_are_noted_as_not_searched(world: World) -> None:
    fill(world)
    world.collect()
    by_image = {row.face_id: row.image_id for row in world.rows(faces)}
    scans = {by_image[row.face_id]: row for row in world.rows(tattoo_scans)}
    assert {image: scan.tattoos for image, scan in scans.items()} == {"a": 2, "b": 0, "c": None}
    assert world.pack.tattoo is not None
    assert {scan.detector_digest for scan in scans.values()} == {world.pack.tattoo.detector.digest}
    assert {scan.scanned_at for scan in scans.values()} == {world.now}
    found = world.rows(tattoo_detections)
    assert [(by_image[row.face_id], row.tattoo_index) for row in found] == [("a", 0), ("a", 1)]
    assert {row.location_hint for row in found} == {"right upper body", "left lower body"}
    image = decode_image(world.server.bodies["a"], DecodeLimits()).rgb
    expected = reference.detect(world.pack.tattoo.detector.path, image)
    for row, box_ in zip(found, expected, strict=True):
        assert (row.x, row.y, row.width, row.height, row.confidence) == pytest.approx(box_, abs=1e-6)
    report = embed_waiting_tattoos(world.catalog, "boxed", world.pack, EmbeddingRules(batch_size=1))
    assert (report.embedded, report.re_embedded, report.crops_left) == (2, 0, 0)
    for row, box_ in zip(world.rows(tattoo_embeddings), expected, strict=True):
        vector = np.frombuffer(row.vector, "<f4")
        assert float(vector @ reference.embed(world.pack.tattoo.embedder.path, image, box_)) >= 0.9999
        assert (row.pack, row.model_digest) == (world.pack.name, world.pack.tattoo.embedder.digest)


@pytest.mark.slow
def test_without_the_setting_no_picture_is_searched(world: World) -> None:
    world.pack = world.pack.for_tattoos(False)
    fill(world)
    world.collect()
    assert len(world.rows(faces)) == 3
    assert world.rows(tattoo_scans) == []
    assert tattoo_backlog(world.catalog, "boxed", world.pack) == 0


@pytest.mark.slow
def test_equal_bytes_share_their_tattoos_with_crop_or_vector(world: World) -> None:
    world.serve(a=png(portrait(1, (12, 4))))
    world.list({"p": ["a"]})
    world.collect()
    world.serve(b=world.server.bodies["a"])
    world.list({"q": ["b"]})
    assert world.collect().reused == 1
    assert len(world.rows(tattoo_crops)) == 2
    embed_waiting_tattoos(world.catalog, "boxed", world.pack, EmbeddingRules())
    world.serve(c=world.server.bodies["a"])
    world.list({"r": ["c"]})
    assert world.collect().reused == 1
    assert world.rows(tattoo_crops) == []
    vectors = world.rows(tattoo_embeddings)
    assert len(vectors) == len(world.rows(tattoo_detections)) == 3
    assert len({row.vector for row in vectors}) == 1


@pytest.mark.slow
def test_a_face_that_goes_takes_its_tattoos_along(world: World) -> None:
    fill(world)
    world.collect()
    embed_waiting_tattoos(world.catalog, "boxed", world.pack, EmbeddingRules(keep_crops=True))
    with world.catalog.begin() as connection:
        connection.execute(sa.delete(faces))
    for table in (tattoo_scans, tattoo_detections, tattoo_crops, tattoo_embeddings):
        assert world.rows(table) == [], table.name


# --- beside the collection ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pictures_are_fetched_and_faces_are_found_while_pictures_wait_for_the_search(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.serve(**{f"i{number}": png(portrait(number, (12, 4))) for number in range(12)})
    lite.list({f"p{number}": [f"i{number}"] for number in range(12)})
    search_now = search.TattooSearch.__call__
    judged: list[ExtractedFace] = []
    without_search = search.TattooSearch.without_search

    def noted(self: TattooSearch, found: ExtractedFace) -> TattooScan | None:
        judged.append(found)
        return without_search(self, found)

    def late(self: TattooSearch, rgb: NDArray[np.uint8]) -> TattooScan:
        # Far more pictures than there are threads come before the first search ends.
        deadline = time.monotonic() + 240
        while len(judged) < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(judged) == 12
        return search_now(self, rgb)

    monkeypatch.setattr(search.TattooSearch, "without_search", noted)
    monkeypatch.setattr(search.TattooSearch, "__call__", late)
    report = lite.collect()
    assert report.done == 12
    assert report.seconds_searching > 0
    assert [row.tattoos for row in lite.rows(tattoo_scans)] == [1] * 12


def test_the_search_has_a_lower_priority_than_the_other_threads_and_no_more_threads_than_cores() -> None:
    async def priorities() -> tuple[int, int, int]:
        threads = RunThreads(workers=1, searches=2)
        ask = partial(os.getpriority, os.PRIO_PROCESS, 0)
        try:
            return (
                await threads.in_compute(ask),
                await threads.in_catalog(ask),
                await threads.in_search(ask),
            )
        finally:
            threads.shutdown()

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    compute, writing, searching = asyncio.run(priorities())
    assert (compute, writing) == (mine, mine)
    assert searching == max(mine, 5)
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


@pytest.mark.slow
def test_a_run_whose_network_for_tattoos_fails_ends_in_one_line_and_keeps_what_it_stored(
    lite: World, tmp_path: Path
) -> None:
    lite.pack = pack_with_tattoos(tmp_path, broken="nan_boxes")
    fill(lite)
    with pytest.raises(ModelPackError, match="no finite number"):
        lite.collect()
    lite.pack = lite.pack.for_tattoos(False)
    lite.collect()
    assert len(lite.rows(faces)) == 3


# --- switching on later -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_switching_tattoos_on_later_fetches_each_picture_once_more_and_keeps_the_faces_meanwhile(
    world: World,
) -> None:
    networks, world.pack = world.pack, world.pack.for_tattoos(False)
    fill(world)
    world.collect()
    world.pack = networks
    world.server.statuses = {"a": 503}
    report = world.collect()
    assert report.reopened.tattoos_unsearched == report.reopened.images == 3
    assert {row.image_id for row in world.rows(faces)} == {"a", "b", "c"}, "a failure costs no face"
    assert world.states()["a"][0] == "done"
    world.server.statuses = {}
    assert networks.tattoo is not None
    with reading(world.catalog) as connection:
        assert count_unsearched(connection, "boxed", networks.tattoo.models) == 1
    world.now = world.now.replace(day=20)
    world.collect()
    assert sorted(row.tattoos is None for row in world.rows(tattoo_scans)) == [False, False, True]
    before = dict(world.server.requests)
    assert world.collect().reopened.images == 0
    assert dict(world.server.requests) == before


@pytest.mark.slow
def test_a_look_for_tattoos_keeps_faces_and_waits_for_its_time_after_a_failure(world: World) -> None:
    networks, world.pack = world.pack, world.pack.for_tattoos(False)
    fill(world)
    world.collect()
    kept = [(row.face_id, row.image_id) for row in world.rows(faces)]
    world.pack = networks
    world.server.statuses = {"a": 503}
    world.collect()
    asked = world.server.requests["a"]
    world.collect()
    assert world.server.requests["a"] == asked, (
        "the next attempt has its time, and a run does not bring it forward"
    )
    for _ in range(12):
        world.now += timedelta(days=40)
        world.collect()
    given_up = world.server.requests["a"]
    world.now += timedelta(days=400)
    assert world.collect().reopened.images == 0
    assert world.server.requests["a"] == given_up, "a look that was given up is not asked for again"
    assert [(row.face_id, row.image_id) for row in world.rows(faces)] == kept
    images = dict(kept)
    assert {images[row.face_id]: row.tattoos for row in world.rows(tattoo_scans)} == {
        "a": None,
        "b": 0,
        "c": None,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("any_catalog", "order"),
    by_database("tattoos first", "second pack first", "both at once"),
    indirect=["any_catalog"],
)
@pytest.mark.parametrize("fails", [False, True])
def test_tattoos_and_a_second_pack_that_are_added_later_share_their_looks(
    world: World, order: str, fails: bool, tmp_path: Path
) -> None:
    networks, world.pack = world.pack, world.pack.for_tattoos(False)
    write_pack(tmp_path / "second", name="second")
    description = tmp_path / "second" / "pack.yaml"
    described = yaml.safe_load(description.read_text())
    described["detector"]["second_pass"] = "none"
    description.write_text(yaml.safe_dump(described))
    second = load_pack(str(tmp_path / "second"), Path("nowhere"))
    fill(world)
    world.collect()
    first_faces = [(row.face_id, row.image_id) for row in world.rows(faces)]
    steps = {
        "tattoos first": [(networks, None), (networks, second)],
        "second pack first": [(world.pack, second), (networks, second)],
        "both at once": [(networks, second)],
    }[order]
    for pack, other in steps:
        world.pack = pack
        if fails:
            world.server.statuses = {"*": 503}
            world.collect(second=other)
            world.server.statuses = {}
            world.now += timedelta(days=40)
        asked = sum(world.server.requests.values())
        world.collect(second=other)
        assert sum(world.server.requests.values()) == asked + 3, "each picture is fetched once"
    asked = sum(world.server.requests.values())
    assert world.collect(second=second).reopened.images == 0
    assert sum(world.server.requests.values()) == asked
    rows = world.rows(faces)
    assert [(row.face_id, row.image_id) for row in rows if not row.second] == first_faces
    assert {row.image_id for row in rows if row.second} == {"a", "b", "c"}
    assert sorted(row.tattoos is None for row in world.rows(tattoo_scans)) == [False, False, True]
    assert len(world.rows(tattoo_detections)) == 2


@pytest.mark.slow
def test_another_embedder_uses_kept_crops_and_fetches_again_without_them(lite: World, tmp_path: Path) -> None:
    fill(lite)
    lite.collect()
    embed_waiting_tattoos(lite.catalog, "boxed", lite.pack, EmbeddingRules(keep_crops=True))
    shutil.copytree(lite.pack.directory, tmp_path / "other")
    with_tattoos(tmp_path / "other", seed=77)
    lite.pack = load_pack(str(tmp_path / "other"), Path("nowhere"))
    assert lite.collect().reopened.images == 0
    report = embed_waiting_tattoos(lite.catalog, "boxed", lite.pack, EmbeddingRules())
    assert (report.embedded, report.re_embedded, report.crops_left) == (2, 2, 0)
    with_tattoos(tmp_path / "other", seed=78)
    lite.pack = load_pack(str(tmp_path / "other"), Path("nowhere"))
    assert lite.collect().reopened.tattoos_unsearched == 1, "only the picture with tattoos"
    assert embed_waiting_tattoos(lite.catalog, "boxed", lite.pack, EmbeddingRules()).embedded == 2


@pytest.mark.slow
def test_another_detector_searches_every_picture_again(lite: World, tmp_path: Path) -> None:
    fill(lite)
    lite.collect()
    shutil.copytree(lite.pack.directory, tmp_path / "other")
    with_tattoos(tmp_path / "other", side=96.0)
    lite.pack = load_pack(str(tmp_path / "other"), Path("nowhere"))
    assert lite.collect().reopened.tattoos_unsearched == 3
    assert {round(row.width, 3) for row in lite.rows(tattoo_detections)} == {0.15}


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_it_embedded(lite: World) -> None:
    fill(lite)
    lite.collect()
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 1

    report = embed_waiting_tattoos(
        lite.catalog, "boxed", lite.pack, EmbeddingRules(batch_size=1), EmbeddingControl(stop=stop)
    )
    assert (report.embedded, report.interrupted, report.crops_left) == (1, True, 1)
    assert embed_waiting_tattoos(lite.catalog, "boxed", lite.pack, EmbeddingRules()).embedded == 1


@pytest.mark.slow
def test_a_missing_gpu_is_an_error(lite: World) -> None:
    fill(lite)
    lite.collect()
    with pytest.raises(DeviceError):
        embed_waiting_tattoos(lite.catalog, "boxed", lite.pack, EmbeddingRules(device=Device.CUDA))


# --- packs ------------------------------------------------------------------------------------------------------------


def test_a_pack_without_networks_for_tattoos_says_how_to_get_them(pack: ModelPack) -> None:
    assert pack.tattoo is None
    with pytest.raises(ModelPackError, match="models pull test-pack --with-tattoos"):
        pack.for_tattoos(True)
    assert pack.for_tattoos(False) == pack


def test_files_for_tattoos_may_both_be_missing_but_not_one_of_them(tmp_path: Path) -> None:
    pack_with_tattoos(tmp_path)
    (tmp_path / "tattoo_detector.onnx").unlink()
    with pytest.raises(ModelPackError, match="but the other network"):
        load_pack(str(tmp_path), Path("nowhere"))
    (tmp_path / "tattoo_embedder.onnx").unlink()
    assert load_pack(str(tmp_path), Path("nowhere")).tattoo is None


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        (7, "is not a mapping"),
        ({}, "the key detector is missing"),
        ({"detector": {}, "embedder": {}}, "the key kind is missing"),
        ({"detector": {"file": "a", "kind": "ssd", "input_size": 640}, "embedder": None}, "must be yolov5"),
        (
            {"detector": {"file": "a", "kind": "yolov5", "input_size": 100}, "embedder": []},
            "a multiple of 32",
        ),
        ({"detector": None, "embedder": {"file": "../a", "input_size": 224, "dim": 1}}, "a file name inside"),
        ({"detector": None, "embedder": {"file": "a", "input_size": 112, "dim": 1}}, "must be 224"),
        ({"detector": None, "embedder": {"file": "a", "input_size": 224, "dim": 0}}, "at least 1"),
        ({"detector": None, "embedder": {"file": "a", "input_size": 224, "dim": 9, "x": 1}}, "unknown key"),
    ],
)
def test_a_wrong_section_is_refused_with_line_and_key(
    section: object, complaint: str, tmp_path: Path
) -> None:
    write_pack(tmp_path)
    describe_pack(tmp_path, tattoo=section)
    with pytest.raises(ModelPackError, match=complaint) as error:
        load_pack(str(tmp_path), Path("nowhere"))
    assert "pack.yaml" in str(error.value)


def extracted(box_: tuple[float, ...], size: tuple[int, int], faces_found: int = 1) -> ExtractedFace:
    columns = dict(zip(("x1", "y1", "x2", "y2"), box_, strict=True))
    return ExtractedFace(StoredFace(columns, None, None), faces_found, size)


def needed(found: ExtractedFace) -> TattooScan | None:
    """The scan without a search. The network does not exist, so that loading it would fail."""
    spec = TattooDetectorSpec(Path("nowhere.onnx"), "digest", 640)
    networks: Any = type("Networks", (), {"detector": spec})
    return TattooSearch(networks).without_search(found)


def test_a_picture_of_several_faces_needs_no_search_and_loads_no_network() -> None:
    assert needed(extracted((10, 10, 50, 50), (600, 900), 2)) == TattooScan("digest", None)
    assert TattooModels("a", "b").embedder == "b"


@pytest.mark.parametrize(
    ("name", "box_", "size", "only_head"),
    [
        ("a head that fills the picture", (60, 50, 240, 260), (300, 300), True),
        ("a face beyond the edges", (-40, -30, 330, 340), (300, 300), True),
        ("a thumbnail of a face with hair", (75, 75, 225, 225), (300, 300), True),
        ("with the shoulders", (100, 60, 200, 190), (300, 300), False),
        ("as wide as the picture, with a chest below", (60, 50, 240, 260), (300, 450), False),
        ("as high as the picture, with arms beside", (210, 40, 390, 260), (600, 300), False),
        ("half a body", (220, 100, 380, 300), (600, 900), False),
        ("a small face at the edge", (0, 0, 30, 40), (600, 900), False),
        ("a box without an area", (100, 100, 100, 100), (300, 300), False),
        ("a box with its sides exchanged", (200, 200, 100, 100), (300, 300), False),
    ],
)
def test_a_picture_of_a_head_alone_counts_as_searched(
    name: str, box_: tuple[float, ...], size: tuple[int, int], only_head: bool
) -> None:
    assert needed(extracted(box_, size)) == (TattooScan("digest", []) if only_head else None), name
    large = tuple(40 * side for side in box_)
    assert (needed(extracted(large, (40 * size[0], 40 * size[1]))) is None) is not only_head, name


@pytest.mark.slow
def test_a_head_alone_is_stored_as_searched_without_a_tattoo(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The largest face that the network of the tests finds takes 0.898 of this picture.
    monkeypatch.setattr(search, "_MOST_HEAD", 0.89)
    head = tattooed(picture([(5, 10, 0.95, 255)], 1, size=(640, 320)), 1, 15)
    world.serve(a=png(portrait(1, (12, 4))), b=png(head))
    world.list({"p": ["a"], "q": ["b"]})
    world.collect()
    by_image = {row.face_id: row.image_id for row in world.rows(faces)}
    assert {by_image[row.face_id]: row.tattoos for row in world.rows(tattoo_scans)} == {"a": 1, "b": 0}
    assert world.collect().reopened.images == 0


# --- several workers --------------------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.slow
def test_workers_lease_different_tattoos_and_a_lease_ends_with_its_connection(
    postgres_catalog_url: str, server: ImageServer, tattoo_pack: ModelPack
) -> None:
    engine = open_catalog(postgres_catalog_url)
    world = World(engine, server, tattoo_pack, box(server), GlobalSettings())
    fill(world)
    world.collect()
    assert tattoo_pack.tattoo is not None
    queue = TattooQueue("boxed", tattoo_pack.tattoo.models)
    with leasing(engine) as one, leasing(engine) as other:
        mine, ids = queue.lease(one, 0, 1)
        theirs, _ = queue.lease(other, 0, 9)
        assert [tattoo.id for tattoo in mine] == ids
        assert len(mine) == len(theirs) == 1
        assert mine[0].id != theirs[0].id
        queue.release(one, ids)
        assert queue.lease(other, 0, 1)[1] == ids
    with leasing(engine) as last:
        assert len(queue.lease(last, 0, 9)[0]) == 2
    engine.dispose()


def test_a_tattoo_that_is_removed_while_it_is_embedded_gets_no_vector(any_catalog: sa.Engine) -> None:
    row = {"vector": b"", "pack": "p", "model_digest": "d", "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
    with any_catalog.begin() as connection:
        TattooQueue("boxed", TattooModels("a", "b")).store(connection, [{"tattoo_id": 7, **row}])
        assert connection.execute(sa.select(tattoo_embeddings)).all() == []


# --- of released people -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_tattoos_in_pictures_of_trusted_faces_are_of_released_people(world: World) -> None:
    fill(world)
    world.collect()
    embed_waiting_tattoos(world.catalog, "boxed", world.pack, EmbeddingRules())
    assert world.pack.tattoo is not None
    detector, embedder = world.pack.tattoo.models
    of_image = {row.image_id: row.face_id for row in world.rows(faces)}
    with world.catalog.begin() as connection:
        assert tattoos_of_trusted_faces(connection, detector) == []
        assert searched_people(connection, detector) == []
        for number, image in enumerate("abc"):
            connection.execute(sa.insert(identities).values(performer_id=number + 1, created_at=world.now))
            values = {"performer_id": number + 1, "source": "boxed", "source_id": "pqr"[number], "rank": 0}
            connection.execute(sa.insert(trusted_faces).values(face_id=of_image[image], **values))
    with reading(world.catalog) as connection:
        rows = tattoos_of_trusted_faces(connection, detector)
        assert [(row.performer_id, row.image_id) for row in rows] == [(1, "a"), (1, "a")]
        assert tattoos_of_trusted_faces(connection, "another") == []
        people = searched_people(connection, detector)
        assert [tuple(person) for person in people] == [(1, 1, 1), (2, 1, 1), (3, 1, 0)]
        assert [person[2] for person in searched_people(connection, "another")] == [0, 0, 0]
        ids = [row.tattoo_id for row in rows]
        vectors = tattoo_vectors(connection, embedder, ids)
        assert set(vectors) == set(ids)
        assert {vector.shape for vector in vectors.values()} == {(1280,)}
        assert tattoo_vectors(connection, "another", ids) == {}
