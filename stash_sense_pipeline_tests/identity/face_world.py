"""Records with faces in a catalog, in bulk: vectors of people, twins and look-alikes, of two models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    embeddings,
    faces,
    performer_images,
    source_images,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline_tests.identity.population import NOW

MODELS = {"arcface": "digest-a", "facenet": "digest-f"}
_DIM = 64
_NUMBERS = count(1)


@dataclass
class FaceMaker:
    """Each person is a direction for each model; a photo stands off it by `spread`."""

    rng: np.random.Generator
    spread: float = 0.09

    def person(self) -> dict[str, np.ndarray]:
        """A person who resembles no other."""
        return {model: _unit(self.rng.standard_normal(_DIM)) for model in MODELS}

    def like(self, person: dict[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
        """A look-alike of the person, with the share 0..1 of its direction."""
        own = self.person()
        return {model: _unit(share * person[model] + (1 - share) * own[model]) for model in MODELS}

    def photo(self, person: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raw vectors, not of unit length."""
        return {
            model: 7 * (vector + self.spread * self.rng.standard_normal(_DIM))
            for model, vector in person.items()
        }


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def add_photos(
    engine: sa.Engine, photos: Sequence[tuple[Record, dict[str, np.ndarray], str | None]]
) -> list[int]:
    """Images with one face each, of (record, vectors, sha256); returns their face_ids."""
    tables: dict[sa.Table, list[dict[str, Any]]] = {
        table: [] for table in (source_images, performer_images, faces, embeddings)
    }
    ids: list[int] = []
    for record, vectors, sha256 in photos:
        number = next(_NUMBERS)
        own = sha256 or hashlib.sha256(vectors["arcface"].tobytes()).hexdigest()
        ids.append(number)
        image = {"source": record.source, "image_id": f"i{number}"}
        tables[source_images].append(
            {**image, "url": "u", "state": "done", "sha256": own, "processed_at": NOW}
        )
        tables[performer_images].append({**image, "source_id": record.source_id})
        tables[faces].append(
            {
                **image, "face_id": number, "face_index": 0, "detection_confidence": 0.9, "x1": 0, "y1": 0, "x2": 9,
                "y2": 9, "landmarks": b"", "yaw": 0, "roll": 0, "blur": 1, "quality": 0.5, "pack": "p",
                "detector_digest": "d", "created_at": NOW,
            }
        )  # fmt: skip
        tables[embeddings] += [
            {
                "face_id": number, "model": model, "vector": vector.astype("<f4").tobytes(), "pack": "p",
                "model_digest": MODELS[model], "created_at": NOW,
            }
            for model, vector in vectors.items()
        ]  # fmt: skip
    with writing(engine) as connection:
        for table, rows in tables.items():
            if rows:
                connection.execute(table.insert(), rows)
    return ids
