"""Completes the links of a graph: the free places of each element go to its group, and to the nearest elements.

HNSW leaves more than half of the places of an element free, and they take room in the file in any case. With the nearest
elements in them, a graph that was built with a low ef_construction finds more neighbours than one with a high one.

A group is the faces of one person. The sidecar adds the distances of a face in two indices, so a face that is found in one
of them only moves in the answer. In one index it may be far down the list, where a search misses most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.build.graph.clusters import Steps, clusters_of
from stash_sense_pipeline.release.build.graph.element_lists import (
    ElementLists,
    Elements,
    group_lists,
    incoming_lists,
)
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours
from stash_sense_pipeline.release.build.graph.near_elements import (
    Neighbours,
    best,
    candidates_for,
    candidates_of,
    nearest_neighbours,
    similarities,
)

# Elements that link to an element, at most, of those that the graph begins with.
_MOST_INCOMING = 32
# Elements of a group that an element links to, at most: those beside it in the order of the group.
_MOST_OF_A_GROUP = 16
# Above all similarities. The links of the graph itself come first, then the group, then others.
_MOST = 1 << 24
# A search finds an element by the ones that link to it. Where these are fewer than the places of an element, the nearest
# elements link to it too: as many as the first share of the places, each with the second share of its places at most.
_SHARE_OF_PLACES = 0.5
_SHARE_FOR_RARE = 0.25
_ROWS_A_BLOCK, _ROWS_A_COUNT = 64, 8_192
# In an exact search the elements of a cluster share few candidates. So clusters are small, and several are searched at once.
_ELEMENTS_A_SMALL_CLUSTER, _CLUSTERS_A_SEARCH = 50, 40
# The bits of an element in a key, and those of its rank. Voyager files of this program have at most 10 million elements.
_ELEMENT_BITS, _RANK_BITS = 24, 8


@dataclass(frozen=True)
class GraphVectors:
    """The vectors of the elements: `narrow` (n, few) along the axes of the graph, `whole` (n, dim) as they are compared.

    `groups` (n,): the group of each element; None: each is alone.
    """

    narrow: Steps
    whole: Steps
    groups: NDArray[np.int64] | None = None


def complete_links(
    links: Elements,
    used: Elements,
    vectors: GraphVectors,
    *,
    exact: bool = False,
    progress: Progress | None = None,
) -> Elements:
    """Fills the free places of `links` (n, places) in place, and returns the number of links of each element (n,).

    `used` (n,): the links that each element has, before its free places. `exact`: the nearest elements are found by
    comparing all, so the time grows with the square of n. `progress` is called after each cluster.
    """
    count, places = links.shape
    around = _Around.of(links, used, vectors.groups)
    near_places = min(1 << _RANK_BITS, max(1, int(places * _SHARE_OF_PLACES)))
    nearest = np.zeros((count, near_places), dtype=np.uint16)
    counts = np.zeros(count, dtype=np.uint32)
    done = 0
    if exact:
        clusters = _clusters_with_nearest(around, vectors, places)
    else:
        clusters = _clusters_with_candidates(around, vectors, progress)
    for elements, candidates in clusters:
        similar = similarities(vectors.whole, elements, candidates)
        similar[np.arange(len(elements)), np.searchsorted(candidates, elements)] = -_MOST
        chosen = _chosen(similar, around.preference(elements, candidates), places)
        counts[elements] = min(places, len(candidates) - 1)
        links[elements, : chosen.shape[1]] = candidates[chosen]
        by_nearness = np.argsort(-np.take_along_axis(similar, chosen, axis=1), axis=1, kind="stable")
        near = by_nearness[:, : nearest.shape[1]]
        nearest[elements, : near.shape[1]] = near
        done += len(elements)
        if progress is not None:
            progress("links", done, count)
    kept = np.minimum(used + np.uint32(_MOST_OF_A_GROUP), counts)
    _link_rare_elements(_Completed(links, counts, kept, nearest))
    return counts


@dataclass(frozen=True)
class _Around:
    """The elements around each element: its links, some that link to it, and its group."""

    outgoing: ElementLists
    incoming: ElementLists
    group: ElementLists

    @classmethod
    def of(cls, links: Elements, used: Elements, groups: NDArray[np.int64] | None) -> _Around:
        outgoing = ElementLists(links[np.arange(links.shape[1]) < used[:, None]], used)
        alone = np.arange(len(links)) if groups is None else groups
        return cls(outgoing, incoming_lists(outgoing, _MOST_INCOMING), group_lists(alone, _MOST_OF_A_GROUP))

    def all_of(self, elements: Elements) -> Elements:
        return np.concatenate([each.of(elements)[1] for each in (self.outgoing, self.incoming, self.group)])

    def preference(self, elements: Elements, candidates: Elements) -> NDArray[np.int32]:
        """2 for the links of each element, 1 for its group, 0 for others: (elements, candidates), in units of _MOST."""
        kinds = np.zeros((len(elements), len(candidates)), dtype=np.int32)
        for preferred, lists in ((1, self.group), (2, self.outgoing)):
            rows, items = lists.of(elements)
            kinds[rows, np.searchsorted(candidates, items)] = preferred * _MOST
        # The group of an element has the element itself.
        kinds[np.arange(len(elements)), np.searchsorted(candidates, elements)] = -_MOST
        return kinds


def _clusters_with_candidates(
    around: _Around, vectors: GraphVectors, progress: Progress | None
) -> Iterator[tuple[Elements, Elements]]:
    """All elements in clusters, each with its candidates: those around its elements, and their nearest elements."""
    clusters = clusters_of(vectors.narrow)
    count = len(vectors.narrow)
    neighbours: Neighbours = around.all_of
    most = candidates_for(count)
    if most < count:
        neighbours = nearest_neighbours(vectors.narrow, clusters, around.all_of, progress)
    for elements in clusters:
        near = candidates_of(elements, neighbours, count, most)
        yield elements, np.union1d(near, around.all_of(elements)).astype(np.uint32)


def _clusters_with_nearest(
    around: _Around, vectors: GraphVectors, places: int
) -> Iterator[tuple[Elements, Elements]]:
    """As `_clusters_with_candidates`, with the `places` nearest of all elements to each one."""
    clusters = clusters_of(vectors.narrow, _ELEMENTS_A_SMALL_CLUSTER)
    for start in range(0, len(clusters), _CLUSTERS_A_SEARCH):
        yield from _searched(clusters[start : start + _CLUSTERS_A_SEARCH], around, vectors, places)


def _searched(
    clusters: Sequence[Elements], around: _Around, vectors: GraphVectors, places: int
) -> Iterator[tuple[Elements, Elements]]:
    queries = vectors.whole[np.concatenate(clusters)].astype(np.float32)
    # The products are whole numbers. An element is itself among its nearest, except among equal ones.
    near = exact_neighbours(queries, vectors.whole, places + 1)[0]
    ends = np.cumsum([len(elements) for elements in clusters])
    for elements, found in zip(clusters, np.split(near, ends[:-1]), strict=True):
        yield elements, np.union1d(found, around.all_of(elements)).astype(np.uint32)


def _chosen(similar: NDArray[np.int32], preference: NDArray[np.int32], places: int) -> NDArray[np.int64]:
    """The columns of the links of each element (rows, places), best first. The element itself has the least number."""
    keys = similar + preference
    columns = best(keys, min(places, similar.shape[1] - 1))
    ranked = np.argsort(-np.take_along_axis(keys, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, ranked, axis=1)


@dataclass(frozen=True)
class _Completed:
    """Complete links (n, places), and their number of each element (n,), of which the first `kept` (n,) stay.

    `nearest` (n, near): the places of the nearest elements among the links of each one, nearest first.
    """

    links: Elements
    counts: Elements
    kept: Elements
    nearest: NDArray[np.uint16]

    def in_degrees(self) -> NDArray[np.int64]:
        """The number of elements that link to each element (n,)."""
        degrees = np.zeros(len(self.links), dtype=np.int64)
        for start in range(0, len(self.links), _ROWS_A_COUNT):
            rows = slice(start, start + _ROWS_A_COUNT)
            taken = np.arange(self.links.shape[1]) < self.counts[rows, None]
            degrees += np.bincount(self.links[rows][taken], minlength=len(degrees))
        return degrees


def _link_rare_elements(graph: _Completed) -> None:
    """Links to elements to which few link, from the nearest ones of their own links, in place of the last links there."""
    links, places = graph.links, graph.links.shape[1]
    missing = places - graph.in_degrees()
    rare = np.flatnonzero(missing > 0).astype(np.uint32)
    blocks = [rare[start : start + _ROWS_A_BLOCK] for start in range(0, len(rare), _ROWS_A_BLOCK)]
    if not blocks:
        return
    keys = np.concatenate([_missing_links(graph, block, missing[block]) for block in blocks])
    keys.sort()
    targets = (keys >> np.uint64(_ELEMENT_BITS + _RANK_BITS)).astype(np.int64)
    first = np.flatnonzero(np.diff(targets, prepend=-1))
    rank = np.arange(len(targets)) - np.repeat(first, np.diff(first, append=len(targets)))
    place = graph.counts[targets].astype(np.int64) - 1 - rank
    fits = (rank < places * _SHARE_FOR_RARE) & (place >= graph.kept[targets])
    links[targets[fits], place[fits]] = keys[fits] & np.uint64((1 << _ELEMENT_BITS) - 1)


def _missing_links(graph: _Completed, rare: Elements, missing: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Keys of links to rare elements from their nearest ones, if these do not link to them: target, rank, rare element.

    At most `missing` (rare,) to each one, from targets with places that do not stay.
    """
    links, counts = graph.links, graph.counts
    own = np.take_along_axis(links[rare], graph.nearest[rare].astype(np.int64), axis=1)
    linked = (links[own] == rare[:, None, None]) & (np.arange(links.shape[1]) < counts[own][..., None])
    wanted = ~linked.any(axis=2) & (graph.kept[own] < counts[own])
    wanted &= np.cumsum(wanted, axis=1) <= missing[:, None]
    rows, ranks = np.nonzero(wanted)
    keys = own[rows, ranks].astype(np.uint64) << np.uint64(_ELEMENT_BITS + _RANK_BITS)
    keys |= ranks.astype(np.uint64) << np.uint64(_ELEMENT_BITS)
    return keys | rare[rows].astype(np.uint64)
