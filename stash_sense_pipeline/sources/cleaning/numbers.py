"""Cleans whole numbers."""

from __future__ import annotations

import math
from typing import Any

from stash_sense_pipeline.privacy.intake.adults import FIRST_YEAR, LAST_YEAR

# Pixels of one side of an image; the images of reference sites have the same limit.
MAX_SIDE = 100_000


# The shortest known adult was 54 cm tall, the tallest 272 cm.
SHORTEST_CM, TALLEST_CM = 50, 300


INT64_MAX = 2**63 - 1


# No id, count or height has more digits.
_MAX_DIGITS = 18


def numeral(value: Any) -> str | None:
    """A number in the notation of JSON; None for another type, for NaN and infinity, and for more than 64 bits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value) if -INT64_MAX <= value <= INT64_MAX else None
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) <= INT64_MAX else repr(value)
    return None


def whole(value: Any, low: int, high: int) -> int | None:
    """A whole number from `low` to `high`, given as int, as digits, or as a float without fraction; else None."""
    if isinstance(value, str):
        digits = value.strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
            return None
        value = int(digits)
    elif isinstance(value, float):
        if not (math.isfinite(value) and value.is_integer()):
            return None
        value = int(value)
    elif isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if low <= value <= high else None


def year(value: Any) -> int | None:
    """A year in which a career can start or end; None for 0 and any other value."""
    return whole(value, FIRST_YEAR, LAST_YEAR)


def side(value: Any) -> int | None:
    """The width or height of an image in pixels; None outside 1 to MAX_SIDE."""
    return whole(value, 1, MAX_SIDE)
