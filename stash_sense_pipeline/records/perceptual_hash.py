"""Perceptual hashes of images, and the rule when two images are copies of one picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SIDE = 32
_KEPT = 8
# Largest distance, in bits of 64, of two copies of one picture. Measured on the sandbox's photos (docs/faces.md): copies
# in another size, format or quality differ in at most 4 bits, two photos of one person in 16 or more.
MOST_BITS_OF_A_COPY = 6


def picture_hash(rgb: NDArray[np.uint8]) -> str:
    """Perceptual hash of an (H, W, 3) uint8 RGB image: 64 bits as 16 hexadecimal digits.

    A bit is set when a coefficient is above the median of the lowest 8 x 8 frequencies of the grey 32 x 32 thumbnail
    (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010).
    """
    # Imported here because OpenCV is slow to load, and comparing hashes does not need it.
    import cv2

    thumbnail = cv2.cvtColor(
        cv2.resize(rgb, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
    )
    lowest = cv2.dct(thumbnail.astype(np.float32))[:_KEPT, :_KEPT]
    return np.packbits(lowest > np.median(lowest)).tobytes().hex()


def same_picture(first: str, second: str) -> bool:
    """True when two hashes are of copies of one picture."""
    return (int(first, 16) ^ int(second, 16)).bit_count() <= MOST_BITS_OF_A_COPY


def is_copy(looks: NDArray[np.uint64], picture_hash: str) -> NDArray[np.bool_]:
    """True for each of `looks`, 64-bit hashes, that is of a copy of the picture with `picture_hash` (16 hex digits)."""
    return are_copies(looks, np.uint64(int(picture_hash, 16)))


def are_copies(looks: NDArray[np.uint64], others: NDArray[np.uint64] | np.uint64) -> NDArray[np.bool_]:
    """True for each pair of perceptual hashes, as 64-bit numbers, that are of copies of one picture."""
    return np.asarray(np.bitwise_count(looks ^ others) <= MOST_BITS_OF_A_COPY)
