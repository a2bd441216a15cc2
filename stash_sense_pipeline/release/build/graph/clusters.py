"""Clusters of near elements, and vectors as whole numbers of steps, with which products of matrices are exact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.face_order import Floats, lengths
from stash_sense_pipeline.release.build.graph.element_lists import Elements

Steps = NDArray[np.int8]

# Elements of a cluster on average. One with twice as many is cut.
_ELEMENTS_A_CLUSTER = 200
# Numbers are rounded to 255 steps. Sums of 1,024 products are whole numbers below 2**24, which float32 holds exactly: the
# result depends neither on the order of additions nor on the number of threads.
_STEPS = np.float32(127)
_ROWS_A_BLOCK = 4_096
_LEAST = np.float32(1e-30)


def in_steps(blocks: Iterable[Floats], places: NDArray[np.int64]) -> Steps:
    """The directions of vectors in blocks (rows, dim) as whole numbers of steps (n, dim).

    `places` (n,): the row of each vector in the result. The largest number of the first rows is 127. Larger ones in
    later rows are 127 too. A vector of zeros has no direction, and stays zero.
    """
    steps, start, scale = np.empty((len(places), 0), dtype=np.int8), 0, np.float32(0)
    for rows in _in_small_blocks(blocks):
        unit = rows / np.maximum(lengths(rows), _LEAST)[:, None]
        if start == 0:
            steps = np.empty((len(places), rows.shape[1]), dtype=np.int8)
            scale = _STEPS / np.maximum(np.abs(unit).max(), _LEAST)
        steps[places[start : start + len(unit)]] = np.clip(np.rint(unit * scale), -_STEPS, _STEPS)
        start += len(unit)
    return steps


def _in_small_blocks(blocks: Iterable[Floats]) -> Iterator[Floats]:
    for block in blocks:
        for start in range(0, len(block), _ROWS_A_BLOCK):
            yield block[start : start + _ROWS_A_BLOCK]


def clusters_of(steps: Steps, size: int = _ELEMENTS_A_CLUSTER) -> list[Elements]:
    """Clusters of elements in one direction: of all elements, `size` on average, at most twice as many.

    `steps` (n, dim).
    """
    labels = _nearest(steps, _centres(steps, max(1, len(steps) // size)))
    order = np.argsort(labels, kind="stable").astype(np.uint32)
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    within = np.arange(len(labels)) - np.repeat(first, sizes)
    return np.split(order, np.flatnonzero(within % (2 * size) == 0)[1:])


def _centres(steps: Steps, count: int) -> Floats:
    """The centres of clusters (count, dim), in steps: the means of the elements that are nearest to chosen ones."""
    centres = steps[np.linspace(0, len(steps) - 1, count).astype(np.int64)].astype(np.float32)
    labels = _nearest(steps, centres)
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    sums = np.add.reduceat(steps[order], starts, axis=0, dtype=np.int64)
    largest = np.maximum(1, np.abs(sums).max(axis=1, keepdims=True))
    centres[found] = np.rint(sums / largest * float(_STEPS))
    return centres


def _nearest(steps: Steps, centres: Floats) -> NDArray[np.int64]:
    """The nearest centre of each element (n,), by the cosine."""
    norms = np.sqrt(np.square(centres.astype(np.float64)).sum(axis=1))
    scale = np.asarray(1 / np.maximum(norms, 1e-30), dtype=np.float32)
    return np.concatenate(
        [
            ((steps[start : start + _ROWS_A_BLOCK].astype(np.float32) @ centres.T) * scale).argmax(axis=1)
            for start in range(0, len(steps), _ROWS_A_BLOCK)
        ]
    )
