"""The criteria behind a verdict, stored with it, so that looser ones requeue the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.quality import Filters
from stash_sense_pipeline.faces.extraction.rejection_reasons import SEEN, Reason
from stash_sense_pipeline.faces.models.model_packs import DetectorSpec

_FILTER_REASONS = frozenset({Reason.LOW_CONFIDENCE, Reason.FACE_TOO_SMALL, Reason.TURNED_AWAY})
_JUDGED = SEEN | {
    *(Reason.IMAGE_TOO_SMALL, Reason.TOO_MANY_PIXELS, Reason.TOO_MANY_BYTES, Reason.TOO_COSTLY),
}
# The version of decoding, raised when a file decodes to other pixels. 2: EXIF orientation is applied, 16-bit grey is
# scaled, and damaged metadata or a few missing bytes do not reject a file.
_READING = 2
_SINCE_READING_2 = ("m", "n", "x", "u")
_OTHERWISE_READ = (SEEN - {Reason.SEVERAL_FACES}) | {Reason.TRUNCATED, Reason.NOT_AN_IMAGE}


@dataclass(frozen=True)
class AcceptanceCriteria:
    """All settings, except the detector, that decide on the bytes of an image. Units: pixels, 0..1, degrees, bytes."""

    detection_size: int
    threshold: float
    min_face_size: int
    min_image_size: int
    min_confidence: float
    max_angle: float
    single_face: bool
    max_pixels: int
    max_bytes: int
    max_memory: int
    max_scans: int
    max_scan_pixels: int
    max_seconds: int

    @classmethod
    def of(
        cls, detector: DetectorSpec, filters: Filters, high_trust: bool, limits: DecodeLimits
    ) -> AcceptanceCriteria:
        """The criteria that follow from a pack, the settings and the trust in a source."""
        return cls(
            detection_size=detector.input_size,
            threshold=detector.threshold,
            min_face_size=filters.min_face_size,
            min_image_size=filters.min_image_size,
            min_confidence=filters.min_detection_confidence,
            max_angle=filters.max_face_angle,
            single_face=high_trust and filters.prefer_single_face,
            max_pixels=limits.max_pixels,
            max_bytes=limits.max_bytes,
            max_memory=limits.max_memory,
            max_scans=limits.max_scans,
            max_scan_pixels=limits.max_scan_pixels,
            max_seconds=limits.max_seconds,
        )

    @property
    def text(self) -> str:
        """Short form for the ledger: equal criteria have equal texts."""
        return (
            f"d{self.detection_size} t{self.threshold:g} f{self.min_face_size} i{self.min_image_size}"
            f" c{self.min_confidence:g} y{self.max_angle:g} s{int(self.single_face)} p{self.max_pixels} b{self.max_bytes}"
            f" m{self.max_memory} n{self.max_scans} x{self.max_scan_pixels} u{self.max_seconds} r{_READING}"
        )

    def requeues(self, judged_by: str) -> frozenset[Reason]:
        """The reasons for rejection by the criteria with the text `judged_by` that may not hold under these."""
        new = _parsed(self.text)
        # A text without these limits has the version 1 of decoding.
        old = {**{key: new[key] for key in _SINCE_READING_2}, "r": 1.0, **_parsed(judged_by)}
        if old.keys() != new.keys():
            return _JUDGED
        reopened: set[Reason] = set()
        if new["r"] > old["r"]:
            reopened |= _OTHERWISE_READ
        if new["i"] < old["i"]:
            reopened.add(Reason.IMAGE_TOO_SMALL)
        if new["p"] > old["p"] or new["m"] > old["m"]:
            reopened.add(Reason.TOO_MANY_PIXELS)
        if new["b"] > old["b"]:
            reopened.add(Reason.TOO_MANY_BYTES)
        if any(new[key] > old[key] for key in _SINCE_READING_2):
            reopened.add(Reason.TOO_COSTLY)
        if (new["d"], new["t"]) != (old["d"], old["t"]):
            reopened |= SEEN
        # A smaller face may pass although the largest one fails, so a looser filter requeues the reasons of all filters.
        if new["f"] < old["f"] or new["c"] < old["c"] or new["y"] > old["y"]:
            reopened |= _FILTER_REASONS
        if new["f"] > old["f"] or new["c"] > old["c"] or new["y"] < old["y"] or new["s"] < old["s"]:
            reopened.add(Reason.SEVERAL_FACES)
        return frozenset(reopened)


def _parsed(text: str) -> Mapping[str, float]:
    return {word[0]: float(word[1:]) for word in text.split()}
