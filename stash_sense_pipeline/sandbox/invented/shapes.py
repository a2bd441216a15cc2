"""Draws filled shapes, lines and soft areas into an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[float, float, float]

# Fractional bits of the coordinates that OpenCV's drawing functions get.
_SHIFT = 4
_UNIT_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * math.pi, 21)[:-1]), np.sin(np.linspace(0, 2 * math.pi, 21)[:-1])], 1
)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour at `share` of the way from the first to the second."""
    mixed = [a + (b - a) * share for a, b in zip(first, second, strict=True)]
    return (mixed[0], mixed[1], mixed[2])


def ellipse(across: float, down: float) -> Points:
    """Twenty points (20, 2) of an ellipse around the origin with these half axes."""
    return np.asarray(_UNIT_CIRCLE * np.array([across, down]), np.float64)


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def fill(image: Image, points: Points, colour: Colour) -> None:
    """Fills a polygon, with smooth edges."""
    cv2.fillPoly(image, [_fixed(points)], colour, cv2.LINE_AA, _SHIFT)


def fill_mask(mask: Image, points: Points) -> None:
    """Sets the pixels of a polygon in a mask (H, W) to 255."""
    cv2.fillPoly(mask, [_fixed(points)], 255, cv2.LINE_8, _SHIFT)


def stroke(image: Image, points: Points, colour: Colour, thickness: int) -> None:
    """Draws an open line through the points, `thickness` pixels wide."""
    cv2.polylines(image, [_fixed(points)], False, colour, thickness, cv2.LINE_AA, _SHIFT)


def dot(image: Image, centre: Points, radius: float, colour: Colour) -> None:
    """Draws a filled circle; `centre` (2,) and `radius` are in pixels."""
    x, y = _fixed(centre)
    cv2.circle(
        image, (int(x), int(y)), max(1, round(radius * (1 << _SHIFT))), colour, -1, cv2.LINE_AA, _SHIFT
    )


def soft_fill(image: Image, shapes: Sequence[Points], colour: Colour, strength: float, blur: float) -> None:
    """Blends a colour into the shapes, with edges blurred by `blur` pixels."""
    region = region_around(image, np.concatenate(shapes), math.ceil(2.5 * blur) + 1)
    if region is None:
        return
    (x1, y1), patch = region
    mask = np.zeros(patch.shape[:2], np.uint8)
    for shape in shapes:
        fill_mask(mask, shape - (x1, y1))
    size = 2 * round(blur) + 1
    soft = cv2.blur(mask, (size, size)).astype(np.float32)[..., None] * (strength / 255)
    patch[:] = patch + (np.asarray(colour, np.float32) - patch) * soft


def region_around(image: Image, points: Points, margin: int) -> tuple[tuple[int, int], Image] | None:
    """The upper left corner (x, y) and a view of the part of the image around the points; None when it is empty."""
    height, width = image.shape[:2]
    x1, y1 = np.maximum(np.floor(points.min(0)).astype(int) - margin, 0)
    x2, y2 = np.minimum(np.ceil(points.max(0)).astype(int) + margin + 1, (width, height))
    if x1 >= x2 or y1 >= y2:
        return None
    return (int(x1), int(y1)), image[y1:y2, x1:x2]
