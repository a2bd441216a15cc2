"""A reader of the tattoo files of releases, written from the contract alone: the sidecar's matcher and its scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import voyager

from stash_sense_pipeline_tests.release.sidecar import Match


class TattooMatcher:
    def __init__(self, release: Path) -> None:
        with (release / "tattoo_embeddings.voy").open("rb") as stream:
            self.index = voyager.Index.load(stream)
        self.mapping = json.loads((release / "tattoo_embeddings.json").read_text())
        # As the sidecar does it: a plain string is a TypeError.
        self.people = {entry["universal_id"] for entry in self.mapping if entry is not None}

    def match(self, vectors: Sequence[np.ndarray]) -> dict[str, float]:
        """The greatest similarity of each person among the ten nearest entries of each tattoo."""
        best: dict[str, float] = {}
        for vector in vectors:
            ids, distances = self.index.query(np.asarray(vector, dtype=np.float32), k=10)
            for number, distance in zip(ids, distances, strict=True):
                if number < len(self.mapping) and self.mapping[number] is not None:
                    uid = self.mapping[number]["universal_id"]
                    best[uid] = max(best.get(uid, 0.0), 1 - float(distance))
        return best

    def scored(self, faces: Sequence[Match], vectors: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """The people of some face matches, best first, by the scores of the multi-signal rule."""
        similar = self.match(vectors)
        scores: dict[str, float] = {}
        for face in faces:
            score = self._factor(face.universal_id, bool(vectors), similar) / (1 + face.distance)
            scores[face.universal_id] = max(scores.get(face.universal_id, 0.0), score)
        return sorted(scores.items(), key=lambda item: -item[1])

    def _factor(self, uid: str, shows: bool, similar: dict[str, float]) -> float:
        if not shows:
            return 0.95 if uid in self.people else 1.0
        if uid not in self.people:
            return 0.7
        similarity = similar.get(uid, 0.0)
        if similarity > 0.7:
            return 1.3 + (similarity - 0.7) / 0.3 * 0.2
        return 1.1 if similarity > 0.5 else 1.0
