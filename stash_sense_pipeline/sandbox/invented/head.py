"""A head in one photo: its place, its pose, and the outline of its face."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.sandbox.invented.rendered_person import RenderedPerson
from stash_sense_pipeline.sandbox.invented.shapes import (
    Points,
)

# The upper edge of a detector's box, in face units: below the hairline of most people.
FOREHEAD = -0.92


@dataclass(frozen=True)
class Face:
    """One face of a photo: box (x1, y1, x2, y2) in pixels, and landmarks (5, 2) float32 in pixels.

    Landmarks have the order of insightface: left eye, right eye, nose, left and right corner of the mouth. Left and right
    are those of the image.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]


@dataclass(frozen=True)
class Pose:
    """The centre of a face in pixels, its half width in pixels, and the turn of the head in radians."""

    centre: tuple[float, float]
    half: float
    yaw: float
    pitch: float
    roll: float

    def surface(self, points: Points, lift: float = 0.0) -> Points:
        """Pixels (N, 2) of points of the face (N, 2) on the ellipsoid, raised by `lift`."""
        x, y = points[:, 0], points[:, 1]
        depth = 0.92 * np.sqrt(np.clip(1 - (x / 1.12) ** 2 - (y / 1.7) ** 2, 0.0, 1.0)) + lift
        turned = x * math.cos(self.yaw) + depth * math.sin(self.yaw)
        towards = depth * math.cos(self.yaw) - x * math.sin(self.yaw)
        return self.flat(
            np.stack([turned, y * math.cos(self.pitch) - (towards - 0.8) * math.sin(self.pitch)], 1)
        )

    def silhouette(self, points: Points) -> Points:
        """Pixels of points of the outline. It keeps its width when the head turns; the chin shifts."""
        swing = math.sin(self.yaw) * (0.16 + 0.22 * np.clip(points[:, 1], 0.0, 1.2))
        return self.flat(np.stack([points[:, 0] + swing, points[:, 1]], 1))

    def flat(self, points: Points) -> Points:
        """Pixels of points that roll with the head, and do not turn."""
        cos, sin = math.cos(self.roll) * self.half, math.sin(self.roll) * self.half
        x, y = points[:, 0], points[:, 1]
        return np.stack([self.centre[0] + cos * x - sin * y, self.centre[1] + sin * x + cos * y], 1)


def random_pose(rng: np.random.Generator, centre: tuple[float, float], half: float, max_yaw: float) -> Pose:
    """A pose with random angles; `max_yaw` is in degrees."""
    limit = math.radians(max_yaw)
    return Pose(
        centre=centre,
        half=float(half),
        yaw=float(np.clip(rng.normal(0, limit / 2), -limit, limit)),
        pitch=float(np.clip(rng.normal(0, 0.1), -0.22, 0.22)),
        roll=float(np.clip(rng.normal(0, 0.09), -0.26, 0.26)),
    )


def face_outline(person: RenderedPerson) -> Points:
    """The outline of a face (N, 2) in face units: half a superellipse for the skull, two curves for jaw and chin."""
    angle = np.linspace(0, math.pi, 25)
    power = 2 / person.skull_power
    cos, sin = np.cos(angle), np.sin(angle)
    skull = np.stack([np.sign(cos) * np.abs(cos) ** power, -person.skull_height * np.abs(sin) ** power], 1)
    t = np.linspace(0, 1, 7)[1:, None]
    cheek = np.array([-1.0, 0.0])
    jaw = np.array([-person.jaw_width, person.jaw_height])
    chin = np.array([-person.chin_width, person.chin_length])
    pull = np.array([-1.0, person.jaw_height * 0.55])
    upper = (1 - t) ** 2 * cheek + 2 * t * (1 - t) * pull + t**2 * jaw
    bend = np.array([-person.jaw_width * 0.8, person.jaw_height * 0.35 + person.chin_length * 0.65])
    lower = (1 - t) ** 2 * jaw + 2 * t * (1 - t) * bend + t**2 * chin
    left = np.concatenate([upper, lower])
    tip = np.array([[0.0, person.chin_length + 0.06 * (1 - person.chin_width)]])
    return np.concatenate([skull, left, tip, left[::-1] * np.array([-1.0, 1.0])])
