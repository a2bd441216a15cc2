"""What the tattoo signal is worth: left-out photographs that find their person without and with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.build.graph.exact_search import (
    Positions,
    exact_neighbours,
    sample_positions,
)
from stash_sense_pipeline.release.build.tattoos.tattoo_index import TattooVectors
from stash_sense_pipeline.release.checks.accuracy.fusion import Distances, Fusion
from stash_sense_pipeline.release.checks.tattoos.multi_signal import face_score, tattoo_factor
from stash_sense_pipeline.release.contract import (
    REQUIRED_MODELS,
    SIDECAR_K,
    SIDECAR_MAX_DISTANCE,
    SIDECAR_TATTOO_K,
)

# Photographs that are left out. With 2,000, a share is known to two hundredths.
_PHOTOGRAPHS = 2_000
_QUERIES_A_BLOCK = 500


@dataclass(frozen=True)
class Worth:
    """How many left-out `photographs` get the right first answer, `without` and `with_signal`.

    `gained` and `lost` count the photographs with an answer that becomes right, and wrong, by the signal.
    """

    photographs: int
    without: int
    with_signal: int
    gained: int
    lost: int

    @property
    def change(self) -> int:
        """The photographs that the signal gains, less those that it loses."""
        return self.gained - self.lost


@dataclass(frozen=True)
class TattooWorth:
    """The worth over all photographs, and by whether a photograph shows a tattoo."""

    every: Worth
    shown: Worth
    not_shown: Worth


def measure_worth(vectors: ReleaseVectors, tattoos: TattooVectors) -> TattooWorth:
    """Leaves out searched photographs of people with two faces or more, with their tattoos, and asks for them.

    The search is exact. The sidecar's fusion of the face indices gives the candidates, its multi-signal rule their scores.
    """
    queries = _photographs(vectors, tattoos)
    signal = _Signal(tattoos)
    outcomes: list[tuple[bool, bool, bool]] = []
    for start in range(0, len(queries), _QUERIES_A_BLOCK):
        block = queries[start : start + _QUERIES_A_BLOCK]
        positions, distances = _candidates(vectors, block)
        similar = dict(signal.similar(vectors.order.face_ids[block]))
        for query, places, apart in zip(block.tolist(), positions, distances, strict=True):
            face_id = int(vectors.order.face_ids[query])
            near = apart <= SIDECAR_MAX_DISTANCE
            people, faces = vectors.order.performer_ids[places[near]], apart[near]
            own = int(vectors.order.performer_ids[query])
            plain = np.array([face_score(distance) for distance in faces.tolist()])
            factors = signal.factors(people, similar.get(face_id), face_id)
            outcomes.append(
                (
                    face_id in similar,
                    _first(people, plain) == own,
                    _first(people, plain * factors) == own,
                )
            )
    return TattooWorth(
        _worth(outcomes),
        _worth([each for each in outcomes if each[0]]),
        _worth([each for each in outcomes if not each[0]]),
    )


def _worth(outcomes: list[tuple[bool, bool, bool]]) -> Worth:
    return Worth(
        photographs=len(outcomes),
        without=sum(without for _, without, _ in outcomes),
        with_signal=sum(with_signal for _, _, with_signal in outcomes),
        gained=sum(with_signal and not without for _, without, with_signal in outcomes),
        lost=sum(without and not with_signal for _, without, with_signal in outcomes),
    )


def _photographs(vectors: ReleaseVectors, tattoos: TattooVectors) -> Positions:
    _, person, faces = np.unique(vectors.order.performer_ids, return_inverse=True, return_counts=True)
    searched = np.isin(
        vectors.order.face_ids, np.array(sorted(tattoos.tattoos.searched_faces), dtype=np.int64)
    )
    usable = np.flatnonzero(searched & (faces[person] > 1))
    return usable[sample_positions(len(usable), _PHOTOGRAPHS)]


def _candidates(vectors: ReleaseVectors, block: Positions) -> tuple[Positions, Distances]:
    """The faces that the sidecar receives for each photograph without the photograph itself, and their fused distances."""
    found = [
        exact_neighbours(vectors.unit[model][block], vectors.unit[model], SIDECAR_K + 1)
        for model in REQUIRED_MODELS
    ]
    ids = [positions for positions, _ in found]
    fusion = Fusion(ids, [1 - similar for _, similar in found])
    return fusion.without([each == block[:, None] for each in ids])


def _first(people: Positions, scores: Distances) -> int | None:
    """The person with the highest score. Of equal scores the first in release order counts."""
    return int(people[int(np.argmax(scores))]) if len(scores) else None


class _Signal:
    """The tattoo entries of a release, of which those of one left-out picture do not count."""

    def __init__(self, tattoos: TattooVectors) -> None:
        self._owners, self._faces = tattoos.owners, tattoos.face_ids
        self._unit = tattoos.unit
        self._entries = Counter(self._owners.tolist())
        self._of_face: dict[int, list[int]] = {}
        for place, face_id in enumerate(self._faces.tolist()):
            self._of_face.setdefault(face_id, []).append(place)
        self._most = max(map(len, self._of_face.values()), default=0)

    def similar(self, face_ids: Positions) -> Iterator[tuple[int, dict[int, float]]]:
        """The greatest similarity of each person to the tattoos of each of these pictures that shows any."""
        shown = [place for face_id in face_ids.tolist() for place in self._of_face.get(face_id, ())]
        if not shown:
            return
        k = SIDECAR_TATTOO_K + self._most
        places, similarities = exact_neighbours(self._unit[shown], self._unit, k)
        found: dict[int, dict[int, float]] = {}
        for query, row, values in zip(shown, places, similarities, strict=True):
            face_id = int(self._faces[query])
            others = self._faces[row] != face_id
            best = found.setdefault(face_id, {})
            received = zip(row[others][:SIDECAR_TATTOO_K], values[others][:SIDECAR_TATTOO_K], strict=True)
            for place, similarity in received:
                owner = int(self._owners[place])
                best[owner] = max(best.get(owner, 0.0), float(similarity))
        yield from found.items()

    def factors(self, people: Positions, similar: dict[int, float] | None, face_id: int) -> Distances:
        """The factor of each of these people for the picture of a face. `similar`: of that picture; None without tattoos."""
        left_out = Counter(int(self._owners[place]) for place in self._of_face.get(face_id, ()))
        known: dict[int, float] = {}
        for person in set(people.tolist()):
            has_entry = self._entries[person] > left_out[person]
            known[person] = tattoo_factor(person, similar, has_entry)
        return np.array([known[person] for person in people.tolist()])
