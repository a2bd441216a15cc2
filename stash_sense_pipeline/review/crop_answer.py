"""The answer to a request for a crop, as it goes from one process to the other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class CropOutcome(IntEnum):
    """What an answer says: a crop, no crop of this face, none of its source in this session, or none at present."""

    CROP = 0
    NO_CROP = 1
    SOURCE_FAILED = 2
    LATER = 3


@dataclass(frozen=True)
class CropAnswer:
    """A crop as PNG, or why there is none: a text without an address or a name.

    `next_request`: no request may go to the source before this time of the monotonic clock; 0 when none was sent.
    """

    outcome: CropOutcome
    content: bytes
    next_request: float = 0.0
