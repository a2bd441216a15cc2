"""Answer fidelity: the share of probes that the sidecar answers through the indices as it would by exact search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.graph.exact_search import Floats, Positions
from stash_sense_pipeline.release.checks.accuracy.fusion import Distances, Fusion, Mask
from stash_sense_pipeline.release.contract import (
    REQUIRED_MODELS,
    SIDECAR_MAX_DISTANCE,
    SIDECAR_RESULTS,
)

# Two distances are equal when they differ by no more. A user sees two or three digits of a distance.
SAME_DISTANCE = 1e-3
# Faces of the exact answer beyond the last result: one of them may tie with it.
_TIED = 5


class Probe(StrEnum):
    """What is asked: a stored face; a photograph of a known person; a photograph of a person without faces in the release.

    The last two are stored faces too. The answers lack that face, or all faces of its person.
    """

    STORED = "stored face"
    HELD_OUT = "held-out photograph"
    STRANGER = "stranger"


@dataclass(frozen=True)
class Neighbours:
    """The answer of one model: positions and cosine distances (q, k), nearest first. No answer is -1 and infinite."""

    ids: Positions
    distances: Floats


@dataclass(frozen=True)
class AnswerFidelity:
    """The share of equal answers to each kind of probe, and the number of probes of each kind."""

    shares: Mapping[Probe, float]
    probes: int

    @property
    def share(self) -> float:
        """The share of equal answers to all probes."""
        return sum(self.shares.values()) / len(self.shares)


def answer_fidelity(
    owners: Positions,
    probes: Positions,
    exact: Mapping[str, Neighbours],
    indexed: Mapping[str, Neighbours],
    rounding: float = 0.0,
) -> AnswerFidelity:
    """Compares the sidecar's fused answers through the indices with those by exact search.

    `owners` (n,): the performer of each position. `probes` (q,): positions. `exact`, `indexed`: for each required
    model, the neighbours of the probes. `rounding`: how far the storage of the index can move a distance.

    Two answers are equal when the sidecar gives as many results, with the same distances to SAME_DISTANCE and the same
    people in the same order. People at equal distances may change places.
    """
    shares = {}
    for probe in Probe:
        wanted = _first_results(owners, probes, exact, probe, SIDECAR_RESULTS + _TIED)
        given = _first_results(owners, probes, indexed, probe, SIDECAR_RESULTS)
        shares[probe] = float(np.mean(_equal(wanted, given, SAME_DISTANCE + rounding)))
    return AnswerFidelity(shares, len(probes))


@dataclass(frozen=True)
class _Results:
    """The first results of the sidecar: people and distances (q, results). No result has an infinite distance."""

    people: Positions
    distances: Distances


def _first_results(
    owners: Positions, probes: Positions, neighbours: Mapping[str, Neighbours], probe: Probe, count: int
) -> _Results:
    found = [neighbours[model] for model in REQUIRED_MODELS]
    excluded = [_excluded(owners, probes, each.ids, probe) for each in found]
    fusion = Fusion([each.ids for each in found], [each.distances for each in found])
    positions, distances = fusion.without(excluded)
    best = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return _Results(
        owners[np.take_along_axis(positions, best, axis=1)], np.take_along_axis(distances, best, axis=1)
    )


def _excluded(owners: Positions, probes: Positions, ids: Positions, probe: Probe) -> Mask:
    missing = ids < 0
    if probe is Probe.HELD_OUT:
        return np.asarray(missing | (ids == probes[:, None]))
    if probe is Probe.STRANGER:
        return np.asarray(missing | (owners[ids] == owners[probes][:, None]))
    return np.asarray(missing)


def _equal(wanted: _Results, given: _Results, tolerance: float) -> NDArray[np.bool_]:
    # A result beyond the sidecar's distance is no result. One at the limit may be on either side of it.
    wanted_at, given_at = (np.minimum(each.distances, SIDECAR_MAX_DISTANCE) for each in (wanted, given))
    columns = min(wanted_at.shape[1], given_at.shape[1])
    same = np.all(np.abs(wanted_at[:, :columns] - given_at[:, :columns]) <= tolerance, axis=1)
    for column in range(columns):
        tied = np.abs(wanted_at - given_at[:, column : column + 1]) <= tolerance
        named = np.any(tied & (wanted.people == given.people[:, column : column + 1]), axis=1)
        same &= named | (given.distances[:, column] > SIDECAR_MAX_DISTANCE)
    return np.asarray(same)
