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
    begun = _Lists(links[np.arange(links.shape[1]) < used[:, None]], used)
    incoming = _incoming(begun)
    elements = np.arange(len(links), dtype=np.uint32)
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


class _Lists:
    """A list of elements for each element, one after the other in `items`. `sizes` (n,): their lengths."""

    def __init__(self, items: Links, sizes: Links) -> None:
        self.items = items
        self.sizes = sizes.astype(np.int64)
        self._starts = np.cumsum(self.sizes) - self.sizes

    def of(self, elements: Links) -> tuple[NDArray[np.int64], Links]:
        """The items of these lists, each with the place of its list in `elements`."""
        sizes = self.sizes[elements]
        ends = np.cumsum(sizes)
        shift = np.repeat(self._starts[elements] - (ends - sizes), sizes)
        places = np.repeat(np.arange(len(elements)), sizes)
        return places, self.items[shift + np.arange(len(shift))]


def _incoming(begun: _Lists) -> _Lists:
    """Some elements that link to each element: _MOST_INCOMING at most."""
    count = len(begun.sizes)
    in_degrees = np.bincount(begun.items, minlength=count)
    rare_first = np.argsort(in_degrees, kind="stable").astype(np.uint32)
    place_of = np.empty(count, dtype=np.uint32)
    place_of[rare_first] = np.arange(count, dtype=np.uint32)
    keys = begun.items.astype(np.uint64) << np.uint64(_BITS)
    keys |= np.repeat(place_of, begun.sizes)
    keys.sort()
    # The number of each key within its target.
    first = np.repeat(np.cumsum(in_degrees) - in_degrees, in_degrees)
    kept = np.arange(len(keys)) - first < _MOST_INCOMING
    sources = rare_first[keys[kept] & np.uint64(_NONE)]
    return _Lists(sources, np.minimum(in_degrees, _MOST_INCOMING).astype(np.uint32))


def _candidates(begun: _Lists, incoming: _Lists, block: Links) -> Links:
    """The elements around each one, each once: twice its number, and one more when it is no link of the graph."""
    rows, own = begun.of(block)
    between, second = begun.of(own)
    rows_in, into = incoming.of(block)
    row = np.concatenate([rows, rows[between], rows_in])
    code = np.concatenate([own * 2, second * 2 + 1, into * 2 + 1])
    keys = (row << _BITS) | code
    keys.sort()
    element = keys >> 1
    fresh = np.ones(len(keys), dtype=bool)
    fresh[1:] = element[1:] != element[:-1]
    keys = keys[fresh]
    row = keys >> _BITS
    code = (keys & int(_NONE)).astype(np.uint32)
    code[code // 2 == block[row]] = _NONE
    sizes = np.bincount(row, minlength=len(block))
    found = np.full((len(block), int(sizes.max())), _NONE)
    found[row, np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = code
    return found


def _ranked(candidates: Links, steps: NDArray[np.int8], block: Links) -> NDArray[np.int64]:
    """The keys of the candidates, best first; -1 is none."""
    elements = candidates // 2
    missing = candidates == _NONE
    elements[missing] = 0
    near, own = (steps[each].astype(np.float32) for each in (elements, block))
    # Not by BLAS: the threads of two builds at once would wait for each other at each of these small products.
    similar = np.einsum("ekd,ed->ek", near, own).astype(np.int64)
    similar[candidates % 2 == 0] += 2 * _OWN
    keys = ((similar + _OWN) << _BITS) | (_NONE - elements)
    keys[missing] = -1
    keys.sort(axis=1)
    best_first: NDArray[np.int64] = keys[:, ::-1]
    return best_first


def _element_of(keys: NDArray[np.int64]) -> Links:
    return _NONE - (keys & int(_NONE)).astype(np.uint32)
