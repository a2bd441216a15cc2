"""Finds the faces of a picture by the rules of a pack: the second pass with padded edges, and the correction of roll."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stash_sense_pipeline.faces.models.detector import DetectedFace, Detector
from stash_sense_pipeline.faces.models.pack_fields import SecondPass

# A turned picture has up to twice the pixels of the picture, and a long strip many times more. A picture that would have
# more pixels than this (192 MB) is not turned.
_MOST_TURNED_PIXELS = 64_000_000


@dataclass(frozen=True)
class FoundFaces:
    """The faces of a picture, and the pixels in which they were found.

    `pixels` are those of the picture, or of the padded or turned picture; `faces` has positions in them. `to_picture`
    (2, 3) maps these positions to the picture.
    """

    faces: tuple[DetectedFace, ...]
    pixels: NDArray[np.uint8]
    to_picture: NDArray[np.float64]

    def in_picture(self, face: DetectedFace) -> DetectedFace:
        """A face with positions in the picture. Its box is the smallest upright one around the box that was found."""
        left, top, right, bottom = map(float, face.box)
        corners = self._mapped(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]))
        box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        return DetectedFace(
            box.astype(np.float32), self._mapped(face.landmarks).astype(np.float32), face.confidence
        )

    def _mapped(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(points @ self.to_picture[:, :2].T + self.to_picture[:, 2], dtype=np.float64)


class FaceFinder:
    """Finds faces with a detector, by the rules of its pack. Threads may share it."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._rules = detector.spec.rules

    def find(self, rgb: NDArray[np.uint8]) -> FoundFaces:
        """The faces of an (H, W, 3) uint8 RGB picture, most confident first.

        When the picture is turned, all faces are those of the turned picture.
        """
        found = self._found(rgb, np.eye(2, 3))
        if not found.faces and self._rules.second_pass is SecondPass.PADDED_EDGES:
            found = self._in_padded(rgb)
        return self._upright(found) if found.faces else found

    def _found(self, pixels: NDArray[np.uint8], to_picture: NDArray[np.float64]) -> FoundFaces:
        return FoundFaces(tuple(self._detector.detect(pixels)), pixels, to_picture)

    def _in_padded(self, rgb: NDArray[np.uint8]) -> FoundFaces:
        border = int(self._rules.padding * min(rgb.shape[:2]))
        padded = cv2.copyMakeBorder(rgb, border, border, border, border, cv2.BORDER_REPLICATE)
        to_picture = np.array([[1.0, 0.0, -border], [0.0, 1.0, -border]])
        return self._found(np.asarray(padded, dtype=np.uint8), to_picture)

    def _upright(self, found: FoundFaces) -> FoundFaces:
        """The faces of the picture turned upright; those of `found` when it needs no turn or none succeeds.

        Each try turns the pixels of `found`: turning a turned picture again would blur it.
        """
        rules = self._rules.roll
        if rules is None:
            return found
        roll, turn = _roll(found.faces), 0.0
        if abs(roll) < rules.from_degrees:
            return found
        for _ in range(rules.tries):
            turn -= roll
            if _turned_pixels(found.pixels, turn) > _MOST_TURNED_PIXELS:
                break
            turned = self._turned(found, turn)
            if not turned.faces:
                break
            roll = _roll(turned.faces)
            if abs(roll) < rules.accept_below:
                return turned
        return found

    def _turned(self, found: FoundFaces, degrees: float) -> FoundFaces:
        pixels = np.asarray(Image.fromarray(found.pixels).rotate(degrees, expand=True), dtype=np.uint8)
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        back = np.array([[cosine, -sine], [sine, cosine]])
        # The middles of both pictures are one point. The middle of a pixel has whole numbers.
        old, new = ((np.array([side.shape[1], side.shape[0]]) - 1) / 2 for side in (found.pixels, pixels))
        onto_found = np.hstack([back, (old - back @ new)[:, None]])
        first, second = (np.vstack([each, [0.0, 0.0, 1.0]]) for each in (onto_found, found.to_picture))
        return self._found(np.ascontiguousarray(pixels), (second @ first)[:2])


def _turned_pixels(pixels: NDArray[np.uint8], degrees: float) -> float:
    """The number of pixels of the smallest upright rectangle around the turned picture."""
    height, width = pixels.shape[:2]
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return float((width * cosine + height * sine) * (width * sine + height * cosine))


def _roll(faces: tuple[DetectedFace, ...]) -> float:
    """The roll of the largest face in degrees: the direction from its eyes to its mouth, 0 for straight down.

    It is computed in float32, as the sidecar does: a turn by 0.00001 degrees more takes other pixels of the picture.
    """
    landmarks = max(faces, key=lambda face: face.area).landmarks
    across, down = landmarks[3:5].mean(axis=0) - landmarks[:2].mean(axis=0)
    return math.degrees(math.atan2(float(across), float(down)))
