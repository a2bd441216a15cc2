"""Tattoo detector (YOLOv5): letterboxed picture in, boxes out, with the sidecar's thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.models.model_packs import TattooDetectorSpec
from stash_sense_pipeline.faces.models.onnx_sessions import Device, open_session, running
from stash_sense_pipeline.foundation.errors import ModelPackError

# The sidecar's values.
THRESHOLD = 0.25
NMS_THRESHOLD = 0.45
_GREY = 114
# Numbers a row of the output: middle (x, y), width and height in pixels of the input, objectness, confidence of the class.
_ROW = 6
# A network that finds more boxes than this in one picture before overlapping ones are removed is unfit for the picture.
_MOST_BOXES = 2_000
# More tattoos than this are not stored for one picture: the surest count.
MOST_TATTOOS = 20


# The sidecar compares these words with those of a query, so both must have the same limits.
_LEFT_OF, _RIGHT_OF = 0.4, 0.6
_ABOVE, _BELOW = 0.4, 0.7


@dataclass(frozen=True)
class TattooRegion:
    """The box of a tattoo, 0..1 of the width and height of the upright picture, and the confidence of the detector."""

    x: float
    y: float
    width: float
    height: float
    confidence: float

    @property
    def location_hint(self) -> str:
        """The part of the picture in which the middle of the box is, in the sidecar's words."""
        across, down = self.x + self.width / 2, self.y + self.height / 2
        side = "left" if across < _LEFT_OF else "right" if across > _RIGHT_OF else ""
        if _ABOVE <= down <= _BELOW:
            return f"{side} side" if side else "torso"
        part = "upper body" if down < _ABOVE else "lower body"
        return f"{side} {part}" if side else part


@dataclass(frozen=True)
class Letterbox:
    """A picture scaled into a square with grey bars. `ratio`: its scale. `left`, `top`: its place in the square."""

    image: NDArray[np.uint8]
    ratio: float
    left: int
    top: int


def letterbox(rgb: NDArray[np.uint8], side: int) -> Letterbox:
    """Scales an (H, W, 3) picture by bilinear interpolation so that its longer side is `side`."""
    height, width = rgb.shape[:2]
    ratio = side / max(height, width)
    new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    left, top = (side - new_width) // 2, (side - new_height) // 2
    scaled = rgb
    if (new_width, new_height) != (width, height):
        scaled = np.asarray(
            cv2.resize(rgb, (new_width, new_height), interpolation=cv2.INTER_LINEAR), np.uint8
        )
    image = np.full((side, side, 3), _GREY, dtype=np.uint8)
    image[top : top + new_height, left : left + new_width] = scaled
    return Letterbox(image, ratio, left, top)


class TattooDetector:
    """Finds tattoos. Threads may share it: calls keep no state."""

    def __init__(self, spec: TattooDetectorSpec, threads: int = 1, device: Device = Device.CPU) -> None:
        """Loads the network. Raises ModelPackError when its input or output is another than that of a YOLOv5."""
        self.spec = spec
        self._session = open_session(spec.path, device, threads)
        (taken,) = self._session.get_inputs()
        expected = [3, spec.input_size, spec.input_size]
        if [side for side in taken.shape[1:] if isinstance(side, int)] not in (expected, [3], []):
            raise ModelPackError(
                f"{spec.path}: takes the shape {taken.shape}, but pack.yaml says {['N', *expected]}"
            )
        self._input = taken.name
        self._output = self._session.get_outputs()[0].name

    def detect(self, rgb: NDArray[np.uint8]) -> list[TattooRegion]:
        """The tattoos of an (H, W, 3) uint8 RGB picture, the surest first, at most `MOST_TATTOOS`.

        Boxes are cut at the edges of the picture; a box without an area in it is left out, and so is a row of the
        output that is not finite.
        """
        boxed = letterbox(rgb, self.spec.input_size)
        blob = np.ascontiguousarray(boxed.image.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
        with running(self.spec.path):
            (output,) = self._session.run([self._output], {self._input: blob})
        if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] != _ROW:
            raise ModelPackError(
                f"{self.spec.path}: is not a YOLOv5 detector of one class: it gives {list(output.shape)}"
                f" where {[1, 'N', _ROW]} is expected"
            )
        if not np.isfinite(output).all(axis=2).any():
            raise ModelPackError(
                f"{self.spec.path}: gives no finite number for a picture; check the network and the device"
            )
        boxes, scores = _sure_boxes(output[0])
        kept = _without_overlaps(boxes, scores)
        regions = (_region(boxes[place], float(scores[place]), boxed, rgb.shape[:2]) for place in kept)
        return [region for region in regions if region is not None][:MOST_TATTOOS]


def _sure_boxes(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The corners (N, 4) and scores (N,) of rows with a score of at least the threshold, the surest first."""
    with np.errstate(over="ignore", invalid="ignore"):
        scores = rows[:, 4] * rows[:, 5]
        sure = np.isfinite(rows).all(axis=1) & (scores >= THRESHOLD)
        middles, sides = rows[sure, :2], rows[sure, 2:4]
        boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
    scores = scores[sure]
    order = np.argsort(-scores, kind="stable")[:_MOST_BOXES]
    return boxes[order], scores[order]


def _without_overlaps(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> list[int]:
    """The places of boxes that overlap with no surer box by more than the threshold; the boxes are sorted by score."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    areas = np.prod(high - low, axis=1)
    left = np.arange(len(scores))
    kept = []
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        sides = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        union = np.maximum(areas[best] + areas[left] - shared, 1e-6)
        left = left[shared / union <= NMS_THRESHOLD]
    return kept


def _region(
    box: NDArray[np.float32], score: float, boxed: Letterbox, shape: tuple[int, ...]
) -> TattooRegion | None:
    height, width = shape
    bars, size = np.array([boxed.left, boxed.top]), np.array([width, height])
    low, high = (np.clip((corner - bars) / boxed.ratio, 0, size) for corner in (box[:2], box[2:]))
    # In the sidecar's order: a width from rounded edges could lead to another pixel of the crop.
    (x, y), (across, down) = map(float, low / size), map(float, (high - low) / size)
    return TattooRegion(x, y, across, down, min(1.0, score)) if across > 0 and down > 0 else None
