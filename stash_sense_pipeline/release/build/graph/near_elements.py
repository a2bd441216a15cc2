"""Finds candidates for the nearest elements of a cluster: the neighbours of its neighbours.

Neighbours of neighbours are often neighbours (Dong, Charikar, Li, "Efficient k-nearest neighbor graph construction for
generic similarity measures", WWW 2011). All elements of a cluster are compared with all of its candidates by one product of
two matrices. That is many times faster than to read the vectors of the candidates of one element from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.build.graph.clusters import Steps
from stash_sense_pipeline.release.build.graph.element_lists import Elements

# Candidates of a cluster: at least so many, and this share of all elements. Those of the first round are compared along few
# axes, and give each element _NEIGHBOURS. docs/release.md has the recall of the indices.
_FIRST_CANDIDATES, _FIRST_SHARE = 2_000, 0.01
_CANDIDATES, _SHARE = 6_000, 0.03
_NEIGHBOURS = 64
_VOTERS = 2_000

# The neighbours of elements, one after the other.
Neighbours = Callable[[Elements], Elements]


def candidates_for(count: int) -> int:
    """The number of candidates of a cluster among `count` elements."""
    return min(count, max(_CANDIDATES, int(count * _SHARE)))


def candidates_of(elements: Elements, neighbours: Neighbours, count: int, most: int) -> Elements:
    """About `most` of `count` elements, among which the nearest to the cluster `elements` are; in order of their numbers.

    They are the cluster, its neighbours, and of the neighbours of these the ones that most of them have. Only the
    _VOTERS neighbours vote that most elements of the cluster have.
    """
    if count <= most:
        return np.arange(count, dtype=np.uint32)
    shared = np.bincount(neighbours(elements), minlength=count)
    shared[elements] += count
    votes = np.bincount(neighbours(_greatest(shared, _VOTERS)), minlength=count)
    votes[shared > 0] += count
    return np.union1d(_greatest(votes, most), elements).astype(np.uint32)


def _greatest(numbers: NDArray[np.int64], most: int) -> Elements:
    """The places of the `most` greatest positive numbers (n,), ascending; of equal ones, the first places."""
    places = np.flatnonzero(numbers)
    if len(places) > most:
        places = places[best(numbers[places][None], most)[0]]
    return places.astype(np.uint32)


def nearest_neighbours(
    steps: Steps, clusters: Sequence[Elements], neighbours: Neighbours, progress: Progress | None = None
) -> Neighbours:
    """The nearest elements that are found among the candidates of each cluster. `steps` (n, dim)."""
    found = np.empty((len(steps), min(_NEIGHBOURS, len(steps))), dtype=np.uint32)
    most, done = max(_FIRST_CANDIDATES, int(len(steps) * _FIRST_SHARE)), 0
    for elements in clusters:
        candidates = candidates_of(elements, neighbours, len(steps), most)
        similar = similarities(steps, elements, candidates)
        columns = best(similar, found.shape[1])
        # Fewer candidates than neighbours are named several times.
        found[elements] = candidates[columns[:, np.arange(found.shape[1]) % columns.shape[1]]]
        done += len(elements)
        if progress is not None:
            progress("neighbours", done, len(steps))
    return lambda elements: found[elements].ravel()


def similarities(steps: Steps, elements: Elements, candidates: Elements) -> NDArray[np.int32]:
    """The products (elements, candidates) of the vectors, below 2**24."""
    own, others = (steps[each].astype(np.float32) for each in (elements, candidates))
    return (own @ others.T).astype(np.int32)


def best(numbers: NDArray[np.signedinteger], count: int) -> NDArray[np.int64]:
    """The columns of the `count` greatest numbers of each row (rows, count), ascending; of equal ones, the first columns."""
    columns = numbers.shape[1]
    if columns <= count:
        return np.broadcast_to(np.arange(columns), numbers.shape)
    # The columns that a partition gives for equal numbers depend on the processor; the least number taken does not.
    least = np.partition(numbers, columns - count, axis=1)[:, columns - count, None]
    taken = numbers >= least
    for row in np.flatnonzero(taken.sum(axis=1) > count):
        equal = np.flatnonzero(numbers[row] == least[row])
        taken[row, equal[count - np.count_nonzero(numbers[row] > least[row]) :]] = False
    return np.asarray(np.flatnonzero(taken) % columns).reshape(len(numbers), count)
