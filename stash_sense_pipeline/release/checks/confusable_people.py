"""Confusable people, hubs and the distribution of similarities, by exact search.

Everything here is a matrix product in blocks: at 400,000 faces an hour of a graph search would answer less.
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
_SOMEBODY_ELSE_ONLY = -2.0
# Pairs that are looked at one by one.
_FEW = 1_000
# Tenths of a cosine are too coarse to see a tail, thousandths are noise.
BINS = np.round(np.linspace(-1, 1, 101), 2)
_SAMPLED_FACES, _SAMPLED_OTHERS = 1_000, 10_000


@dataclass(frozen=True)
class ConfusablePair:
    """Two people, the smaller id first, and the sidecar's fused distance from a face of one to the mean of the other."""

    first: int
    second: int
    distance: float


@dataclass(frozen=True)
class Hub:
    """A face within the sidecar's limit of the mean of `people` other people."""

    face_id: int
    performer_id: int
    people: int


@dataclass(frozen=True)
class Crowd:
    """The nearest pairs of people, nearest first; the faces that are near most others; and how many are near any."""

    pairs: tuple[ConfusablePair, ...]
    hubs: tuple[Hub, ...]
    faces_near_others: int


@dataclass(frozen=True)
class Spread:
    """Counts of cosine similarities in BINS: all pairs of faces of one person, and a sample of pairs of two people."""

    genuine: tuple[int, ...]
    impostor: tuple[int, ...]


def crowd(order: FaceOrder, unit: Mapping[str, Floats], *, pairs: int = 20, hubs: int = 10) -> Crowd:
    """Every face against the mean face of every other person, in the sidecar's fusion of both models.

    `unit`: unit vectors (n, dim) of each model in release order, which keeps the faces of a person together. Means
    stand for people, so that the work is faces times people; they are nearer to others than single faces are.
    """
    people, starts = np.unique(order.performer_ids, return_index=True)
    means = _weighted_means(unit, starts)
    bounds = np.append(starts, len(order))
    near = np.zeros(len(order), dtype=np.int64)
    best = _Best(pairs)
    for first, last in _blocks_of_people(bounds):
        faces = slice(bounds[first], bounds[last])
        own = np.repeat(np.arange(first, last), np.diff(bounds[first : last + 1]))
        both = np.concatenate([unit[model][faces] for model in REQUIRED_MODELS], axis=1)
        for begin in range(0, len(people), _PEOPLE_A_BLOCK):
            # One minus the sidecar's fused distance, (faces, people).
            similar = both @ means[begin : begin + _PEOPLE_A_BLOCK].T
            itself = (own >= begin) & (own < begin + similar.shape[1])
            similar[np.flatnonzero(itself), own[itself] - begin] = _SOMEBODY_ELSE_ONLY
            near[faces] += np.count_nonzero(similar >= 1 - SIDECAR_MAX_DISTANCE, axis=1)
            best.offer(similar, own, begin)
    top = np.lexsort((order.face_ids, -near))[:hubs]
    return Crowd(
        pairs=tuple(
            ConfusablePair(int(people[one]), int(people[other]), round(1 - similarity, 4))
            for similarity, one, other in best.found
        ),
        hubs=tuple(
            Hub(int(order.face_ids[face]), int(order.performer_ids[face]), int(near[face]))
            for face in top.tolist()
            if near[face]
        ),
        faces_near_others=int(np.count_nonzero(near)),
    )


class _Best:
    """The most similar pairs of people so far, each once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: list[tuple[float, int, int]] = []

    def offer(self, similar: Floats, own: Positions, first_column: int) -> None:
        """Takes a block of similarities (faces, people): whose the faces are, sorted, and the first person's number."""
        floor = self.found[-1][0] if len(self.found) == self.size else _SOMEBODY_ELSE_ONLY
        flat = np.flatnonzero(similar > floor)
        few = max(_FEW, 2 * self.size)
        if len(flat) > few:
            # Takes as long as the product itself, and is needed for the first blocks only.
            owners, starts = np.unique(own, return_index=True)
            similar, own = np.maximum.reduceat(similar, starts, axis=0), owners
            flat = np.flatnonzero(similar > floor)
        values = similar.reshape(-1)[flat]
        if len(flat) > few:
            # Each pair can come twice, once from each side.
            kept = np.argpartition(-values, 2 * self.size)[: 2 * self.size]
            flat, values = flat[kept], values[kept]
        rows, columns = np.divmod(flat, similar.shape[1])
        pairs = {(one, other): value for value, one, other in self.found}
        for value, owner, column in zip(values.tolist(), own[rows].tolist(), columns.tolist(), strict=True):
            one, other = sorted((owner, column + first_column))
            pairs[one, other] = max(value, pairs.get((one, other), value))
        ranked = sorted((-value, one, other) for (one, other), value in pairs.items())[: self.size]
        self.found = [(-value, one, other) for value, one, other in ranked]


def spread(order: FaceOrder, unit: Floats, seed: int = 1) -> Spread:
    """How similar faces of one person are, and those of different people, in one model's unit vectors (n, dim)."""
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
    return Spread(tuple(genuine.tolist()), tuple(impostor.tolist()))


def _histogram(similarities: Floats) -> NDArray[np.int64]:
    return np.histogram(np.clip(similarities, -1, 1), BINS)[0]


def _weighted_means(unit: Mapping[str, Floats], starts: Positions) -> Floats:
    """The mean direction of each person's faces in all models side by side, (people, dims), weighted as the sidecar does:
    the product with a face's unit vectors side by side is one minus the fused distance.
    """
    ends = np.cumsum([unit[model].shape[1] for model in REQUIRED_MODELS])
    means = np.empty((len(starts), int(ends[-1])), dtype=np.float32)
    for model, part in zip(REQUIRED_MODELS, np.split(means, ends[:-1], axis=1), strict=True):
        np.add.reduceat(unit[model], starts, axis=0, out=part)
        # Two opposite vectors have no mean direction; then any finite one does.
        part *= SIDECAR_WEIGHT / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-6))
    return means


def _blocks_of_people(bounds: Positions) -> Iterator[tuple[int, int]]:
    """Ranges of people that together have about as many faces as a block may have, one person at least."""
    first = 0
    while first < len(bounds) - 1:
        last = int(np.searchsorted(bounds, bounds[first] + _FACES_A_BLOCK, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
