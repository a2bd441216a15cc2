"""The rules of stash-sense2: turned pictures, tight head shots and profiles give the vectors that its sidecar computes."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stash_sense_pipeline.catalog.queries.faces import StoredFace
from stash_sense_pipeline.faces.extraction.align import norm_crop
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.extract_face import FaceExtractor, decode_crop
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline.faces.models import face_finder
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.face_finder import FaceFinder
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder
from stash_sense_pipeline.sandbox.demo import DEMO_PACK, DEMO_SENSE2_PACK
from stash_sense_pipeline.sandbox.invented.rendered_person import HELD_OUT_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import Photo, render_portrait, render_scenery
from stash_sense_pipeline.settings.schema import QualityFilters
from stash_sense_pipeline_tests.faces.client_reference import Client

FILTERS = QualityFilters(min_image_size=40, min_face_size=20, min_detection_confidence=0.5, max_face_angle=90)


@pytest.fixture(scope="module")
def sense2() -> ModelPack:
    return load_pack(str(DEMO_SENSE2_PACK), Path("nowhere"))


@pytest.fixture(scope="module")
def client_pack(sense2: ModelPack) -> ModelPack:
    """The demo's networks with the preprocessing of the sidecar: channels swapped, and its mean and scale."""
    embedders = {
        name: replace(spec, channel_order=ChannelOrder.BGR, mean=127.5, std=127.5)
        for name, spec in sense2.embedders.items()
    }
    return replace(sense2, embedders=embedders)


@pytest.fixture(scope="module")
def client(client_pack: ModelPack) -> Client:
    ((_, embedder),) = client_pack.embedders.items()
    return Client(client_pack.detector.path, embedder.path, client_pack.detector.input_size)


@pytest.fixture(scope="module")
def finder(sense2: ModelPack) -> FaceFinder:
    return FaceFinder(Detector(sense2.detector))


def portrait(seed: int, **options: float) -> Photo:
    return render_portrait(make_person(HELD_OUT_SEEDS[seed]), seed, **options)


def turned(photo: Photo, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The photo turned counterclockwise, and where its landmarks are then."""
    image = np.asarray(Image.fromarray(photo.image).rotate(degrees, Image.Resampling.BICUBIC, expand=True))
    old, new = ((np.array(each.shape[1::-1]) - 1) / 2 for each in (photo.image, image))
    angle = math.radians(degrees)
    onto = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return image, (photo.faces[0].landmarks - old) @ onto.T + new


def head_shot(seed: int) -> np.ndarray:
    """A picture that the face fills."""
    photo = portrait(seed, size=(640, 800))
    left, top, right, bottom = (round(value) for value in photo.faces[0].box)
    return np.ascontiguousarray(photo.image[top - 10 : bottom + 10, left - 10 : right + 10])


@cache
def pictures() -> dict[str, np.ndarray]:
    """Plain, turned, tight and profile pictures by name."""
    found = {f"turned by {degrees}": turned(portrait(seed), degrees)[0] for seed, degrees in enumerate(TURNS)}
    found |= {f"plain {seed}": portrait(seed).image for seed in range(4)}
    found |= {f"tight {seed}": head_shot(seed) for seed in range(8)}
    return found | {f"profile {seed}": portrait(seed, max_yaw=85.0).image for seed in range(6)}


TURNS = (20, 30, 45, 90, 135, 180, 225, 270, 315, 340)


def png(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="PNG")
    return file.getvalue()


def stored(pack: ModelPack, rgb: np.ndarray) -> StoredFace:
    extractor = FaceExtractor(pack, Detector(pack.detector), FILTERS, False, DecodeLimits())
    return extractor.extract(png(rgb))


def vector_of(pack: ModelPack, face: StoredFace) -> np.ndarray:
    ((name, spec),) = pack.embedders.items()
    assert face.png is not None
    with Embedder(name, spec) as embedder:
        raw = embedder.embed(decode_crop(face.png)[None], pack.flip_averaging)[0]
    return raw / np.linalg.norm(raw)


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures())
def test_the_vector_is_that_of_the_sidecar(client: Client, client_pack: ModelPack, name: str) -> None:
    """The reference is written from the contract, with insightface's own detector, alignment and preprocessing."""
    rgb = pictures()[name]
    expected = max(client.faces(rgb), key=lambda face: np.prod(face.box[2:] - face.box[:2]))
    face = stored(client_pack, rgb)
    assert vector_of(client_pack, face) @ expected.vector > 0.9999
    assert face.columns["yaw"] == pytest.approx(expected.yaw, abs=0.01)


@pytest.fixture(scope="module")
def uprights(sense2: ModelPack) -> list[np.ndarray]:
    """The vectors of eight people, from pictures that are not turned."""
    return [vector_of(sense2, stored(sense2, portrait(seed).image)) for seed in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [45, 90, 180, 270])
def test_a_turned_picture_gives_the_face_of_the_upright_one(
    uprights: list[np.ndarray], sense2: ModelPack, degrees: int
) -> None:
    cosines, errors = [], []
    for seed, upright in enumerate(uprights):
        rgb, expected = turned(portrait(seed), degrees)
        face = stored(sense2, rgb)
        cosines.append(float(upright @ vector_of(sense2, face)))
        landmarks = np.frombuffer(face.columns["landmarks"], "<f4").reshape(5, 2)
        errors.append(float(np.abs(landmarks - expected).mean()))
        # The crop by the stored landmarks, as the review makes it, shows the same face upright.
        assert face.png is not None
        again = norm_crop(rgb, landmarks).astype(int)
        assert np.abs(again - decode_crop(face.png)).mean() < 12
    assert np.median(cosines) > 0.9
    assert np.median(errors) < 6


@pytest.mark.slow
def test_the_stored_roll_and_box_are_those_in_the_picture(sense2: ModelPack) -> None:
    rgb, landmarks = turned(portrait(1), 90)
    columns = stored(sense2, rgb).columns
    assert columns["roll"] == pytest.approx(-90, abs=12)
    assert columns["x1"] < landmarks[:, 0].min() < landmarks[:, 0].max() < columns["x2"]
    assert columns["y1"] < landmarks[:, 1].min() < landmarks[:, 1].max() < columns["y2"]


@pytest.mark.slow
def test_a_tight_head_shot_is_found_in_the_padded_picture(sense2: ModelPack, finder: FaceFinder) -> None:
    plain = Detector(sense2.detector)
    shots = [head_shot(seed) for seed in range(30)]
    lost = [shot for shot in shots if not plain.detect(shot)]
    found = [finder.find(shot) for shot in lost]
    assert len(lost) > 5
    assert sum(bool(each.faces) for each in found) > 0.8 * len(lost)
    for shot, each in zip(lost, found, strict=True):
        border = int(0.3 * min(shot.shape[:2]))
        assert each.pixels.shape[0] == shot.shape[0] + 2 * border
        for face in each.faces:
            assert np.allclose(each.in_picture(face).landmarks, face.landmarks - border, atol=1e-3)


@pytest.mark.slow
def test_scenery_has_no_face_with_and_without_a_border(finder: FaceFinder) -> None:
    scenes = [render_scenery(HELD_OUT_SEEDS[seed]).image for seed in range(20)]
    assert sum(bool(finder.find(scene).faces) for scene in scenes) <= 1


@pytest.mark.slow
def test_a_profile_has_its_yaw_and_can_be_rejected_for_it(sense2: ModelPack) -> None:
    yaws = [abs(stored(sense2, portrait(seed, max_yaw=85.0).image).columns["yaw"]) for seed in range(8)]
    assert max(yaws) > 23 > 10 > min(yaws)
    steep = portrait(int(np.argmax(yaws)), max_yaw=85.0).image
    strict = FILTERS.model_copy(update={"max_face_angle": 20.0})
    extractor = FaceExtractor(sense2, Detector(sense2.detector), strict, False, DecodeLimits())
    with pytest.raises(Rejected) as rejected:
        extractor.extract(png(steep))
    assert rejected.value.reason is Reason.TURNED_AWAY


@pytest.mark.slow
def test_the_sidecar_s_own_rules_change_nothing() -> None:
    """A pack without the new keys: the faces of the detector in the pixels of the picture."""
    pack = load_pack(str(DEMO_PACK), Path("nowhere"))
    detector = Detector(pack.detector)
    for rgb in (portrait(1).image, turned(portrait(2), 30)[0], head_shot(3)):
        found, expected = FaceFinder(detector).find(rgb), detector.detect(rgb)
        assert found.pixels is rgb
        for face, other in zip(found.faces, expected, strict=True):
            assert np.array_equal(face.landmarks, other.landmarks)
            assert np.array_equal(found.in_picture(face).landmarks, other.landmarks)
            assert np.array_equal(found.in_picture(face).box, other.box)
    assert pack.detector.finding_digest == pack.detector.digest


def test_rules_are_part_of_what_the_catalog_calls_the_detector(sense2: ModelPack) -> None:
    spec = sense2.detector
    others = [
        replace(spec, rules=replace(spec.rules, padding=0.2)),
        replace(spec, rules=replace(spec.rules, roll=None)),
        replace(spec, rules=load_pack(str(DEMO_PACK), Path("nowhere")).detector.rules),
    ]
    assert len({each.finding_digest for each in (spec, *others)}) == 4


def test_a_picture_that_would_become_too_large_is_not_turned(
    finder: FaceFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, _ = turned(portrait(1), 45)
    assert finder.find(rgb).pixels is not rgb
    monkeypatch.setattr(face_finder, "_MOST_TURNED_PIXELS", 100_000)
    found = finder.find(rgb)
    assert found.pixels is rgb
    assert found.faces
