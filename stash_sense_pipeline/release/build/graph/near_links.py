"""Completes the links of a graph: the free places of each element go to its group, and to the nearest elements.

HNSW leaves nearly half of the places of an element free, and they take room in the file in any case. With the nearest
elements in them, a graph that was built with a low ef_construction finds as many neighbours as one with a high one.

A group is the faces of one person. The sidecar adds the distances of a face in two indices, so a face that is found in one
of them only moves in the answer. In one index it may be far down the list, where a search misses most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.build.face_order import Floats
from stash_sense_pipeline.release.build.graph.near_elements import in_steps, near_elements

Links = NDArray[np.uint32]

# Elements that are completed at a time. The vectors of their candidates stay in the cache of a core.
_ELEMENTS_A_BLOCK = 32
# Elements that link to an element. Those to which few others link come first: a search finds them by no other way.
_MOST_INCOMING = 32
# An element to which fewer link may not be found at all. So many of its nearest elements then link to it, each to so many.
_FEWEST_INCOMING, _LINKED_BY, _MOST_RARE = 32, 16, 8
_ROWS_A_BLOCK = 256
# Elements of a group that an element links to, at most: those beside it in the order of the group.
_MOST_OF_A_GROUP = 16
_NONE = np.uint32(0xFFFFFFFF)
# Two numbers are one key, so that no two keys are equal.
_BITS = 32
# Above all sums. The links of the graph itself stay; the group comes before others.
_MOST = 1 << 24
# Kinds of candidates, best first.
_OWN, _GROUP, _OTHER = range(3)
_KINDS = 4


def complete_links(
    links: Links,
    used: Links,
    vectors: Floats,
    groups: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> Links:
    """Fills the free places of `links` (n, places) in place, and returns the number of links of each element (n,).

    `used` (n,): the links that each element has, before its free places. `vectors` (n, dim): the unit vectors of the
    elements. `groups` (n,): the group of each element; None: each is alone. `progress` is called after each block.
    """
    steps = in_steps(vectors)
    begun = _Lists(links[np.arange(links.shape[1]) < used[:, None]], used)
    around = [
        (_OWN, begun),
        (_GROUP, _of_groups(np.arange(len(links)) if groups is None else groups)),
        (_OTHER, _incoming(begun)),
    ]
    counts = np.zeros(len(links), dtype=np.uint32)
    done = 0
    for elements, near in near_elements(steps, links.shape[1] + 1):
        for start in range(0, len(elements), _ELEMENTS_A_BLOCK):
            block = elements[start : start + _ELEMENTS_A_BLOCK]
            codes = _candidates(around, near[start : start + _ELEMENTS_A_BLOCK], block)
            keys = _ranked(codes, steps, block)[:, : links.shape[1]]
            valid = keys >= 0
            counts[block] = valid.sum(axis=1)
            links[block, : keys.shape[1]] = np.where(valid, _element_of(keys), 0)
        done += len(elements)
        if progress is not None:
            progress("links", done, len(links))
    _link_rare_elements(links, counts, used + np.uint32(_MOST_OF_A_GROUP), steps)
    return counts


def _link_rare_elements(links: Links, counts: Links, kept: Links, steps: NDArray[np.int8]) -> None:
    """Links to elements to which few link, from the nearest ones of their own links, in place of the farthest there.

    `kept` (n,): the first links of each element, which stay.
    """
    in_degrees = np.zeros(len(links), dtype=np.int64)
    for start in range(0, len(links), _ROWS_A_BLOCK):
        rows = slice(start, start + _ROWS_A_BLOCK)
        taken = np.arange(links.shape[1]) < counts[rows, None]
        in_degrees += np.bincount(links[rows][taken], minlength=len(links))
    rare = np.flatnonzero(in_degrees < _FEWEST_INCOMING).astype(np.uint32)
    blocks = [rare[start : start + _ROWS_A_BLOCK] for start in range(0, len(rare), _ROWS_A_BLOCK)]
    pairs = [_missing_links(links, counts, steps, block) for block in blocks]
    if not pairs:
        return
    targets, similar, sources = (np.concatenate(each) for each in zip(*pairs, strict=True))
    order = np.lexsort((sources, -similar, targets))
    targets, sources = targets[order], sources[order]
    _, first, sizes = np.unique(targets, return_index=True, return_counts=True)
    rank = np.arange(len(targets)) - np.repeat(first, sizes)
    place = counts[targets].astype(np.int64) - 1 - rank
    fits = (rank < _MOST_RARE) & (place >= kept[targets])
    links[targets[fits], place[fits]] = sources[fits]


def _missing_links(
    links: Links, counts: Links, steps: NDArray[np.int8], rare: Links
) -> tuple[Links, NDArray[np.int64], Links]:
    """Of the nearest elements that each rare one links to, those that do not link to it; how near they are; the rare one."""
    own = links[rare]
    similar = np.einsum("ekd,ed->ek", steps[own].astype(np.float32), steps[rare].astype(np.float32)).astype(
        np.int64
    )
    similar[np.arange(own.shape[1]) >= counts[rare, None]] = -_MOST
    best = np.argsort(-similar, axis=1, kind="stable")[:, :_LINKED_BY]
    targets, near = np.take_along_axis(own, best, axis=1), np.take_along_axis(similar, best, axis=1)
    sources = np.broadcast_to(rare[:, None], targets.shape)
    linked = np.arange(links.shape[1]) < counts[targets, None]
    missing = (near > -_MOST) & ~((links[targets] == sources[..., None]) & linked).any(axis=2)
    return targets[missing], near[missing], sources[missing]


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


def _of_groups(groups: NDArray[np.int64]) -> _Lists:
    """The elements beside each one in its group, and the element itself: _MOST_OF_A_GROUP others at most."""
    order = np.argsort(groups, kind="stable").astype(np.uint32)
    _, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    starts, ends = np.repeat(first, sizes), np.repeat(first + sizes, sizes)
    place = np.arange(len(groups))
    begin = np.maximum(starts, np.minimum(place - _MOST_OF_A_GROUP // 2, ends - _MOST_OF_A_GROUP - 1))
    taken = np.minimum(ends, begin + _MOST_OF_A_GROUP + 1) - begin
    # In the order of the elements.
    of_element = np.argsort(order)
    begin, taken = begin[of_element], taken[of_element]
    shift = np.repeat(begin - (np.cumsum(taken) - taken), taken)
    return _Lists(order[shift + np.arange(len(shift))], taken.astype(np.uint32))


def _candidates(around: Sequence[tuple[int, _Lists]], near: Links, block: Links) -> Links:
    """The elements around each one, each once and of its best kind: _KINDS times its number, plus its kind."""
    found = [(*lists.of(block), kind) for kind, lists in around]
    found.append((np.repeat(np.arange(len(block)), near.shape[1]), near.ravel(), _OTHER))
    row = np.concatenate([rows for rows, _, _ in found])
    code = np.concatenate([elements * _KINDS + kind for _, elements, kind in found])
    keys = (row << _BITS) | code
    keys.sort()
    element = keys // _KINDS
    fresh = np.ones(len(keys), dtype=bool)
    fresh[1:] = element[1:] != element[:-1]
    keys = keys[fresh]
    row = keys >> _BITS
    code = (keys & int(_NONE)).astype(np.uint32)
    code[code // _KINDS == block[row]] = _NONE
    sizes = np.bincount(row, minlength=len(block))
    codes = np.full((len(block), int(sizes.max())), _NONE)
    codes[row, np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = code
    return codes


def _ranked(candidates: Links, steps: NDArray[np.int8], block: Links) -> NDArray[np.int64]:
    """The keys of the candidates, best first; -1 is none."""
    elements, kinds = candidates // _KINDS, candidates % _KINDS
    missing = candidates == _NONE
    elements[missing] = 0
    near, own = (steps[each].astype(np.float32) for each in (elements, block))
    # Not by BLAS: the threads of two builds at once would wait for each other at each of these small products.
    similar = np.einsum("ekd,ed->ek", near, own).astype(np.int64)
    similar += 2 * _MOST * (_KINDS - kinds.astype(np.int64))
    keys = (similar << _BITS) | (_NONE - elements)
    keys[missing] = -1
    keys.sort(axis=1)
    best_first: NDArray[np.int64] = keys[:, ::-1]
    return best_first


def _element_of(keys: NDArray[np.int64]) -> Links:
    return _NONE - (keys & int(_NONE)).astype(np.uint32)
