"""The main axes of vectors. A graph that is built along them takes a fraction of the time of one in all dimensions.

The neighbours of a face hardly change without the directions in which the vectors differ least (principal component
analysis, Jolliffe, Principal Component Analysis, 2002). docs/release.md has the measurements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.face_order import Floats, lengths

Axes = NDArray[np.float64]

# Enough to estimate the axes; 32 MB of 512 numbers each.
_SAMPLED_ROWS = 16_384
# Numbers are rounded to multiples of 1/4096. All sums of products of such numbers are exact in float64, so that neither the
# order of additions nor the number of threads changes a bit of the axes or of a vector along them.
_STEPS = 4096.0


class SampledRows:
    """Collects evenly spaced rows of the vectors of `count` faces, which come in blocks."""

    def __init__(self, count: int) -> None:
        self._step = max(1, count // _SAMPLED_ROWS)
        self._taken: list[Floats] = []

    def add(self, start: int, vectors: Floats) -> None:
        """Takes rows of the block (rows, dim) that begins at position `start`."""
        self._taken.append(vectors[-start % self._step :: self._step].copy())

    def rows(self) -> Floats:
        """The rows that were taken (sampled, dim)."""
        return np.concatenate(self._taken)


def main_axes(rows: Floats, dimensions: int) -> Axes:
    """The orthogonal directions (dim, dimensions) along which unit vectors like `rows` (sampled, dim) are longest."""
    steps = _in_steps(rows)
    _, directions = np.linalg.eigh(steps.T @ steps)
    chosen = directions[:, ::-1][:, :dimensions]
    # Eigenvectors have no sign of their own.
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=0)[None], axis=0)
    return np.asarray(np.rint(chosen * np.sign(largest) * _STEPS))


def along(axes: Axes, vectors: Floats) -> Floats:
    """Vectors (n, dim) along `axes` (n, dimensions), for the cosine distance: their length is not kept."""
    return (_in_steps(vectors) @ axes).astype(np.float32)


def _in_steps(vectors: Floats) -> NDArray[np.float64]:
    """The directions of vectors as whole numbers of steps."""
    return np.asarray(np.rint(vectors / lengths(vectors)[:, None] * np.float32(_STEPS)), dtype=np.float64)
