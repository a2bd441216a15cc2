"""The sidecar's fusion: its ranking of faces by the distances in both indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.graph.exact_search import Floats, Positions
from stash_sense_pipeline.release.contract import SIDECAR_K, SIDECAR_MISSING_DISTANCE, SIDECAR_WEIGHT

Distances = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Fusion:
    """The answers of both models to many queries: positions and distances of each model, (q, k), nearest first.

    The two entries of a face are brought together once, however often faces are left out.
    """

    def __init__(self, ids: Sequence[Positions], distances: Sequence[Floats]) -> None:
        positions = np.concatenate(ids, axis=1)
        # Twice the position, plus one for the second model: the two entries of a face become neighbours.
        keys = 2 * positions
        keys[:, ids[0].shape[1] :] += 1
        self._order = np.argsort(keys, axis=1)
        self._positions = np.take_along_axis(positions, self._order, axis=1)
        self._again = self._positions[:, 1:] == self._positions[:, :-1]
        apart = np.concatenate(distances, axis=1).astype(np.float64) - SIDECAR_MISSING_DISTANCE
        self._apart = SIDECAR_WEIGHT * np.take_along_axis(apart, self._order, axis=1)

    def without(self, excluded: Sequence[Mask]) -> tuple[Positions, Distances]:
        """The sidecar's fused distances: positions and distances (q, 2k), positions ascending in each row.

        `excluded`: of each model, (q, k). The result is what the sidecar gives when the indices lack the excluded faces: of
        the others it receives the first 100. Its places without a face have an infinite distance.
        """
        received = np.concatenate([_received(mask) for mask in excluded], axis=1)
        kept = np.take_along_axis(received, self._order, axis=1)
        apart = np.where(kept, self._apart, 0.0)
        apart[:, :-1] += np.where(self._again, apart[:, 1:], 0.0)
        present = kept.copy()
        present[:, :-1] |= self._again & kept[:, 1:]
        present[:, 1:] &= ~self._again
        missing_in_both = 2 * SIDECAR_WEIGHT * SIDECAR_MISSING_DISTANCE
        return self._positions, np.where(present, missing_in_both + apart, np.inf)


def _received(excluded: Mask) -> Mask:
    """The entries (q, k) that an index without the excluded faces returns: the first 100 others."""
    return ~excluded & (np.cumsum(~excluded, axis=1) <= SIDECAR_K)


def nearest(positions: Positions, distances: Distances) -> tuple[Positions, Distances]:
    """The first answer to each query: its position and distance (q,). No answer is -1 with an infinite distance.

    Of faces at one distance the sidecar answers with the lowest position. Rows as `fuse` gives them.
    """
    place = np.argmin(distances, axis=1)[:, None]
    distance = np.take_along_axis(distances, place, axis=1)[:, 0]
    position = np.take_along_axis(positions, place, axis=1)[:, 0]
    return np.where(np.isfinite(distance), position, -1), distance
