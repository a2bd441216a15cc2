"""The causes of wrong answers: the model, a person who stands twice in the release, a face with a wrong label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.build.graph.exact_search import Positions
from stash_sense_pipeline.release.checks.accuracy.fusion import Distances
from stash_sense_pipeline.release.checks.accuracy.left_out import FirstAnswers, LeftOut
from stash_sense_pipeline.release.checks.accuracy.released_people import ReleasedPerson, names_agree
from stash_sense_pipeline.release.contract import REQUIRED_MODELS, SIDECAR_MAX_DISTANCE, SIDECAR_WEIGHT

# The largest distance of the tables. Answers beyond it have no cause.
LARGEST_DISTANCE = 0.6
# A face is suspected to be another person's from two faces of that person on.
_FEWEST_WITNESSES = 2


class Cause(IntEnum):
    """Why another person's name is the first answer. NONE: it is not."""

    NONE = 0
    MODEL = 1
    SPLIT = 2
    LABEL = 3


Causes = NDArray[np.int8]


@dataclass(frozen=True)
class WrongAnswers:
    """The cause of the first answer to each left-out photograph (q,), for known people and for strangers.

    `splits`: pairs of performer ids, the smaller first. `labels`: face ids with the performer ids of their person and
    of the one that they look like.
    """

    known: Causes
    strangers: Causes
    splits: tuple[tuple[int, int], ...]
    labels: tuple[tuple[int, int, int], ...]


def tell_causes(
    vectors: ReleaseVectors, left_out: LeftOut, people: Mapping[int, ReleasedPerson]
) -> WrongAnswers:
    """Tells errors of the model from splits and wrong labels, for answers up to LARGEST_DISTANCE.

    A split is suspected when the names of two performers agree and a photograph of one finds the other within the
    sidecar's distance. A wrong label is suspected when a face of the answer, or the photograph, is beyond the sidecar's
    distance of all other faces of its person, and within it of most faces of the other person. All else is the model's.
    """
    judge = _Judge(vectors, people)
    for answers in (left_out.known, left_out.strangers):
        judge.find_splits(left_out.queries, answers)
    known = judge.causes(left_out.queries, left_out.known)
    strangers = judge.causes(left_out.queries, left_out.strangers)
    return WrongAnswers(known, strangers, tuple(sorted(judge.splits)), tuple(sorted(judge.labels)))


class _Judge:
    def __init__(self, vectors: ReleaseVectors, people: Mapping[int, ReleasedPerson]) -> None:
        self._face_ids = vectors.order.face_ids
        self._unit = [vectors.unit[model] for model in REQUIRED_MODELS]
        self._owners = vectors.order.performer_ids
        self._people = people
        # The faces of each face's person lie one after the other.
        self._first, self._end = (
            np.searchsorted(self._owners, self._owners, side=side).tolist() for side in ("left", "right")
        )
        self._mislabelled: dict[tuple[int, int], bool] = {}
        self.splits: set[tuple[int, int]] = set()
        self.labels: set[tuple[int, int, int]] = set()

    def find_splits(self, queries: Positions, answers: FirstAnswers) -> None:
        for place in self._wrong(queries, answers, SIDECAR_MAX_DISTANCE):
            pair = self._pair(queries[place], answers.positions[place])
            if pair not in self.splits and names_agree(self._people[pair[0]], self._people[pair[1]]):
                self.splits.add(pair)

    def causes(self, queries: Positions, answers: FirstAnswers) -> Causes:
        causes = np.full(len(queries), Cause.NONE, dtype=np.int8)
        for place in self._wrong(queries, answers, LARGEST_DISTANCE):
            face, answer = int(queries[place]), int(answers.positions[place])
            if self._pair(face, answer) in self.splits:
                causes[place] = Cause.SPLIT
            elif self._is_mislabelled(face, answer) or self._is_mislabelled(answer, face):
                causes[place] = Cause.LABEL
            else:
                causes[place] = Cause.MODEL
        return causes

    def _wrong(self, queries: Positions, answers: FirstAnswers, distance: float) -> list[int]:
        near = answers.distances <= distance
        return np.flatnonzero(near & (self._owners[answers.positions] != self._owners[queries])).tolist()

    def _pair(self, face: int, other: int) -> tuple[int, int]:
        one, two = sorted((int(self._owners[face]), int(self._owners[other])))
        return one, two

    def _is_mislabelled(self, face: int, other: int) -> bool:
        """Whether a face looks like the person of the face `other`, and not like its own."""
        person = int(self._owners[other])
        if (face, person) not in self._mislabelled:
            found = self._is_apart(face) and self._is_among(face, other)
            self._mislabelled[face, person] = found
            if found:
                face_id = int(self._face_ids[face])
                self.labels.add((face_id, int(self._owners[face]), person))
        return self._mislabelled[face, person]

    def _is_apart(self, face: int) -> bool:
        """Whether a face is far from all others of its person, if there are any."""
        distances = self._distances(face, face)
        distances[face - self._first[face]] = np.inf
        return len(distances) > 1 and bool(distances.min() > SIDECAR_MAX_DISTANCE)

    def _is_among(self, face: int, other: int) -> bool:
        distances = self._distances(face, other)
        near = np.count_nonzero(distances <= SIDECAR_MAX_DISTANCE)
        return bool(near >= _FEWEST_WITNESSES and 2 * near > len(distances))

    def _distances(self, face: int, other: int) -> Distances:
        """The mean distance of both models between a face and all faces of the person of the face `other`."""
        theirs = slice(self._first[other], self._end[other])
        return np.asarray(sum(SIDECAR_WEIGHT * (1.0 - unit[theirs] @ unit[face]) for unit in self._unit))
