"""Finds near elements of all elements: the nearest ones in the clusters around that of the element.

All elements of a cluster are compared with all of its candidates by one product of two matrices. That is many times faster
than to read the vectors of the candidates of one element from memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.face_order import Floats

Elements = NDArray[np.uint32]
Steps = NDArray[np.int8]

# Elements of a cluster on average. A larger one is cut into clusters of _MOST_OF_A_CLUSTER.
_ELEMENTS_A_CLUSTER = 200
_MOST_OF_A_CLUSTER = 400
# The clusters around a cluster, itself included: this share of all, but at least and at most as many. docs/release.md has
# the recall of the indices.
_SHARE_AROUND = 0.08
_FEWEST_AROUND, _MOST_AROUND = 40, 200
# Numbers are rounded to 255 steps. Sums of 1,024 products are whole numbers below 2**24, which float32 holds exactly: the
# result depends neither on the order of additions nor on the number of threads.
_STEPS = np.float32(127)
_ROWS_A_BLOCK = 4_096


def in_steps(vectors: Floats) -> Steps:
    """Unit vectors (n, dim) as whole numbers of steps."""
    largest = max(vectors.max(), -vectors.min(), np.float32(1e-30))
    steps = np.empty(vectors.shape, dtype=np.int8)
    for start in range(0, len(vectors), _ROWS_A_BLOCK):
        block = slice(start, start + _ROWS_A_BLOCK)
        steps[block] = np.rint(vectors[block] * (_STEPS / largest))
    return steps


def near_elements(steps: Steps, count: int) -> Iterator[tuple[Elements, Elements]]:
    """Blocks of elements (b,), together all, and the `count` elements nearest to each one (b, near) that were found.

    `steps` (n, dim). An element may be among its own. Of elements at one distance, the first in the order of the clusters
    are taken. There are fewer than `count` when the clusters around have fewer.
    """
    labels = _nearest(steps, _centres(steps))
    order, starts = _clusters(labels)
    sorted_steps = steps[order]
    sizes = np.diff(starts)
    centres = _in_unit_steps(np.add.reduceat(sorted_steps, starts[:-1], axis=0, dtype=np.int64))
    for cluster, around in _around(centres):
        own = slice(starts[cluster], starts[cluster] + sizes[cluster])
        places = np.concatenate([np.arange(starts[each], starts[each + 1]) for each in around])
        similar = sorted_steps[own].astype(np.float32) @ sorted_steps[places].astype(np.float32).T
        yield order[own], order[places[_best(similar, count)]]


def _centres(steps: Steps) -> Floats:
    """The centres of clusters (clusters, dim), in steps: the means of the elements that are nearest to chosen ones."""
    count = max(1, len(steps) // _ELEMENTS_A_CLUSTER)
    first = steps[np.linspace(0, len(steps) - 1, count).astype(np.int64)].astype(np.float32)
    labels = _nearest(steps, first)
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    first[found] = _in_unit_steps(np.add.reduceat(steps[order], starts, axis=0, dtype=np.int64))
    return first


def _in_unit_steps(sums: NDArray[np.int64]) -> Floats:
    """The directions of sums of vectors (n, dim) as whole numbers of steps."""
    largest = np.abs(sums).max(axis=1, keepdims=True)
    return np.asarray(np.rint(sums / np.maximum(1, largest) * float(_STEPS)), dtype=np.float32)


def _scale(centres: Floats) -> Floats:
    """The factors (clusters,) that make products with the centres proportional to the cosine."""
    lengths = np.sqrt(np.square(centres.astype(np.float64)).sum(axis=1))
    return np.asarray(1 / np.maximum(lengths, 1e-30), dtype=np.float32)


def _nearest(steps: Steps, centres: Floats) -> NDArray[np.int64]:
    """The nearest centre of each element (n,), by the cosine."""
    scale = _scale(centres)
    return np.concatenate(
        [
            ((steps[start : start + _ROWS_A_BLOCK].astype(np.float32) @ centres.T) * scale).argmax(axis=1)
            for start in range(0, len(steps), _ROWS_A_BLOCK)
        ]
    )


def _clusters(labels: NDArray[np.int64]) -> tuple[Elements, NDArray[np.int64]]:
    """The elements in the order of their clusters (n,), and the first place of each cluster, with n at the end."""
    order = np.argsort(labels, kind="stable").astype(np.uint32)
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    within = np.arange(len(labels)) - np.repeat(first, sizes)
    return order, np.append(np.flatnonzero(within % _MOST_OF_A_CLUSTER == 0), len(labels))


def _around(centres: Floats) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each cluster with the clusters around it, itself first."""
    scale = _scale(centres)
    count = min(max(round(_SHARE_AROUND * len(centres)), _FEWEST_AROUND), _MOST_AROUND)
    for cluster in range(len(centres)):
        similar = (centres @ centres[cluster]) * scale
        similar[cluster] = np.inf
        yield cluster, np.argsort(-similar, kind="stable")[:count]


def _best(similar: Floats, count: int) -> NDArray[np.int64]:
    """The columns of the `count` greatest numbers of each row (rows, count); of equal numbers, the first columns."""
    columns = similar.shape[1]
    if columns <= count:
        return np.broadcast_to(np.arange(columns), similar.shape)
    # The columns that a partition gives for equal numbers depend on the processor; the least number taken does not.
    least = np.partition(similar, columns - count, axis=1)[:, columns - count, None]
    taken = similar >= least
    for row in np.flatnonzero(taken.sum(axis=1) > count):
        equal = np.flatnonzero(similar[row] == least[row])
        taken[row, equal[count - np.count_nonzero(similar[row] > least[row]) :]] = False
    return np.asarray(np.flatnonzero(taken) % columns).reshape(len(similar), count)
