"""Photographs that are left out of a release: the answers that the sidecar then gives to them, by exact search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.build.graph.exact_search import (
    Floats,
    Positions,
    exact_neighbours,
    sample_positions,
)
from stash_sense_pipeline.release.checks.accuracy.answer_fidelity import Neighbours
from stash_sense_pipeline.release.checks.accuracy.fusion import Distances, Fusion, nearest
from stash_sense_pipeline.release.contract import REQUIRED_MODELS, SIDECAR_K

# Photographs that are left out: all of them in a release of up to 12,000 faces. A search of 12,000 among 20,000 faces
# takes ten seconds of two cores. With more people than that, 12,000 people are drawn by chance: the time of the search
# grows with the faces, and not with their square.
PHOTOGRAPHS = 12_000
_QUERIES_A_BLOCK = 2_048
# A share of 0.999 of 2,000 probes of three kinds allows six unequal answers.
PROBES = 2_000


@dataclass(frozen=True)
class FirstAnswers:
    """The sidecar's first answer to each photograph: positions and fused distances (q,). No answer is -1 and infinite."""

    positions: Positions
    distances: Distances


@dataclass(frozen=True)
class ExactSample:
    """Sampled positions (s,) and their nearest faces in each model, (s, k). The face itself is one of them."""

    positions: Positions
    neighbours: Mapping[str, Neighbours]


@dataclass(frozen=True)
class LeftOut:
    """Photographs `queries` (q,) of a release, and the first answers to them.

    `known`: only the photograph itself is left out; people with one face have no answer. `strangers`: all faces of the
    person are left out.
    """

    queries: Positions
    known: FirstAnswers
    strangers: FirstAnswers
    sample: ExactSample


def leave_out(vectors: ReleaseVectors, photographs: int = PHOTOGRAPHS) -> LeftOut:
    """Leaves out photographs, and computes the answers of the release without them.

    One exact search of at most `photographs` photographs among all faces gives everything. Each person has at least one
    of them, if there are as many.
    """
    order = vectors.order
    queries = sample_photographs(order.performer_ids, photographs)
    faces_of = _faces_of_own_person(order.performer_ids)
    sampled = sample_positions(len(queries), PROBES)
    parts: list[tuple[Positions, Distances, Positions, Distances]] = []
    samples: dict[str, list[tuple[Positions, Floats]]] = {model: [] for model in REQUIRED_MODELS}
    for start in range(0, len(queries), _QUERIES_A_BLOCK):
        block = queries[start : start + _QUERIES_A_BLOCK]
        # The sidecar receives 100 faces of an index without the faces that are left out.
        k = SIDECAR_K + int(faces_of[block].max())
        found = [exact_neighbours(vectors.unit[model][block], vectors.unit[model], k) for model in samples]
        ids = [positions for positions, _ in found]
        distances = [1 - similar for _, similar in found]
        fusion = Fusion(ids, distances)
        known = fusion.without([each == block[:, None] for each in ids])
        own = order.performer_ids[block][:, None]
        strangers = fusion.without([order.performer_ids[each] == own for each in ids])
        parts.append((*nearest(*known), *nearest(*strangers)))
        rows = sampled[(sampled >= start) & (sampled < start + len(block))] - start
        width = min(SIDECAR_K, len(order))
        for each, far, kept in zip(ids, distances, samples.values(), strict=True):
            kept.append((each[rows, :width], far[rows, :width]))
    known_ids, known_distances, ids_of_others, distances_of_others = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    alone = faces_of[queries] == 1
    return LeftOut(
        queries,
        FirstAnswers(np.where(alone, -1, known_ids), np.where(alone, np.inf, known_distances)),
        FirstAnswers(ids_of_others, distances_of_others),
        ExactSample(queries[sampled], {model: _joined(blocks) for model, blocks in samples.items()}),
    )


def _joined(blocks: list[tuple[Positions, Floats]]) -> Neighbours:
    ids, distances = zip(*blocks, strict=True)
    return Neighbours(np.concatenate(ids), np.concatenate(distances))


def sample_photographs(owners: Positions, most: int, seed: int = 1) -> Positions:
    """choose_photographs, of people drawn by chance when there are more than `most`. At most `most` positions, sorted."""
    chosen = choose_photographs(owners, most, seed)
    if len(chosen) <= most:
        return chosen
    return np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))


def choose_photographs(owners: Positions, most: int, seed: int = 1) -> Positions:
    """Positions of photographs of all people, sorted: as many a person as give at most `most`, and one at least.

    `owners` (n,): the performer ids in release order. Each person's photographs are drawn by chance, because the first
    is the best. The same arguments give the same positions.
    """
    drawn = np.random.default_rng(seed).permutation(len(owners))
    by_person = drawn[np.argsort(owners[drawn], kind="stable")]
    _, starts, counts = np.unique(owners[by_person], return_index=True, return_counts=True)
    turn = np.arange(len(owners)) - np.repeat(starts, counts)
    together = np.cumsum(np.bincount(turn))
    turns = max(1, int(np.searchsorted(together, most, side="right")))
    return np.sort(by_person[turn < turns])


def _faces_of_own_person(owners: Positions) -> Positions:
    _, inverse, counts = np.unique(owners, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])
