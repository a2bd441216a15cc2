"""Extracts the face of an image: decode, detect, choose, align, measure."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.faces import StoredFace
from stash_sense_pipeline.faces.extraction.align import blur_measure, norm_crop, roll_degrees, yaw_degrees
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.decode_process import ImageDecoder
from stash_sense_pipeline.faces.extraction.quality import (
    Filters,
    check_image_size,
    choose_face,
    quality_score,
)
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline.faces.models.detector import DetectedFace, Detector
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.records.perceptual_hash import picture_hash


class FaceExtractor:
    """Decode, detect, choose and align, with one detector for all threads."""

    def __init__(
        self, pack: ModelPack, detector: Detector, filters: Filters, single_face: bool, limits: DecodeLimits
    ) -> None:
        self._pack = pack
        self._detector = detector
        self._filters = filters
        self._single_face = single_face
        self._decoder = ImageDecoder(limits)

    def extract(self, data: bytes) -> StoredFace:
        """The face that an image file contributes, ready to be stored. Raises Rejected with the reason.

        Box, landmarks and the sizes in the filters are in pixels of the upright picture at full size, also when the
        picture was decoded at half its size.
        """
        image = self._decoder.decode(data)
        rgb = image.rgb
        check_image_size(*image.size, self._filters)
        detected = [_at_full_size(face, image.reduction) for face in self._detector.detect(rgb)]
        choice = choose_face(detected, self._filters, self._single_face)
        face = choice.face
        try:
            crop = norm_crop(rgb, face.landmarks / image.reduction)
        except ValueError as error:
            raise Rejected(Reason.BAD_LANDMARKS) from error
        yaw, blur = yaw_degrees(face.landmarks), blur_measure(crop)
        columns: dict[str, Any] = {
            "face_index": choice.index,
            "detection_confidence": face.confidence,
            **dict(zip(("x1", "y1", "x2", "y2"), map(float, face.box), strict=True)),
            "landmarks": np.asarray(face.landmarks, dtype="<f4").tobytes(),
            "yaw": yaw,
            "roll": roll_degrees(face.landmarks),
            "blur": blur,
            "quality": quality_score(face.confidence, face.side, yaw, blur),
            "pack": self._pack.name,
            "detector_digest": self._pack.detector.digest,
        }
        return StoredFace(columns, encode_crop(crop), picture_hash(rgb))


def _at_full_size(face: DetectedFace, reduction: int) -> DetectedFace:
    return DetectedFace(face.box * reduction, face.landmarks * reduction, face.confidence)


def encode_crop(crop: NDArray[np.uint8]) -> bytes:
    """An RGB crop (112, 112, 3) uint8 as PNG."""
    done, png = cv2.imencode(".png", np.ascontiguousarray(crop[:, :, ::-1]))
    if not done:
        raise RuntimeError("OpenCV cannot write PNG")
    return png.tobytes()


def decode_crop(png: bytes) -> NDArray[np.uint8]:
    """The RGB crop (112, 112, 3) uint8 that `encode_crop` wrote; CatalogError when the bytes are damaged."""
    bgr = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise CatalogError("an aligned crop in the catalog is damaged; restore a backup")
    return np.ascontiguousarray(bgr[:, :, ::-1], dtype=np.uint8)
