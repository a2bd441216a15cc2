"""Search for copies of suppressed images by perceptual hash, for many images at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.privacy.suppression.suppression_hashes import shuffle
from stash_sense_pipeline.records.perceptual_hash import are_copies

# A hash of 64 bits is compared in four pieces of 16 bits.
_PIECE = 16
_PIECE_MASK = np.uint64((1 << _PIECE) - 1)
# XOR masks of a piece that differs in no bit, or in one.
_ONE_BIT = np.array([0, *(1 << bit for bit in range(_PIECE))], dtype=np.uint64)
_HASHES_A_BLOCK = 4_096


def unshuffled(key: bytes, likenesses: Collection[str]) -> NDArray[np.uint64]:
    """The perceptual hashes of these likenesses, shape (n,). A release compares a million images with them."""
    order, flips = shuffle(key)
    shuffled = np.array([int(each, 16) for each in likenesses], dtype=np.uint64) ^ np.uint64(flips)
    hashes = np.zeros_like(shuffled)
    for place, source in enumerate(order):
        hashes |= (shuffled >> np.uint64(place) & np.uint64(1)) << np.uint64(source)
    return hashes


def copies_among(suppressed: NDArray[np.uint64], picture_hashes: Sequence[str | None]) -> NDArray[np.bool_]:
    """Which of `picture_hashes` (16 hex digits; None is no copy) are copies of a suppressed hash: a mask (n,).

    Two copies differ in so few bits that one of the four pieces differs in at most one bit. So only suppressed hashes
    with such a piece are compared: each of 100,000 images with those of 10,000 people would take minutes.
    """
    copies = np.zeros(len(picture_hashes), dtype=bool)
    known = [place for place, each in enumerate(picture_hashes) if each is not None]
    asked = np.array([int(each, 16) for each in picture_hashes if each is not None], dtype=np.uint64)
    places = np.array(known)
    for shift in range(0, 64, _PIECE):
        # The suppressed hashes in the order of this piece, and where each value of the piece starts.
        pieces = suppressed >> np.uint64(shift) & _PIECE_MASK
        ordered = suppressed[np.argsort(pieces)]
        starts = np.concatenate([[0], np.cumsum(np.bincount(pieces.astype(np.int64), minlength=1 << _PIECE))])
        for begin in range(0, len(asked), _HASHES_A_BLOCK):
            block = asked[begin : begin + _HASHES_A_BLOCK]
            near = (((block >> np.uint64(shift)) & _PIECE_MASK)[:, None] ^ _ONE_BIT).ravel().astype(np.int64)
            count = starts[near + 1] - starts[near]
            rows = np.repeat(np.arange(len(near)), count)
            listed = ordered[starts[near][rows] + np.arange(len(rows)) - (np.cumsum(count) - count)[rows]]
            rows //= len(_ONE_BIT)
            copies[places[begin + rows[are_copies(block[rows], listed)]]] = True
    return copies
