"""Completes the links of a graph: the free places of each element go to the nearest elements around it.

Those are the neighbours of its neighbours, which are likely neighbours, and elements that link to it (Dong, Moses, Li,
Efficient k-nearest neighbor graph construction for generic similarity measures, WWW 2011). HNSW leaves nearly half of the
places of an element free, and they take room in the file in any case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.build.face_order import Floats

Links = NDArray[np.uint32]

# Elements that are completed at a time. The vectors of their candidates stay in the cache of a core.
_ELEMENTS_A_BLOCK = 8
# Elements that link to an element. Those to which few others link come first: a search finds them by no other way.
_MOST_INCOMING = 32
# Numbers are rounded to 255 steps, because the time goes into reading them from memory. Sums of 1,024 products are whole
# numbers below 2**24, which float32 holds exactly: the links depend neither on the order of additions nor on the number
# of threads.
_STEPS = np.float32(127)
_NONE = np.uint32(0xFFFFFFFF)
# Two numbers are one key, so that no two keys are equal.
_BITS = 32
# Above all sums: the links of the graph itself stay.
_OWN = 1 << 24


def complete_links(links: Links, used: Links, vectors: Floats, progress: Progress | None = None) -> Links:
    """Fills the free places of `links` (n, places) in place, and returns the number of links of each element (n,).

    `used` (n,): the links that each element has, before its free places. `vectors` (n, dim): the unit vectors of the
    elements. `progress` is called after each block of elements.
    """
    largest = max(vectors.max(), -vectors.min(), np.float32(1e-30))
    steps = np.rint(vectors * (_STEPS / largest)).astype(np.int8)
    elements = np.arange(len(links), dtype=np.uint32)
    width = int(used.max())
    # A link to itself stands for a free place.
    taken = np.arange(width) < used[:, None]
    begun = np.where(taken, links[:, :width], elements[:, None])
    incoming = _incoming(begun, taken)
    counts = np.zeros(len(links), dtype=np.uint32)
    for start in range(0, len(links), _ELEMENTS_A_BLOCK):
        block = elements[start : start + _ELEMENTS_A_BLOCK]
        keys = _ranked(_candidates(begun, incoming, block), steps, block)[:, : links.shape[1]]
        valid = keys >= 0
        counts[block] = valid.sum(axis=1)
        links[block, : keys.shape[1]] = np.where(valid, _element_of(keys), 0)
        if progress is not None:
            progress("links", start + len(block), len(links))
    return counts


def _incoming(begun: Links, taken: NDArray[np.bool_]) -> Links:
    """Elements (n, _MOST_INCOMING) that link to each element; itself where there are fewer."""
    count = len(begun)
    targets = begun[taken]
    rare_first = np.argsort(np.bincount(targets, minlength=count), kind="stable").astype(np.uint32)
    place_of = np.empty(count, dtype=np.uint32)
    place_of[rare_first] = np.arange(count, dtype=np.uint32)
    sources = np.repeat(place_of, taken.sum(axis=1))
    keys = (targets.astype(np.uint64) << np.uint64(_BITS)) | sources
    keys.sort()
    targets, sources = (keys >> np.uint64(_BITS)).astype(np.uint32), rare_first[(keys & np.uint64(_NONE))]
    place = np.arange(len(keys)) - np.searchsorted(targets, targets)
    first = place < _MOST_INCOMING
    found = np.repeat(np.arange(count, dtype=np.uint32)[:, None], _MOST_INCOMING, axis=1)
    found[targets[first], place[first]] = sources[first]
    return found


def _candidates(begun: Links, incoming: Links, block: NDArray[np.uint32]) -> Links:
    """The elements around each one, each once: twice its number, and one more when it is no link of the graph."""
    own = begun[block]
    around = [begun[own].reshape(len(block), -1), incoming[block]]
    found = np.concatenate([own * 2, *(each * 2 + 1 for each in around)], axis=1)
    found.sort(axis=1)
    again = np.zeros(found.shape, dtype=bool)
    again[:, 1:] = found[:, 1:] // 2 == found[:, :-1] // 2
    found[again | (found // 2 == block[:, None])] = _NONE
    found.sort(axis=1)
    return found[:, : int((found != _NONE).sum(axis=1).max())]


def _ranked(candidates: Links, steps: NDArray[np.int8], block: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The keys of the candidates, best first; -1 is none."""
    elements = candidates // 2
    missing = candidates == _NONE
    elements[missing] = 0
    near, own = (steps[each].astype(np.float32) for each in (elements, block))
    similar = np.matmul(near, own[:, :, None])[:, :, 0].astype(np.int64)
    similar[candidates % 2 == 0] += 2 * _OWN
    keys = ((similar + _OWN) << _BITS) | (_NONE - elements)
    keys[missing] = -1
    keys.sort(axis=1)
    best_first: NDArray[np.int64] = keys[:, ::-1]
    return best_first


def _element_of(keys: NDArray[np.int64]) -> Links:
    return _NONE - (keys & int(_NONE)).astype(np.uint32)
