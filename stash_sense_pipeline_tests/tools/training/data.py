"""What the demo models learn from: rendered scenes with boxes and landmarks, and crops with identities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.extraction.align import norm_crop
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.model_packs import DetectorSpec
from stash_sense_pipeline.sandbox.invented.head import Face
from stash_sense_pipeline.sandbox.invented.rendered_person import TRAIN_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import (
    Photo,
    render_group,
    render_portrait,
    render_scenery,
)
from stash_sense_pipeline_tests.tools.training.evaluate import through_jpeg

MAX_FACES = 6
_SCENE_STREAM, _CROP_STREAM = 21, 22
_WORKERS = 2


@dataclass(frozen=True)
class Scenes:
    """Windows of letterboxed photos, as a detector sees them.

    images (N, S, S, 3) uint8 RGB; boxes (N, MAX_FACES, 4) and landmarks (N, MAX_FACES, 5, 2) float32 in
    pixels; state (N, MAX_FACES) int8: 1 a face, 0 nothing, -1 a face cut by the edge: it counts neither way.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    state: NDArray[np.int8]


@dataclass(frozen=True)
class Crops:
    """Aligned faces (N, 112, 112, 3) uint8 RGB and the identity (N,) int64 of each, counted from 0."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def make_scenes(count: int, window: int, turned: bool = False) -> Scenes:
    """`count` windows of `window` pixels; the photos are letterboxed at sizes around those of use.

    With `turned`, two in three photos are turned by any angle.
    """
    with ProcessPoolExecutor(_WORKERS) as pool:
        windows, turns = itertools.repeat(window), itertools.repeat(turned)
        parts = list(pool.map(_scene, range(count), windows, turns, chunksize=64))
    images, boxes, landmarks, state = zip(*parts, strict=True)
    return Scenes(np.stack(images), np.stack(boxes), np.stack(landmarks), np.stack(state))


def make_crops(identities: int, photos: int, detector: DetectorSpec) -> Crops:
    """Crops of the first `identities` training people, aligned by the landmarks that `detector` itself finds.

    So an embedder learns from the misalignment it will meet. Each photo gives a crop with the detected
    landmarks and one with noise of 0-4 % of the distance between eyes and mouth on top; photos without a
    detection give none.
    """
    seeds = TRAIN_SEEDS[:identities]
    with ProcessPoolExecutor(_WORKERS) as pool:
        parts = list(
            pool.map(
                _identity_crops,
                seeds,
                itertools.repeat(photos),
                itertools.repeat(detector),
                chunksize=32,
            )
        )
    labels = [np.full(len(part), label, np.int64) for label, part in enumerate(parts)]
    return Crops(np.concatenate(parts), np.concatenate(labels))


def _scene(
    index: int, window: int, turned: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]:
    cv2.setNumThreads(1)
    rng = np.random.default_rng([_SCENE_STREAM, index])
    photo = _photo(rng, index)
    if turned and rng.random() < 0.67:
        photo = turned_photo(photo, float(rng.uniform(-180, 180)))
    height, width = photo.image.shape[:2]
    scale = float(np.exp(rng.uniform(np.log(200), np.log(400)))) / max(height, width)
    if rng.random() < 0.1:
        scale *= 1.5
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.resize(through_jpeg(photo.image, int(rng.integers(75, 96))), size)
    boxes = np.array([face.box for face in photo.faces], np.float32).reshape(-1, 4) * scale
    landmarks = np.array([face.landmarks for face in photo.faces], np.float32).reshape(-1, 5, 2) * scale

    corner = np.zeros(2)
    free = np.array(size) - window
    for axis in range(2):
        low, high = min(0, int(free[axis])), max(0, int(free[axis]))
        if len(boxes) and rng.random() < 0.9:
            box = boxes[rng.integers(len(boxes))]
            first, last = int(box[axis + 2] + 4) - window, int(box[axis] - 4)
            low, high = max(low, first), min(high, last)
        corner[axis] = rng.integers(low, high + 1) if low <= high else (low + high) // 2
    canvas = np.zeros((window, window, 3), np.uint8)
    x, y = int(corner[0]), int(corner[1])
    part = image[max(0, y) : y + window, max(0, x) : x + window]
    canvas[max(0, -y) : max(0, -y) + part.shape[0], max(0, -x) : max(0, -x) + part.shape[1]] = part

    out_boxes = np.zeros((MAX_FACES, 4), np.float32)
    out_landmarks = np.zeros((MAX_FACES, 5, 2), np.float32)
    state = np.zeros(MAX_FACES, np.int8)
    for place, (box, points) in enumerate(zip(boxes - np.tile(corner, 2), landmarks - corner, strict=True)):
        inside = np.clip(box, 0, window)
        area = float(np.prod(box[2:] - box[:2]))
        share = float(np.prod(inside[2:] - inside[:2])) / area
        out_boxes[place], out_landmarks[place] = box, points
        state[place] = 1 if share > 0.9 else (-1 if share > 0.05 else 0)
    return canvas, out_boxes, out_landmarks, state


def _photo(rng: np.random.Generator, index: int) -> Photo:
    kind = rng.random()
    if kind < 0.12:
        return render_scenery(
            TRAIN_SEEDS[0] + index, (int(rng.integers(300, 700)), int(rng.integers(300, 700)))
        )
    if kind < 0.32:
        seeds = rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop, int(rng.integers(2, MAX_FACES + 1)))
        return render_group([make_person(int(seed)) for seed in seeds], TRAIN_SEEDS[0] + index)
    person = make_person(int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop)))
    photo = render_portrait(person, TRAIN_SEEDS[0] + index, max_yaw=float(rng.uniform(15, 45)))
    return _close_up(photo, float(rng.uniform(1.3, 2.0))) if kind > 0.86 else photo


def turned_photo(photo: Photo, degrees: float) -> Photo:
    """The photo turned counterclockwise on a larger black canvas. A box becomes that of the turned ellipse inside it."""
    height, width = photo.image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    cosine, sine = np.abs(matrix[0, :2])
    wide, high = int(np.ceil(width * cosine + height * sine)), int(np.ceil(width * sine + height * cosine))
    matrix[:, 2] += ((wide - width) / 2, (high - height) / 2)
    faces = []
    for face in photo.faces:
        low, top = np.array(face.box[:2]), np.array(face.box[2:])
        middle, half = matrix[:, :2] @ ((low + top) / 2) + matrix[:, 2], (top - low) / 2
        reach = np.hypot(half * (cosine, sine), half[::-1] * (sine, cosine))
        box = (*map(float, middle - reach), *map(float, middle + reach))
        points = (face.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        faces.append(Face((box[0], box[1], box[2], box[3]), points))
    turned = cv2.warpAffine(photo.image, matrix, (wide, high)).astype(np.uint8, copy=False)
    return Photo(turned, tuple(faces))


def _close_up(photo: Photo, reach: float) -> Photo:
    """The square around the only face of a photo, `reach` times as large as the face."""
    face = photo.faces[0]
    low, high = np.array(face.box[:2]), np.array(face.box[2:])
    side = float((high - low).max()) * reach
    x, y = np.maximum(np.round((low + high - side) / 2), 0).astype(int)
    cut = photo.image[y : y + round(side), x : x + round(side)]
    offset = np.array([x, y], np.float32)
    box = tuple(float(edge) for edge in np.array(face.box) - np.tile(offset, 2))
    return Photo(cut, (Face((box[0], box[1], box[2], box[3]), face.landmarks - offset),))


def _identity_crops(seed: int, photos: int, detector: DetectorSpec) -> NDArray[np.uint8]:
    cv2.setNumThreads(1)
    network = Detector(detector)
    person = make_person(seed)
    rng = np.random.default_rng([_CROP_STREAM, seed])
    crops = []
    for number in range(photos):
        photo = render_portrait(person, TRAIN_SEEDS[0] + number)
        image = through_jpeg(photo.image, int(rng.integers(75, 96)))
        for face in network.detect(image)[:1]:
            points = face.landmarks
            reach = float(np.linalg.norm(points[3:].mean(0) - points[:2].mean(0)))
            noise = rng.normal(0, rng.uniform(0, 0.04) * reach, (5, 2))
            crops += [norm_crop(image, points), norm_crop(image, points + noise)]
    return np.array(crops, np.uint8).reshape(-1, 112, 112, 3)


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Endless random batches of row numbers; each pass sees every row once, less an incomplete last batch."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
