"""The closed list of reasons why an image gives no face."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Value of `source_images.reason`."""

    # The bytes are damaged or not the image: retried later, rejected after the last attempt.
    EMPTY = "empty"
    HTML = "html"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    # The bytes are sound, but beyond the limits or in a format that is not decoded.
    SVG = "svg"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COSTLY = "too_costly"
    IMAGE_TOO_SMALL = "image_too_small"
    # The detected faces do not pass the quality filters.
    NO_FACE = "no_face"
    LOW_CONFIDENCE = "low_confidence"
    FACE_TOO_SMALL = "face_too_small"
    TURNED_AWAY = "turned_away"
    BAD_LANDMARKS = "bad_landmarks"
    SEVERAL_FACES = "several_faces"
    # The image must not be stored.
    SUPPRESSED = "suppressed"
    # The image must not be fetched: robots.txt or the address guard forbids its address.
    DISALLOWED = "disallowed"
    # The host was found down in this run, and the image was not requested.
    HOST_DOWN = "host_down"


# A transfer or a server may have damaged these bytes: not yet a verdict on the image.
SPOILED = frozenset({Reason.EMPTY, Reason.HTML, Reason.NOT_AN_IMAGE, Reason.TRUNCATED})

# These verdicts depend on the detector: another detector may decide differently.
SEEN = frozenset(
    {
        Reason.NO_FACE,
        Reason.LOW_CONFIDENCE,
        Reason.FACE_TOO_SMALL,
        Reason.TURNED_AWAY,
        Reason.BAD_LANDMARKS,
        Reason.SEVERAL_FACES,
    }
)


class Rejected(Exception):  # noqa: N818 - a verdict on an image, not an error of the program
    """An image or face is not used, for `reason`. Never leaves the faces package."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
