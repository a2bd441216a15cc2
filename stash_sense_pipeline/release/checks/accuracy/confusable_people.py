"""Confusable people, hubs and the distribution of similarities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.face_order import FaceOrder, ReleaseVectors
from stash_sense_pipeline.release.build.graph.exact_search import Floats, Positions
from stash_sense_pipeline.release.checks.accuracy.fusion import Distances, Fusion
from stash_sense_pipeline.release.contract import REQUIRED_MODELS, SIDECAR_MAX_DISTANCE

# Pairs of faces that are compared at once.
_PAIRS_A_BLOCK = 4_096
# Photographs for which the vectors of all neighbours are read at once: 50 MB for 100 neighbours.
_PHOTOGRAPHS_A_BLOCK = 256
# 100 bins of 0.02: bins of 0.1 would hide the tails, and the counts in bins of 0.001 would be noise.
BINS = np.round(np.linspace(-1, 1, 101), 2)
# Their intermediate results stay in the cache of a core.
_SIMILARITIES_A_BLOCK = 16_384
_SAMPLED_FACES, _SAMPLED_OTHERS, _SAMPLED_A_BLOCK = 1_000, 10_000, 100


@dataclass(frozen=True)
class ConfusablePair:
    """Two performer ids, the smaller first, and the sidecar's distance from a photograph of one to a face of the other."""

    first: int
    second: int
    distance: float


@dataclass(frozen=True)
class Hub:
    """A face that the sidecar answers with, within its distance, to photographs of `people` other people."""

    face_id: int
    performer_id: int
    people: int


@dataclass(frozen=True)
class ConfusablePeople:
    """The nearest pairs of people, the faces near most other people, and the number of faces near any other person.

    Pairs are sorted by distance, hubs by the number of people.
    """

    pairs: tuple[ConfusablePair, ...]
    hubs: tuple[Hub, ...]
    faces_near_others: int


@dataclass(frozen=True)
class SimilarityDistribution:
    """Counts of cosine similarities in BINS: of all pairs of faces of one person, and of sampled pairs of two people."""

    genuine: tuple[int, ...]
    impostor: tuple[int, ...]


def find_confusable(
    vectors: ReleaseVectors,
    photographs: Positions,
    neighbours: Mapping[str, NDArray[np.int32]],
    *,
    pairs: int = 20,
    hubs: int = 10,
) -> ConfusablePeople:
    """The nearest pairs of people and the hubs of a release.

    `photographs` (q,): positions, at least one of each person. `neighbours`: the neighbours (q, k) of these photographs
    that the index of each required model returns; -1 is none. The indices only propose faces: the distances are exact.
    `pairs`, `hubs`: the largest numbers of them.

    The time grows with the photographs, and with the logarithm of the faces. Comparing every photograph with every face
    would grow with the square.
    """
    search = _Search(vectors.order, pairs, hubs)
    owners = vectors.order.performer_ids
    for start in range(0, len(photographs), _PHOTOGRAPHS_A_BLOCK):
        block = photographs[start : start + _PHOTOGRAPHS_A_BLOCK]
        own = owners[block][:, None]
        ids = [neighbours[model][start : start + len(block)].astype(np.int64) for model in REQUIRED_MODELS]
        distances = [
            _distances(vectors.unit[model], block, each)
            for model, each in zip(REQUIRED_MODELS, ids, strict=True)
        ]
        excluded = [(each < 0) | (owners[each] == own) for each in ids]
        search.offer(block, *Fusion(ids, distances).without(excluded))
    return search.found()


def _distances(unit: Floats, photographs: Positions, ids: Positions) -> Floats:
    """Cosine distances (q, k) of photographs and their neighbours."""
    return np.asarray(1 - np.einsum("qd,qkd->qk", unit[photographs], unit[ids]))


class _Search:
    """The nearest pairs of people and the hubs, from the answers to photographs.

    `pairs`, `hubs`: the largest numbers of them.
    """

    def __init__(self, order: FaceOrder, pairs: int, hubs: int) -> None:
        self._order = order
        self._most = pairs, hubs
        self._people, self._person = np.unique(order.performer_ids, return_inverse=True)
        # One number a pair of people: the smaller person, times the number of people, plus the other.
        self._pairs = np.empty(0, dtype=np.int64)
        self._distances = np.empty(0, dtype=np.float64)
        self._near: list[Positions] = []

    def offer(self, queries: Positions, positions: Positions, distances: Distances) -> None:
        """Adds photographs (q,), and the positions and fused distances (q, k) of faces of other people."""
        rows, columns = np.nonzero(np.isfinite(distances))
        one, faces = self._person[queries[rows]], positions[rows, columns]
        self._keep_nearest(one, self._person[faces], distances[rows, columns])
        near = distances[rows, columns] <= SIDECAR_MAX_DISTANCE
        # A person with several photographs is near a face once.
        self._near.append(np.unique(faces[near] * len(self._people) + one[near]))

    def _keep_nearest(self, one: Positions, other: Positions, distances: Distances) -> None:
        pairs = np.minimum(one, other) * len(self._people) + np.maximum(one, other)
        if len(self._pairs) == self._most[0] and self._most[0]:
            nearer = distances <= self._distances[-1]
            pairs, distances = pairs[nearer], distances[nearer]
        pairs = np.concatenate([self._pairs, pairs])
        distances = np.concatenate([self._distances, distances])
        ranked = np.lexsort((pairs, distances))
        _, first = np.unique(pairs[ranked], return_index=True)
        kept = ranked[np.sort(first)[: self._most[0]]]
        self._pairs, self._distances = pairs[kept], distances[kept]

    def found(self) -> ConfusablePeople:
        """The nearest pairs, the faces near most other people, and the number of faces near any other person."""
        count = len(self._people)
        near = np.unique(np.concatenate(self._near)) // count if self._near else np.empty(0, np.int64)
        faces, people = np.unique(near, return_counts=True)
        top = np.lexsort((faces, -people))[: self._most[1]]
        return ConfusablePeople(
            pairs=tuple(
                ConfusablePair(
                    int(self._people[pair // count]), int(self._people[pair % count]), round(distance, 4)
                )
                for pair, distance in zip(self._pairs.tolist(), self._distances.tolist(), strict=True)
            ),
            hubs=tuple(
                Hub(
                    int(self._order.face_ids[faces[place]]),
                    int(self._order.performer_ids[faces[place]]),
                    int(people[place]),
                )
                for place in top.tolist()
            ),
            faces_near_others=len(faces),
        )


def similarity_distribution(order: FaceOrder, unit: Floats, seed: int = 1) -> SimilarityDistribution:
    """The similarities of faces of one person and of faces of two people, in one model's unit vectors (n, dim)."""
    owners = order.performer_ids
    genuine = np.zeros(len(BINS) - 1, dtype=np.int64)
    for step in range(1, int(np.unique(owners, return_counts=True)[1].max())):
        same = np.flatnonzero(owners[step:] == owners[:-step])
        for begin in range(0, len(same), _PAIRS_A_BLOCK):
            block = same[begin : begin + _PAIRS_A_BLOCK]
            genuine += _histogram(np.einsum("ij,ij->i", unit[block], unit[block + step]))
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(len(unit), min(_SAMPLED_FACES, len(unit)), replace=False))
    others = np.sort(rng.choice(len(unit), min(_SAMPLED_OTHERS, len(unit)), replace=False))
    impostor, compared = np.zeros_like(genuine), unit[others].T
    for begin in range(0, len(some), _SAMPLED_A_BLOCK):
        block = some[begin : begin + _SAMPLED_A_BLOCK]
        similar = unit[block] @ compared
        impostor += _histogram(similar[owners[block][:, None] != owners[others][None, :]])
    return SimilarityDistribution(tuple(genuine.tolist()), tuple(impostor.tolist()))


def _histogram(similarities: Floats) -> NDArray[np.int64]:
    """The counts that numpy.histogram gives for BINS, without its sorting: the bins have one width."""
    bins = len(BINS) - 1
    counts = np.zeros(bins, dtype=np.int64)
    for start in range(0, len(similarities), _SIMILARITIES_A_BLOCK):
        block = np.clip(similarities[start : start + _SIMILARITIES_A_BLOCK], -1, 1)
        place = np.minimum(((block + 1) * (bins / 2)).astype(np.int64), bins - 1)
        # Rounding can lead to the bin beside.
        place -= block < BINS[place]
        place += (block >= BINS[place + 1]) & (place < bins - 1)
        counts += np.bincount(place, minlength=bins)
    return counts
