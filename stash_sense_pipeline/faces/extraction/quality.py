"""Quality filters, the choice of one face, and its quality score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stash_sense_pipeline.faces.extraction.align import yaw_degrees
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline.faces.models.detector import DetectedFace

# A face of this side in pixels has more pixels than the crop of 112 pixels: a larger one is not better.
_FULL_SIDE = 160.0
# Variance of the Laplacian at which the sharpness factor is one half; out-of-focus faces stay below 50.
_HALF_SHARP = 50.0


class Filters(Protocol):
    """The part of settings.QualityFilters that faces needs: pixels, 0..1, degrees."""

    @property
    def min_face_size(self) -> int: ...
    @property
    def min_image_size(self) -> int: ...
    @property
    def min_detection_confidence(self) -> float: ...
    @property
    def max_face_angle(self) -> float: ...
    @property
    def prefer_single_face(self) -> bool: ...


@dataclass(frozen=True)
class Choice:
    """The face that an image contributes, its index in the order of detection, and how many faces are valid."""

    face: DetectedFace
    index: int
    valid: int


def check_image_size(width: int, height: int, filters: Filters) -> None:
    """Raises Rejected when the shorter side is below the minimum."""
    if min(width, height) < filters.min_image_size:
        raise Rejected(Reason.IMAGE_TOO_SMALL)


def rejection_reason(face: DetectedFace, filters: Filters) -> Reason | None:
    """The reason of the first filter that a face does not pass; None for a valid face."""
    if face.confidence < filters.min_detection_confidence:
        return Reason.LOW_CONFIDENCE
    if face.side < filters.min_face_size:
        return Reason.FACE_TOO_SMALL
    if abs(yaw_degrees(face.landmarks)) > filters.max_face_angle:
        return Reason.TURNED_AWAY
    return None


def choose_face(faces: Sequence[DetectedFace], filters: Filters, single_face: bool) -> Choice:
    """The largest valid face.

    Raises Rejected: NO_FACE without a face, the reason of the largest face when none is valid, and SEVERAL_FACES with
    `single_face` and several valid faces. Sources of high trust use `single_face`: a picture of several people does not
    show which face belongs to the performer.
    """
    if not faces:
        raise Rejected(Reason.NO_FACE)
    reasons = [rejection_reason(face, filters) for face in faces]
    valid = [index for index, reason in enumerate(reasons) if reason is None]
    if not valid:
        largest = max(range(len(faces)), key=lambda index: faces[index].area)
        raise Rejected(reasons[largest] or Reason.NO_FACE)
    if single_face and len(valid) > 1:
        raise Rejected(Reason.SEVERAL_FACES)
    best = max(valid, key=lambda index: (faces[index].area, -index))
    return Choice(faces[best], best, len(valid))


def quality_score(confidence: float, side: float, yaw: float, blur: float) -> float:
    """The value of a face as a reference, 0..1: the product of four factors, each 1 for a perfect face.

    confidence of the detector x min(1, side / 160 px) x cos(yaw) x blur / (blur + 50), with `yaw` in degrees
    and `blur` from align.blur_measure. The measure is defined here; only the order of its values is used.
    """
    size = min(1.0, max(0.0, side) / _FULL_SIDE)
    frontal = max(0.0, math.cos(math.radians(yaw)))
    sharp = blur / (blur + _HALF_SHARP)
    return max(0.0, min(1.0, confidence)) * size * frontal * sharp
