"""Measures a model pack on rendered people it has never seen: `python -m …training.evaluate PACK_DIR`.

Needs no torch. Everything runs end to end through the faces room: the pack's own detector, its landmarks,
alignment, both embedders.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.extraction.align import norm_crop
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import load_pack
from stash_sense_pipeline.sandbox.invented.rendered_person import HELD_OUT_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import (
    encode_jpeg,
    render_group,
    render_portrait,
    render_scenery,
)
from stash_sense_pipeline.sandbox.invented.shapes import Image

log = logging.getLogger(__name__)

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class RecognitionReport:
    """Shares in 0..1 over probes of held-out people. A probe without a detected face counts as wrong."""

    people: int
    probes: int
    rank1: dict[str, float]
    rank5: dict[str, float]
    genuine: dict[str, float]
    impostor: dict[str, float]
    detector_recall: float
    extra_faces: int
    landmark_error: float
    landmark_error_p95: float


@dataclass(frozen=True)
class DetectionReport:
    """Counts on pictures with several faces and with none."""

    groups: int
    groups_with_the_right_number: int
    sceneries: int
    faces_in_sceneries: int


class Pack:
    """The models of a pack directory, run by the program's own faces room."""

    def __init__(self, directory: Path) -> None:
        self.pack = load_pack(str(directory), directory.parent)
        self.detector = Detector(self.pack.detector)
        self.embedders = {name: Embedder(name, spec) for name, spec in self.pack.embedders.items()}

    def embed(self, image: Image, landmarks: NDArray[np.float32]) -> Vectors:
        """The vector (512,) of each embedder for the face with these landmarks (5, 2)."""
        crop = norm_crop(image, landmarks)[None]
        flips = self.pack.flip_averaging
        return {name: embedder.embed(crop, flips)[0] for name, embedder in self.embedders.items()}


def through_jpeg(image: Image, quality: int) -> Image:
    """The RGB image as it comes back from a JPEG file."""
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(image, quality), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV cannot read the JPEG that it has just written"
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def measure_recognition(pack: Pack, people: int, probes: int = 4) -> RecognitionReport:
    """Measures recall@k: one photo of each of `people` held-out people is the gallery, `probes` others are probes."""
    vectors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in pack.embedders}
    errors, missed, extra = [], 0, 0
    for seed in HELD_OUT_SEEDS[:people]:
        person = make_person(seed)
        for number in range(probes + 1):
            photo = render_portrait(person, number)
            image, truth = through_jpeg(photo.image, 90), photo.faces[0]
            faces = pack.detector.detect(image)
            hit = any(_iou(face.box, truth.box) >= 0.5 for face in faces)
            missed += not hit
            extra += len(faces) - hit
            if not faces:
                found: Vectors = {name: np.zeros(512, np.float32) for name in vectors}
            else:
                # As the pipeline does with several faces in one picture: the largest one.
                largest = max(faces, key=lambda face: face.area)
                found = pack.embed(image, largest.landmarks)
                offset = np.linalg.norm(largest.landmarks - truth.landmarks, axis=1).mean()
                errors.append(float(offset) / (truth.box[3] - truth.box[1]))
            for name, vector in found.items():
                vectors[name].append(vector)
    cosines = {name: _cosines(np.stack(rows), people, probes) for name, rows in vectors.items()}
    cosines["fusion"] = np.mean(list(cosines.values()), axis=0)
    same = np.repeat(np.arange(people), probes)
    ranks = {name: _ranks(cosine, same) for name, cosine in cosines.items()}
    genuine = np.eye(people, dtype=bool)[same]
    return RecognitionReport(
        people=people,
        probes=len(same),
        rank1={name: float((rank < 1).mean()) for name, rank in ranks.items()},
        rank5={name: float((rank < 5).mean()) for name, rank in ranks.items()},
        genuine={name: float(cosine[genuine].mean()) for name, cosine in cosines.items()},
        impostor={name: float(cosine[~genuine].mean()) for name, cosine in cosines.items()},
        detector_recall=1 - missed / (people * (probes + 1)),
        extra_faces=extra,
        landmark_error=float(np.mean(errors)),
        landmark_error_p95=float(np.percentile(errors, 95)),
    )


def measure_detection(pack: Pack, groups: int, sceneries: int) -> DetectionReport:
    """Counts faces on group photos of two to five held-out people, and on pictures without people."""
    right = 0
    for number in range(groups):
        count = 2 + number % 4
        start = number * 5
        group = [make_person(seed) for seed in HELD_OUT_SEEDS[start : start + count]]
        right += len(pack.detector.detect(render_group(group, number).image)) == count
    false = sum(len(pack.detector.detect(render_scenery(HELD_OUT_SEEDS[n]).image)) for n in range(sceneries))
    return DetectionReport(groups, right, sceneries, false)


def _cosines(vectors: NDArray[np.float32], people: int, probes: int) -> NDArray[np.float32]:
    """Cosines (people * probes, people) of every probe with every gallery vector."""
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    grid = (vectors / norms).reshape(people, probes + 1, -1)
    return np.asarray(grid[:, 1:].reshape(people * probes, -1) @ grid[:, 0].T, np.float32)


def _ranks(cosines: NDArray[np.float32], same: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each probe, how many other people are at least as close as the right person."""
    own = cosines[np.arange(len(same)), same]
    return np.asarray((cosines >= own[:, None]).sum(1) - 1, np.int64)


def _iou(box: Iterable[float], other: Iterable[float]) -> float:
    ax1, ay1, ax2, ay2 = box
    bx1, by1, bx2, by2 = other
    inner = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    return float(inner / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inner))


def report(directory: Path, people: int = 400) -> list[str]:
    """The measures of the pack in `directory`, one line each."""
    pack = Pack(directory)
    seen = measure_recognition(pack, people)
    counted = measure_detection(pack, groups=people // 2, sceneries=people)
    lines = [f"held-out people {seen.people}, probes {seen.probes}, gallery one photo each"]
    for name, rank1 in seen.rank1.items():
        lines.append(
            f"{name}: rank-1 {rank1:.4f}, rank-5 {seen.rank5[name]:.4f}, "
            f"mean cosine same person {seen.genuine[name]:.3f}, strangers {seen.impostor[name]:.3f}"
        )
    lines.append(
        f"detector: recall {seen.detector_recall:.4f} at IoU 0.5, {seen.extra_faces} extra faces on portraits"
    )
    lines.append(
        f"landmarks: error {seen.landmark_error:.4f} of the face height, p95 {seen.landmark_error_p95:.4f}"
    )
    lines.append(
        f"groups: {counted.groups_with_the_right_number} of {counted.groups} with the right number of faces; "
        f"scenery: {counted.faces_in_sceneries} faces in {counted.sceneries} pictures"
    )
    return lines


def main(arguments: list[str]) -> int:
    """Logs the report of the pack directory named on the command line; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(arguments) not in (1, 2):
        log.error("usage: python -m stash_sense_pipeline_tests.tools.training.evaluate PACK_DIR [PEOPLE]")
        return 2
    cv2.setNumThreads(1)
    for line in report(Path(arguments[0]), int(arguments[1]) if len(arguments) == 2 else 400):
        log.info("%s", line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
