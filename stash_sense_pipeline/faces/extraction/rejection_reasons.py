"""The closed list of reasons why an image gives no face."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Value of `source_images.reason`."""

    # The bytes are not what the source meant to send: tried again later, rejected in the end.
    EMPTY = "empty"
    HTML = "html"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    # The bytes are sound, but not for us.
    SVG = "svg"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COSTLY = "too_costly"
    IMAGE_TOO_SMALL = "image_too_small"
    # What the detector saw does not pass the quality filters.
    NO_FACE = "no_face"
    LOW_CONFIDENCE = "low_confidence"
    FACE_TOO_SMALL = "face_too_small"
    TURNED_AWAY = "turned_away"
    BAD_LANDMARKS = "bad_landmarks"
    SEVERAL_FACES = "several_faces"
    # It must not be stored.
    SUPPRESSED = "suppressed"
    # The source does not let us have it: its address is refused by robots.txt or by our own rules of safe
    # addresses.
    DISALLOWED = "disallowed"
    # Its host was found down in this run and was not asked for it.
    HOST_DOWN = "host_down"


# A transfer or a server can have spoiled these bytes: not an answer about the image yet.
SPOILED = frozenset({Reason.EMPTY, Reason.HTML, Reason.NOT_AN_IMAGE, Reason.TRUNCATED})

# These verdicts are the detector's: another one may see it otherwise.
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


class Rejected(Exception):  # noqa: N818 - an answer about an image, not an error of the program
    """An image or face is not used, for `reason`. Never leaves the faces room."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
