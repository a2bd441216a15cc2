"""The sidecar's handling of tattoos, written from the contract alone: numpy, OpenCV and ONNX Runtime, no module of ours."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

Box = tuple[float, float, float, float, float]


def detect(path: Path, picture: NDArray[np.uint8]) -> list[Box]:
    """(x, y, w, h, confidence) of each tattoo, 0..1 of the picture: YOLOv5 at 640 with a letterbox of grey 114."""
    height, width, _ = picture.shape
    factor = 640 / max(height, width)
    inner_width, inner_height = round(width * factor), round(height * factor)
    margin_x, margin_y = (640 - inner_width) // 2, (640 - inner_height) // 2
    canvas = np.zeros((640, 640, 3), np.uint8) + np.uint8(114)
    small = cv2.resize(picture, (inner_width, inner_height), interpolation=cv2.INTER_LINEAR)
    canvas[margin_y : margin_y + inner_height, margin_x : margin_x + inner_width] = small
    tensor = np.moveaxis(canvas.astype(np.float32) / 255, -1, 0)[None]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = session.run(None, {session.get_inputs()[0].name: tensor})[0][0]
    candidates = []
    for x, y, w, h, objectness, kind in rows:
        # The numbers of the network are float32, and so are their sums and products.
        confidence = float(objectness * kind)
        if confidence >= 0.25:
            corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            candidates.append((*map(float, corners), confidence))
    candidates.sort(key=lambda each: -each[4])
    kept: list[tuple[float, ...]] = []
    for each in candidates:
        if all(_iou(each, other) <= 0.45 for other in kept):
            kept.append(each)
    found = []
    for x1, y1, x2, y2, confidence in kept:
        left = min(max((x1 - margin_x) / factor, 0.0), width)
        right = min(max((x2 - margin_x) / factor, 0.0), width)
        top = min(max((y1 - margin_y) / factor, 0.0), height)
        bottom = min(max((y2 - margin_y) / factor, 0.0), height)
        found.append(
            (left / width, top / height, (right - left) / width, (bottom - top) / height, confidence)
        )
    return found


def _iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(across, 0.0) * max(down, 0.0)
    first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / max(first + second - shared, 1e-6)


def embed(path: Path, picture: NDArray[np.uint8], box: Box) -> NDArray[np.float32]:
    """The vector (1280,) of length 1 of a tattoo."""
    height, width, _ = picture.shape
    x, y, w, h, _ = box
    x1, y1 = max(0, math.trunc((x - 0.1 * w) * width)), max(0, math.trunc((y - 0.1 * h) * height))
    x2 = min(width, math.trunc((x + w + 0.1 * w) * width))
    y2 = min(height, math.trunc((y + h + 0.1 * h) * height))
    crop = picture[y1:y2, x1:x2]
    rows, columns, _ = crop.shape
    factor = 256 / min(rows, columns)
    scaled = cv2.resize(
        crop,
        (256, round(rows * factor)) if columns <= rows else (round(columns * factor), 256),
        interpolation=cv2.INTER_LINEAR,
    )
    top, left = (scaled.shape[0] - 224) // 2, (scaled.shape[1] - 224) // 2
    values = scaled[top : top + 224, left : left + 224] / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    tensor = np.moveaxis((values - mean) / deviation, -1, 0)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (vector,) = session.run(None, {session.get_inputs()[0].name: tensor})[0]
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def hint(box: Box) -> str:
    """The words for the place of a tattoo."""
    x, y, w, h, _ = box
    column = "left" if x + w / 2 < 0.4 else "right" if x + w / 2 > 0.6 else ""
    row = "upper body" if y + h / 2 < 0.4 else "lower body" if y + h / 2 > 0.7 else ""
    if not row:
        return f"{column} side" if column else "torso"
    return f"{column} {row}".strip()
