"""The faces of one performer with their vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, ExclusionRow

Vectors = NDArray[np.float32]


class Reason(StrEnum):
    """Why a face is not trusted, where the operator should be able to read it for each face."""

    NOT_A_FACE = "not a face"
    NOT_THIS_PERSON = "not this person"
    SEVERAL_PEOPLE = "image of several people"
    SEVERAL_FACES = "several faces"
    OUTLIER = "outlier"
    NO_AGREEMENT = "no agreement"
    SECOND_FACE = "second face of a picture"
    COPY = "copy of another performer's picture"
    COLLISION = "nearer to another performer"
    HUB = "hub"


# Collisions have a table of their own.
_STORED = frozenset(Reason) - {Reason.COLLISION}


@dataclass
class LeftOut:
    """The faces left out so far: `counts` by reason, and the rows of those with a Reason, by (face_id, performer_id)."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[tuple[int, int], ExclusionRow] = field(default_factory=dict)

    def add(self, row: CandidateRow, reason: str, people: int | None = None) -> None:
        """Counts a face under `reason`, and notes it. `people`: of a hub, the number of other people it is near."""
        self.counts[str(reason)] += 1
        self.note(row, reason, people)

    def note(self, row: CandidateRow, reason: str, people: int | None = None) -> None:
        """Keeps the reason of a face for the operator, if it is one to read."""
        if reason in _STORED:
            facts = (row.performer_id, row.source, row.source_id, str(reason), people)
            self.rows[row.face_id, row.performer_id] = ExclusionRow(*facts)

    def reason_of(self, row: CandidateRow) -> str | None:
        """The noted reason of a face of a performer."""
        noted = self.rows.get((row.face_id, row.performer_id))
        return None if noted is None else noted.reason


@dataclass(frozen=True)
class PerformerFaces:
    """One performer's usable faces, best first, and their unit vectors of each model: a list of (faces, dim)."""

    rows: list[CandidateRow]
    vectors: list[Vectors]

    def keep(self, wanted: Sequence[int]) -> PerformerFaces:
        """Only the faces at these positions, in this order."""
        return PerformerFaces([self.rows[i] for i in wanted], [model[list(wanted)] for model in self.vectors])

    def without(self, unwanted: Collection[int], reason: str, left_out: LeftOut) -> PerformerFaces:
        """The faces except those at the `unwanted` positions, which are added to `left_out` under `reason`."""
        if not unwanted:
            return self
        for place in sorted(unwanted):
            left_out.add(self.rows[place], reason)
        return self.keep([i for i in range(len(self.rows)) if i not in unwanted])

    def distances(self) -> list[Vectors]:
        """Cosine distances between all faces, one (faces, faces) matrix for each model."""
        return [np.asarray(1.0 - model @ model.T, dtype=np.float32) for model in self.vectors]
