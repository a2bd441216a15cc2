"""The orientation of an image: read from its EXIF data, and applied to its pixels."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

UPRIGHT = 1

_TAG = 0x0112
_PREFIX = b"Exif\0\0"
_ENTRY_BYTES = 12
_VALUE_AT = 8
# Types that a value has: SHORT by the standard, LONG as some programs write it.
_VALUES = {3: "H", 4: "I"}


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8 (EXIF 2.32, tag 0x0112), in EXIF data; 1 when there is none or the data is damaged.

    `exif` is a TIFF structure, with or without the prefix of a JPEG's APP1 segment.
    """
    tiff = exif.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for number in range(entries):
            at = directory + 2 + number * _ENTRY_BYTES
            tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
            if tag == _TAG and kind in _VALUES:
                (value,) = struct.unpack_from(f"{order}{_VALUES[kind]}", tiff, at + _VALUE_AT)
                return value if UPRIGHT <= value <= 8 else UPRIGHT
    except struct.error:
        pass  # the directory lies outside the data
    return UPRIGHT


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(height, width, 3) pixels as a viewer shows them under an EXIF orientation 1 to 8, contiguous."""
    turned = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.swapaxes(0, 1),
        6: lambda: np.rot90(pixels, -1),
        7: lambda: np.rot90(pixels, 2).swapaxes(0, 1),
        8: lambda: np.rot90(pixels),
    }.get(orientation)
    return np.ascontiguousarray(turned()) if turned is not None else pixels
