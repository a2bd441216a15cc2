"""Renders cartoon people from seeds, with exact boxes and landmarks.

Needs only numpy and OpenCV. All functions are pure functions of their seeds: the same call returns the same bytes in
every process, and no global random state is read or written. Colours are RGB throughout.

Geometry is in *face units*: x points to the right and y down, the origin is the middle of the face, and the half width
of the face is one unit. Features lie on an ellipsoid that turns with the pose, so they shift against the silhouette like
the features of a real head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stash_sense_pipeline.sandbox.invented.face_drawing import draw_person
from stash_sense_pipeline.sandbox.invented.head import Face, random_pose
from stash_sense_pipeline.sandbox.invented.marks import Box, Mark, draw_mark
from stash_sense_pipeline.sandbox.invented.rendered_person import RenderedPerson
from stash_sense_pipeline.sandbox.invented.shapes import (
    Image,
    ellipse,
    fill,
    stroke,
)

# First words of the seeds of random streams; PERSON_STREAM is another.
_PORTRAIT_STREAM, _GROUP_STREAM, _SCENERY_STREAM = 12, 13, 14


@dataclass(frozen=True)
class Photo:
    """An RGB image (H, W, 3), its faces from left to right, and the boxes (x1, y1, x2, y2) of its tattoos in pixels."""

    image: Image
    faces: tuple[Face, ...]
    marks: tuple[Box, ...] = ()


def render_portrait(
    person: RenderedPerson,
    seed: int,
    size: tuple[int, int] = (400, 500),
    max_yaw: float = 30.0,
    mark: Mark | None = None,
) -> Photo:
    """One photo of a person. The pose, expression, light and background follow from `seed`.

    A tattoo, `mark`, changes nothing else in the photo.

    `size` is (width, height) in pixels; `max_yaw` is the largest turn of the head in degrees. The face is 0.3 to 0.47 as
    wide as the smaller of the width and 0.8 times the height: at the default size its box is about 120 to 190 px wide.
    """
    width, height = size
    rng = np.random.default_rng([_PORTRAIT_STREAM, person.seed, seed])
    image = _background(rng, width, height)
    half = min(width, 0.8 * height) * rng.uniform(0.15, 0.235)
    centre = (width * (0.5 + rng.uniform(-0.09, 0.09)), height * (0.46 + rng.uniform(-0.06, 0.06)))
    pose = random_pose(rng, centre, half, max_yaw)
    face = draw_person(image, person, pose, rng)
    box = draw_mark(image, person, mark, pose) if mark is not None else None
    return Photo(_develop(image, rng), (face,), () if box is None else (box,))


def render_group(people: Sequence[RenderedPerson], seed: int, size: tuple[int, int] = (900, 600)) -> Photo:
    """One photo of several people side by side, none of them hidden. The faces have the order of `people`.

    At the default size up to five people have faces of more than 80 px. Raises ValueError when `people` is empty.
    """
    if not people:
        raise ValueError("render_group got no people; use render_scenery for a photo without faces")
    width, height = size
    rng = np.random.default_rng([_GROUP_STREAM, seed, *(person.seed for person in people)])
    image = _background(rng, width, height)
    column = width / len(people)
    half = min(column / 3.0, height / 5.6)
    faces = []
    for place, person in enumerate(people):
        centre = (
            column * (place + 0.5 + rng.uniform(-0.05, 0.05)),
            height * (0.42 + rng.uniform(-0.07, 0.07)),
        )
        pose = random_pose(rng, centre, half * rng.uniform(0.86, 1.0), max_yaw=22.0)
        faces.append(draw_person(image, person, pose, rng))
    return Photo(_develop(image, rng), tuple(faces))


def render_scenery(seed: int, size: tuple[int, int] = (400, 500)) -> Photo:
    """A picture without a face: a background with coloured shapes."""
    width, height = size
    rng = np.random.default_rng([_SCENERY_STREAM, seed])
    image = _background(rng, width, height)
    _draw_clutter(image, rng, int(rng.integers(4, 22)))
    return Photo(_develop(image, rng), ())


def encode_jpeg(image_rgb: Image, quality: int = 90) -> bytes:
    """The RGB image as a JPEG file."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return data.tobytes()


def _background(rng: np.random.Generator, width: int, height: int) -> Image:
    """A smooth field of colours with a few shapes, often blurred."""
    cells = (int(rng.integers(2, 7)), int(rng.integers(2, 7)))
    base = rng.uniform(50, 215) + rng.normal(0, 26, 3)
    variation = rng.normal(0, 26, (*cells, 1)) + rng.normal(0, 12, (*cells, 3))
    field = np.clip(base + variation, 0, 255).astype(np.uint8)
    image: Image = np.array(cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    _draw_clutter(image, rng, int(rng.integers(0, 9)))
    if rng.random() < 0.5:
        return np.asarray(cv2.blur(image, (9, 9)), np.uint8)
    return image


def _draw_clutter(image: Image, rng: np.random.Generator, count: int) -> None:
    height, width = image.shape[:2]
    reach = min(width, height)
    for _ in range(count):
        colour = tuple(float(c) for c in rng.integers(0, 256, 3))
        centre = rng.uniform((0, 0), (width, height))
        kind = rng.integers(4)
        if kind == 0:
            shape = centre + rng.uniform(-0.3, 0.3, (int(rng.integers(3, 7)), 2)) * reach
        elif kind == 1:
            shape = centre + ellipse(*rng.uniform(0.02, 0.28, 2)) * reach
        elif kind == 2:
            across, down = rng.uniform(0.03, 0.35, 2) * reach
            shape = centre + np.array([[-across, -down], [across, -down], [across, down], [-across, down]])
        else:
            ends = centre + rng.uniform(-0.5, 0.5, (3, 2)) * reach
            stroke(image, ends, (colour[0], colour[1], colour[2]), int(rng.integers(1, 10)))
            continue
        fill(image, shape, (colour[0], colour[1], colour[2]))


def _develop(image: Image, rng: np.random.Generator) -> Image:
    """The image as a camera takes it: with uneven coloured light, exposure, blur and sensor noise."""
    height, width = image.shape[:2]
    slope_x, slope_y = rng.uniform(-0.13, 0.13, 2)
    grid_x, grid_y = np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8))
    warmth = 1 + rng.uniform(-0.06, 0.06, 3)
    light = (rng.uniform(0.84, 1.12) * (1 + slope_x * grid_x + slope_y * grid_y))[..., None] * warmth
    wide = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    lit = cv2.multiply(image, wide, dtype=cv2.CV_8U)
    sigma = rng.uniform(0.0, 1.3)
    if sigma > 0.45:
        lit = cv2.GaussianBlur(lit, (0, 0), sigma)
    # A repeated tile of noise: fresh noise for every pixel would take longer than all the drawing.
    tile = rng.normal(0, rng.uniform(0.5, 6.0), (96, 96, 3)).astype(np.int16)
    noise = np.tile(tile, (height // 96 + 1, width // 96 + 1, 1))[:height, :width]
    return np.asarray(cv2.add(lit, noise, dtype=cv2.CV_8U), np.uint8)
