"""A reference of what the stash-sense2 sidecar computes, written from its contract with insightface's own classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
from insightface.model_zoo import get_model
from insightface.utils import face_align
from PIL import Image


class ClientFace(NamedTuple):
    """A face as the sidecar sees it: box and landmarks in the pixels it was found in, and the unit vector."""

    box: np.ndarray
    landmarks: np.ndarray
    yaw: float
    vector: np.ndarray


class Client:
    """Detector and embedder by file, fed with RGB arrays as the sidecar feeds them."""

    def __init__(self, detector: Path, embedder: Path, size: int) -> None:
        self._size = (size, size)
        self._detector = get_model(str(detector), providers=["CPUExecutionProvider"])
        self._detector.prepare(-1, input_size=self._size, det_thresh=0.5)
        self._embedder = onnxruntime.InferenceSession(str(embedder), providers=["CPUExecutionProvider"])

    def faces(self, rgb: np.ndarray) -> list[ClientFace]:
        """All faces of a picture, with the padded retry and the correction of roll."""
        found = self._pass(rgb)
        if not found:
            border = int(0.3 * min(rgb.shape[:2]))
            rgb = np.pad(rgb, ((border, border), (border, border), (0, 0)), mode="edge")
            found = self._pass(rgb)
        if not found or abs(roll(found)) < 25:
            return found
        turn, angle = 0.0, roll(found)
        for _ in range(3):
            turn -= angle
            again = self._pass(np.asarray(Image.fromarray(rgb).rotate(turn, expand=True)))
            if not again:
                return found
            angle = roll(again)
            if abs(angle) < 15:
                return again
        return found

    def _pass(self, rgb: np.ndarray) -> list[ClientFace]:
        boxes, landmarks = self._detector.detect(rgb, input_size=self._size)
        return [self._face(rgb, box[:4], points) for box, points in zip(boxes, landmarks, strict=True)]

    def _face(self, rgb: np.ndarray, box: np.ndarray, points: np.ndarray) -> ClientFace:
        crop = face_align.norm_crop(rgb, landmark=points, image_size=112)
        blob = cv2.dnn.blobFromImages([crop], 1 / 127.5, (112, 112), (127.5, 127.5, 127.5), swapRB=True)
        (raw,) = self._embedder.run(None, {self._embedder.get_inputs()[0].name: blob})
        between = np.linalg.norm(points[1] - points[0])
        yaw = math.degrees(math.atan2(points[2][0] - (points[0][0] + points[1][0]) / 2, between / 2))
        return ClientFace(box, points, yaw, raw[0] / np.linalg.norm(raw[0]))


def roll(faces: list[ClientFace]) -> float:
    """Degrees from straight down of the line from the eyes to the mouth, of the largest face."""
    largest = max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
    eyes, mouth = largest.landmarks[:2].mean(axis=0), largest.landmarks[3:].mean(axis=0)
    return math.degrees(math.atan2(mouth[0] - eyes[0], mouth[1] - eyes[1]))
