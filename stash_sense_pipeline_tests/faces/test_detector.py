"""The detector is insightface's, fed as the sidecar feeds it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from insightface.model_zoo import get_model

from stash_sense_pipeline.faces.models.detector import DetectedFace, Detector
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder
from stash_sense_pipeline.foundation.errors import ModelPackError
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.invented.rendered_person import HELD_OUT_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import render_portrait, render_scenery
from stash_sense_pipeline_tests.faces.nets import picture, rewritten

SIZES = [(640, 640), (900, 600), (333, 777), (120, 90), (64, 1500)]


def network_outputs(rgb: np.ndarray, path: Path, size: int = 640) -> tuple[list[np.ndarray], float]:
    """What the contract feeds the network: top-left letterbox, (x - 127.5)/128, channels swapped. And the
    scale.
    """
    height, width = rgb.shape[:2]
    if height / width > 1:
        new_height, new_width = size, int(size / (height / width))
    else:
        new_height, new_width = int(size * (height / width)), size
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(rgb, (new_width, new_height))
    blob = ((canvas[:, :, ::-1].astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(blob)})
    return outputs, new_height / height


def threshold_for(rgb: np.ndarray, path: Path, candidates: int = 60) -> float:
    """A threshold that at most so many cells of a network with random weights pass; those of the padding are
    all equal.
    """
    outputs, _ = network_outputs(rgb, path)
    scores = np.sort(np.concatenate(outputs[:3]).ravel())
    return float(scores[scores > scores[-candidates]].min())


def reference(
    rgb: np.ndarray, path: Path, threshold: float, size: int = 640
) -> tuple[np.ndarray, np.ndarray]:
    """SCRFD from the contract alone: two anchors a cell at strides 8, 16 and 32, then suppression at 0.4."""
    outputs, scale = network_outputs(rgb, path, size)
    found = []
    for place, stride in enumerate((8, 16, 32)):
        scores, boxes, points = outputs[place][:, 0], outputs[place + 3] * stride, outputs[place + 6] * stride
        cells = size // stride
        for row in np.flatnonzero(scores >= threshold):
            y, x = divmod(row // 2, cells)
            origin = np.array([x, y], np.float32) * stride
            left, top, right, bottom = boxes[row]
            box = [origin[0] - left, origin[1] - top, origin[0] + right, origin[1] + bottom]
            found.append((scores[row], np.array(box), points[row].reshape(5, 2) + origin))
    found.sort(key=lambda one: -one[0])
    kept: list[tuple[float, np.ndarray, np.ndarray]] = []
    for one in found:
        if all(overlap(one[1], other[1], scale) <= 0.4 for other in kept):
            kept.append(one)
    boxes = np.array([[*(box / scale), score] for score, box, _ in kept]).reshape(-1, 5)
    return boxes, np.array([points / scale for _, _, points in kept]).reshape(-1, 5, 2)


def overlap(first: np.ndarray, second: np.ndarray, scale: float) -> float:
    """Intersection over union, counting pixels of the image as insightface does."""
    first, second = first / scale, second / scale
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]) + 1)
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    return float(width * height / (areas[0] + areas[1] - width * height))


def as_arrays(faces: list[DetectedFace]) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.array([[*face.box, face.confidence] for face in faces]).reshape(-1, 5)
    return boxes, np.array([face.landmarks for face in faces]).reshape(-1, 5, 2)


def noise(height: int, width: int, seed: int) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 4) // 2 + image // 2


@pytest.mark.parametrize("size", SIZES)
def test_the_detector_equals_a_reference_written_from_the_contract(
    random_pack: ModelPack, size: tuple[int, int]
) -> None:
    image = noise(*size, seed=3)
    threshold = threshold_for(image, random_pack.detector.path)
    spec = replace(random_pack.detector, threshold=threshold)
    boxes, landmarks = as_arrays(Detector(spec).detect(image))
    expected_boxes, expected_landmarks = reference(image, spec.path, threshold)
    assert len(boxes) == len(expected_boxes) > 3
    assert np.abs(boxes - expected_boxes).max() < 1e-2
    assert np.abs(landmarks - expected_landmarks).max() < 1e-2


@pytest.mark.parametrize("size", SIZES)
def test_the_detector_equals_insightface_as_the_sidecar_calls_it(
    random_pack: ModelPack, size: tuple[int, int]
) -> None:
    network = get_model(str(random_pack.detector.path), providers=["CPUExecutionProvider"])
    image = noise(*size, seed=4)
    threshold = threshold_for(image, random_pack.detector.path)
    network.prepare(-1, input_size=(640, 640), det_thresh=threshold)
    expected_boxes, expected_landmarks = network.detect(image)
    boxes, landmarks = as_arrays(Detector(replace(random_pack.detector, threshold=threshold)).detect(image))
    assert len(boxes) == len(expected_boxes) > 3
    assert np.abs(boxes - expected_boxes).max() < 1e-3
    assert np.abs(landmarks - expected_landmarks).max() < 1e-3


def test_the_network_is_loaded_once(random_pack: ModelPack) -> None:
    detector = Detector(replace(random_pack.detector, threshold=0.97))
    for size in SIZES:
        detector.detect(noise(*size, seed=1))
    assert {id(session) for session in detector._network.resolution_sessions.values()} == {
        id(detector._network.session)
    }


def test_channel_order_is_the_one_handed_to_the_class(pack: ModelPack) -> None:
    image = picture([(5, 5, 0.9, 100)], seed=1)
    assert len(Detector(pack.detector).detect(image)) == 1
    other = Detector(replace(pack.detector, channel_order=ChannelOrder.BGR))
    assert other.detect(image) == []
    assert len(other.detect(np.ascontiguousarray(image[:, :, ::-1]))) == 1


def test_faces_come_with_the_most_confident_first(pack: ModelPack) -> None:
    faces = Detector(pack.detector).detect(
        picture([(3, 3, 0.6, 0), (12, 4, 0.95, 0), (8, 14, 0.8, 0)], seed=2)
    )
    assert [round(face.confidence, 1) for face in faces] == [0.9, 0.8, 0.6]
    assert faces[0].side == pytest.approx(32.5, abs=1)


@pytest.mark.slow
def test_a_face_that_fills_the_picture_is_found_by_a_second_pass() -> None:
    """The demo pack's detector on close-ups of rendered people: a network that was trained, on faces too large for it."""
    spec = load_pack(str(DEMO_PACK), Path("nowhere")).detector
    detector = Detector(spec)
    found, second, wrong = 0, 0, 0
    for seed in range(12):
        photo = render_portrait(make_person(HELD_OUT_SEEDS[seed]), seed, size=(640, 800))
        left, top, right, bottom = (round(value) for value in photo.faces[0].box)
        close_up = np.ascontiguousarray(photo.image[top - 10 : bottom + 10, left - 10 : right + 10])
        faces = detector.detect(close_up)
        found += bool(faces)
        second += bool(faces) and not detector._find(close_up, spec.input_size)
        wrong += any(face.side < 0.4 * min(close_up.shape[:2]) for face in faces[1:])
    assert second >= 4
    assert found >= 9
    assert wrong == 0


@pytest.mark.slow
def test_scenery_gets_no_face_from_the_second_pass() -> None:
    detector = Detector(load_pack(str(DEMO_PACK), Path("nowhere")).detector)
    scenes = [render_scenery(HELD_OUT_SEEDS[seed]).image for seed in range(25)]
    assert sum(bool(detector.detect(scene)) for scene in scenes) <= 1


def test_an_image_without_a_face_gives_an_empty_list(pack: ModelPack) -> None:
    assert Detector(pack.detector).detect(picture([], seed=3)) == []


def test_a_strip_has_no_face(pack: ModelPack) -> None:
    assert Detector(pack.detector).detect(np.zeros((2, 3000, 3), np.uint8)) == []
    assert Detector(pack.detector).detect(np.zeros((3000, 2, 3), np.uint8)) == []


@pytest.mark.slow
def test_threads_may_share_a_detector(random_pack: ModelPack) -> None:
    detector = Detector(replace(random_pack.detector, threshold=0.97))
    images = [noise(400, 300 + 40 * seed, seed) for seed in range(8)]
    expected = [as_arrays(detector.detect(image)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for round_ in pool.map(lambda _: [as_arrays(detector.detect(image)) for image in images], range(4)):
            for (boxes, points), (expected_boxes, expected_points) in zip(round_, expected, strict=True):
                assert np.array_equal(boxes, expected_boxes)
                assert np.array_equal(points, expected_points)


def test_outputs_may_have_any_names_and_order(random_pack: ModelPack, tmp_path: Path) -> None:
    image = noise(500, 400, seed=6)
    spec = replace(random_pack.detector, threshold=threshold_for(image, random_pack.detector.path))
    expected = as_arrays(Detector(spec).detect(image))
    by_stride = [f"{kind}_{stride}" for stride in (32, 8, 16) for kind in ("kps", "score", "bbox")]
    numbered = {name: str(440 + place) for place, name in enumerate(by_stride)}
    path = tmp_path / "other.onnx"
    rewritten(spec.path, path, outputs=by_stride, names={**numbered, "input.1": "data"})
    found = as_arrays(Detector(replace(spec, path=path)).detect(image))
    assert len(found[0]) > 3
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_network_of_one_size_must_have_the_pack_s(random_pack: ModelPack, tmp_path: Path) -> None:
    image = noise(500, 400, seed=6)
    spec = replace(random_pack.detector, threshold=threshold_for(image, random_pack.detector.path))
    path = tmp_path / "fixed.onnx"
    rewritten(spec.path, path, shapes={"input.1": [1, 3, 640, 640]})
    fixed = as_arrays(Detector(replace(spec, path=path)).detect(image))
    assert np.array_equal(fixed[0], as_arrays(Detector(spec).detect(image))[0])
    with pytest.raises(
        ModelPackError, match=r"takes images of \(640, 640\) pixels only, but pack\.yaml says 320"
    ):
        Detector(replace(spec, path=path, input_size=320))


def test_nine_outputs_alone_do_not_make_a_detector(random_pack: ModelPack, tmp_path: Path) -> None:
    twice = ["score_8", "score_16", "score_32", "kps_8", "kps_16", "kps_32"]
    path = tmp_path / "other.onnx"
    rewritten(random_pack.detector.path, path, outputs=twice)
    model = onnx.load(path)
    for stride in (8, 16, 32):
        model.graph.node.append(onnx.helper.make_node("Identity", [f"score_{stride}"], [f"again_{stride}"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info(f"again_{stride}", 1, ["n", 1]))
    onnx.save(model, path)
    with pytest.raises(ModelPackError, match=r"not an SCRFD detector with landmarks: it gives \[\d+, 1\]"):
        Detector(replace(random_pack.detector, path=path)).detect(noise(200, 200, 1))


def test_a_network_without_landmarks_is_refused(pack: ModelPack) -> None:
    spec = replace(pack.detector, path=pack.embedders["arcface"].path)
    with pytest.raises(ModelPackError, match="not an SCRFD detector with landmarks: it has 1 outputs"):
        Detector(spec)
