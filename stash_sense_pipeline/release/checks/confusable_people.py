"""Confusable people, hubs and the distribution of similarities, by exact search.

Exact search is a matrix product in blocks. At 400,000 faces a graph search of an hour would find less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.face_order import FaceOrder
from stash_sense_pipeline.release.contract import REQUIRED_MODELS, SIDECAR_MAX_DISTANCE, SIDECAR_WEIGHT

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

# A block of similarities is 32 MB.
_FACES_A_BLOCK = 2_048
_PEOPLE_A_BLOCK = 4_096
# Below every cosine: the similarity of a face to its own person, which is not searched for.
_EXCLUDED = -2.0
# Pairs that are compared one by one in Python.
_MAX_SINGLE_PAIRS = 1_000
# 100 bins of 0.02: bins of 0.1 would hide the tails, and the counts in bins of 0.001 would be noise.
BINS = np.round(np.linspace(-1, 1, 101), 2)
_SAMPLED_FACES, _SAMPLED_OTHERS = 1_000, 10_000


@dataclass(frozen=True)
class ConfusablePair:
    """Two performer ids, the smaller first, and the fused distance of the sidecar from a face of one to the other's mean."""

    first: int
    second: int
    distance: float


@dataclass(frozen=True)
class Hub:
    """A face within the sidecar's limit of the means of `people` other people, by fused distance."""

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


def find_confusable_people(
    order: FaceOrder, unit: Mapping[str, Floats], *, pairs: int = 20, hubs: int = 10
) -> ConfusablePeople:
    """Compares every face with the mean face of every other person, in the sidecar's fusion of both models.

    `unit`: unit vectors (n, dim) of each model in release order, in which the faces of a person are neighbours. With
    one mean a person the work is faces times people. A mean is nearer to other people's faces than a single face is.
    """
    people, starts = np.unique(order.performer_ids, return_index=True)
    means = _weighted_means(unit, starts)
    bounds = np.append(starts, len(order))
    near = np.zeros(len(order), dtype=np.int64)
    nearest = _NearestPairs(pairs)
    for first, last in _blocks_of_people(bounds):
        faces = slice(bounds[first], bounds[last])
        own = np.repeat(np.arange(first, last), np.diff(bounds[first : last + 1]))
        both = np.concatenate([unit[model][faces] for model in REQUIRED_MODELS], axis=1)
        for begin in range(0, len(people), _PEOPLE_A_BLOCK):
            # One minus the fused distance, (faces, people).
            similar = both @ means[begin : begin + _PEOPLE_A_BLOCK].T
            own_mean = (own >= begin) & (own < begin + similar.shape[1])
            similar[np.flatnonzero(own_mean), own[own_mean] - begin] = _EXCLUDED
            near[faces] += np.count_nonzero(similar >= 1 - SIDECAR_MAX_DISTANCE, axis=1)
            nearest.offer(similar, own, begin)
    top = np.lexsort((order.face_ids, -near))[:hubs]
    return ConfusablePeople(
        pairs=tuple(
            ConfusablePair(int(people[one]), int(people[other]), round(1 - similarity, 4))
            for similarity, one, other in nearest.found
        ),
        hubs=tuple(
            Hub(int(order.face_ids[face]), int(order.performer_ids[face]), int(near[face]))
            for face in top.tolist()
            if near[face]
        ),
        faces_near_others=int(np.count_nonzero(near)),
    )


class _NearestPairs:
    """The most similar pairs of people so far, each pair once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: list[tuple[float, int, int]] = []

    def offer(self, similar: Floats, own: Positions, first_column: int) -> None:
        """Adds the pairs of a block of similarities (faces, people).

        `own`: the person of each row, sorted. `first_column`: the person of the first column.
        """
        floor = self.found[-1][0] if len(self.found) == self.size else _EXCLUDED
        flat = np.flatnonzero(similar > floor)
        limit = max(_MAX_SINGLE_PAIRS, 2 * self.size)
        if len(flat) > limit:
            # This takes as long as the product, but is needed for the first blocks only.
            owners, starts = np.unique(own, return_index=True)
            similar, own = np.maximum.reduceat(similar, starts, axis=0), owners
            flat = np.flatnonzero(similar > floor)
        values = similar.reshape(-1)[flat]
        if len(flat) > limit:
            # Twice the size, because a pair can occur twice, once from each person.
            kept = np.argpartition(-values, 2 * self.size)[: 2 * self.size]
            flat, values = flat[kept], values[kept]
        rows, columns = np.divmod(flat, similar.shape[1])
        pairs = {(one, other): value for value, one, other in self.found}
        for value, owner, column in zip(values.tolist(), own[rows].tolist(), columns.tolist(), strict=True):
            one, other = sorted((owner, column + first_column))
            pairs[one, other] = max(value, pairs.get((one, other), value))
        ranked = sorted((-value, one, other) for (one, other), value in pairs.items())[: self.size]
        self.found = [(-value, one, other) for value, one, other in ranked]


def similarity_distribution(order: FaceOrder, unit: Floats, seed: int = 1) -> SimilarityDistribution:
    """The similarities of faces of one person and of faces of two people, in one model's unit vectors (n, dim)."""
    owners = order.performer_ids
    genuine = np.zeros(len(BINS) - 1, dtype=np.int64)
    for step in range(1, int(np.unique(owners, return_counts=True)[1].max())):
        same = np.flatnonzero(owners[step:] == owners[:-step])
        for begin in range(0, len(same), _PEOPLE_A_BLOCK):
            block = same[begin : begin + _PEOPLE_A_BLOCK]
            genuine += _histogram(np.einsum("ij,ij->i", unit[block], unit[block + step]))
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(len(unit), min(_SAMPLED_FACES, len(unit)), replace=False))
    others = np.sort(rng.choice(len(unit), min(_SAMPLED_OTHERS, len(unit)), replace=False))
    similar = unit[some] @ unit[others].T
    impostor = _histogram(similar[owners[some][:, None] != owners[others][None, :]])
    return SimilarityDistribution(tuple(genuine.tolist()), tuple(impostor.tolist()))


def _histogram(similarities: Floats) -> NDArray[np.int64]:
    return np.histogram(np.clip(similarities, -1, 1), BINS)[0]


def _weighted_means(unit: Mapping[str, Floats], starts: Positions) -> Floats:
    """The mean direction of each person's faces, (people, dims), with the models side by side and the sidecar's weights.

    The product with a face's unit vectors, side by side in the same way, is one minus the fused distance.
    """
    ends = np.cumsum([unit[model].shape[1] for model in REQUIRED_MODELS])
    means = np.empty((len(starts), int(ends[-1])), dtype=np.float32)
    for model, part in zip(REQUIRED_MODELS, np.split(means, ends[:-1], axis=1), strict=True):
        np.add.reduceat(unit[model], starts, axis=0, out=part)
        # Opposite vectors have no mean direction. The lower bound keeps the result finite.
        part *= SIDECAR_WEIGHT / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-6))
    return means


def _blocks_of_people(bounds: Positions) -> Iterator[tuple[int, int]]:
    """Ranges of people with at most _FACES_A_BLOCK faces together, or of one person with more."""
    first = 0
    while first < len(bounds) - 1:
        last = int(np.searchsorted(bounds, bounds[first] + _FACES_A_BLOCK, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
