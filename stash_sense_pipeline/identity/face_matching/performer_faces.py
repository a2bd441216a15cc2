"""The faces of one performer with their vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class PerformerFaces:
    """One performer's usable faces, best first, and their unit vectors of each model: a list of (faces, dim)."""

    rows: list[CandidateRow]
    vectors: list[Vectors]

    def keep(self, wanted: Sequence[int]) -> PerformerFaces:
        """Only the faces at these positions, in this order."""
        return PerformerFaces([self.rows[i] for i in wanted], [model[list(wanted)] for model in self.vectors])

    def without(self, unwanted: set[int], reason: str, dropped: Counter[str]) -> PerformerFaces:
        """The faces except those at the `unwanted` positions, which are counted in `dropped` under `reason`."""
        if not unwanted:
            return self
        dropped[reason] += len(unwanted)
        return self.keep([i for i in range(len(self.rows)) if i not in unwanted])

    def distances(self) -> list[Vectors]:
        """Cosine distances between all faces, one (faces, faces) matrix for each model."""
        return [np.asarray(1.0 - model @ model.T, dtype=np.float32) for model in self.vectors]
