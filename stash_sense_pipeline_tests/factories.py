"""Rows of the catalog for tests and benchmarks, with fixed values in the columns that the caller leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.faces.models.model_packs import ModelPack

# Rows by table.
Rows = dict[str, list[dict[str, Any]]]


def add_rows(rows: Rows, more: Rows) -> None:
    """Appends `more` to `rows`."""
    for table, batch in more.items():
        rows.setdefault(table, []).extend(batch)


def insert_rows(engine: sa.Engine, rows: Rows) -> None:
    """Inserts all rows in one transaction, referenced tables first."""
    with writing(engine) as connection:
        for table in schema.metadata.sorted_tables:
            if rows.get(table.name):
                connection.execute(sa.insert(table), rows[table.name])


def record_rows(source: str, source_id: str, performer_id: int, at: datetime, **columns: object) -> Rows:
    """A source's record, changed at `at`, and its membership in a performer."""
    key = {"source": source, "source_id": source_id}
    record = {
        "gender": "FEMALE",
        "updated_at": at,
        "content_hash": "0" * 64,
        "first_seen_at": at,
        "changed_at": at,
    }
    return {
        "source_performers": [{**key, **record, **columns}],
        "identity_members": [{**key, "performer_id": performer_id}],
    }


@dataclass(frozen=True)
class TrustedFace:
    """A trusted face of a record. `vectors`: its stored vectors by embedder."""

    face_id: int
    performer_id: int
    source: str
    source_id: str
    rank: int
    image_id: str
    url: str
    vectors: Mapping[str, bytes]
    yaw: float = 1.0

    def rows(self, pack: ModelPack, at: datetime) -> Rows:
        """The face, its image and its embeddings by `pack`, all made at `at`."""
        image = {"source": self.source, "image_id": self.image_id}
        record = {"source": self.source, "source_id": self.source_id}
        face = {
            "face_index": 0,
            "detection_confidence": 0.9,
            "x1": 0.0,
            "y1": 0.0,
            "x2": 100.0,
            "y2": 100.0,
            "landmarks": bytes(40),
            "yaw": self.yaw,
            "roll": 0.0,
            "blur": 100.0,
            "quality": 0.5,
            "pack": pack.name,
            "detector_digest": pack.detector.digest,
            "created_at": at,
        }
        trusted = {"face_id": self.face_id, "performer_id": self.performer_id, "rank": self.rank}
        return {
            "source_images": [{**image, "url": self.url, "state": "done", "attempts": 1}],
            "performer_images": [{**image, "source_id": self.source_id}],
            "faces": [{**image, "face_id": self.face_id, **face}],
            "trusted_faces": [{**record, **trusted}],
            "embeddings": [
                {
                    "face_id": self.face_id,
                    "model": model,
                    "vector": vector,
                    "pack": pack.name,
                    "model_digest": pack.embedders[model].digest,
                    "created_at": at,
                }
                for model, vector in self.vectors.items()
            ],
        }
