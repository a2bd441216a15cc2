"""Lists of elements, one for each element of a graph: its links, the elements that link to it, its group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Elements = NDArray[np.uint32]

# Two numbers are one key, so that no two keys are equal.
_BITS = 32
_LOW = np.uint64((1 << _BITS) - 1)


class ElementLists:
    """A list of elements for each element, one after the other in `items`. `sizes` (n,): their lengths."""

    def __init__(self, items: Elements, sizes: Elements) -> None:
        self.items = items
        self.sizes = sizes.astype(np.int64)
        self._starts = np.cumsum(self.sizes) - self.sizes

    def of(self, elements: Elements) -> tuple[NDArray[np.int64], Elements]:
        """The items of these lists, each with the place of its list in `elements`."""
        sizes = self.sizes[elements]
        ends = np.cumsum(sizes)
        shift = np.repeat(self._starts[elements] - (ends - sizes), sizes)
        places = np.repeat(np.arange(len(elements)), sizes)
        return places, self.items[shift + np.arange(len(shift))]


def incoming_lists(outgoing: ElementLists, most: int) -> ElementLists:
    """Some elements that have each element in their lists: `most` at most, first those that few lists have themselves."""
    count = len(outgoing.sizes)
    in_degrees = np.bincount(outgoing.items, minlength=count)
    rare_first = np.argsort(in_degrees, kind="stable").astype(np.uint32)
    place_of = np.empty(count, dtype=np.uint32)
    place_of[rare_first] = np.arange(count, dtype=np.uint32)
    keys = outgoing.items.astype(np.uint64) << np.uint64(_BITS)
    keys |= np.repeat(place_of, outgoing.sizes)
    keys.sort()
    # The number of each key within its target.
    first = np.repeat(np.cumsum(in_degrees) - in_degrees, in_degrees)
    kept = np.arange(len(keys)) - first < most
    sources = rare_first[keys[kept] & _LOW]
    return ElementLists(sources, np.minimum(in_degrees, most).astype(np.uint32))


def group_lists(groups: NDArray[np.int64], most: int) -> ElementLists:
    """The elements beside each one in its group, and the element itself: `most` others at most.

    `groups` (n,): the group of each element.
    """
    order = np.argsort(groups, kind="stable").astype(np.uint32)
    _, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    starts, ends = np.repeat(first, sizes), np.repeat(first + sizes, sizes)
    place = np.arange(len(groups))
    begin = np.maximum(starts, np.minimum(place - most // 2, ends - most - 1))
    taken = np.minimum(ends, begin + most + 1) - begin
    # In the order of the elements.
    of_element = np.argsort(order)
    begin, taken = begin[of_element], taken[of_element]
    shift = np.repeat(begin - (np.cumsum(taken) - taken), taken)
    return ElementLists(order[shift + np.arange(len(shift))], taken.astype(np.uint32))
