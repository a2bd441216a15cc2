"""Extracts the face of an image: decode, detect, choose, align, measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.faces import StoredFace
from stash_sense_pipeline.faces.extraction.align import blur_measure, norm_crop, roll_degrees, yaw_degrees
from stash_sense_pipeline.faces.extraction.decode import DecodedImage, DecodeLimits
from stash_sense_pipeline.faces.extraction.decode_process import ImageDecoder
from stash_sense_pipeline.faces.extraction.quality import (
    Filters,
    check_image_size,
    choose_face,
    quality_score,
)
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline.faces.models.detector import DetectedFace, Detector
from stash_sense_pipeline.faces.models.face_finder import FaceFinder
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.records.perceptual_hash import picture_hash


@dataclass(frozen=True)
class ExtractedFace:
    """The face of a picture, ready to be stored. `faces`: how many the detector found. `picture`: width and height."""

    face: StoredFace
    faces: int
    picture: tuple[int, int]


class FaceExtractor:
    """Decode, detect, choose and align, with one detector for all threads."""

    def __init__(
        self, pack: ModelPack, detector: Detector, filters: Filters, single_face: bool, limits: DecodeLimits
    ) -> None:
        self._pack = pack
        self._finder = FaceFinder(detector)
        self._filters = filters
        self._single_face = single_face
        self._decoder = ImageDecoder(limits)

    def extract(self, data: bytes) -> StoredFace:
        """The face that an image file contributes, as `face_of`. Raises Rejected with the reason."""
        return self.face_of(self.decode(data)).face

    def decode(self, data: bytes) -> DecodedImage:
        """The pixels of an image file. Raises Rejected with the reason."""
        return self._decoder.decode(data)

    def face_of(self, image: DecodedImage) -> ExtractedFace:
        """The face that a picture contributes. Raises Rejected with the reason.

        Box, landmarks and the sizes in the filters are in pixels of the upright picture at full size, also when the
        picture was decoded at half its size, padded or turned. The filters and the yaw see the turned face.
        """
        check_image_size(*image.size, self._filters)
        found = self._finder.find(image.rgb)
        detected = [_at_full_size(face, image.reduction) for face in found.faces]
        choice = choose_face(detected, self._filters, self._single_face)
        face = choice.face
        try:
            crop = norm_crop(found.pixels, face.landmarks / image.reduction)
        except ValueError as error:
            raise Rejected(Reason.BAD_LANDMARKS) from error
        yaw, blur = yaw_degrees(face.landmarks), blur_measure(crop)
        shown = _at_full_size(found.in_picture(found.faces[choice.index]), image.reduction)
        columns: dict[str, Any] = {
            "face_index": choice.index,
            "detection_confidence": face.confidence,
            **dict(zip(("x1", "y1", "x2", "y2"), map(float, shown.box), strict=True)),
            "landmarks": np.asarray(shown.landmarks, dtype="<f4").tobytes(),
            "yaw": yaw,
            "roll": roll_degrees(shown.landmarks),
            "blur": blur,
            "quality": quality_score(face.confidence, face.side, yaw, blur),
            "pack": self._pack.name,
            "detector_digest": self._pack.detector.finding_digest,
        }
        stored = StoredFace(columns, encode_crop(crop), picture_hash(image.rgb))
        return ExtractedFace(stored, len(detected), image.size)


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
