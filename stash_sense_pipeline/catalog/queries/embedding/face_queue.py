"""Aligned crops of faces that wait for an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.queries.embedding.crop_queue import CropQueue, WaitingCrop, still_present
from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings, faces
from stash_sense_pipeline.catalog.upsert import batched, upsert


@dataclass(frozen=True)
class WaitingFace(WaitingCrop):
    """A face that lacks vectors, with its aligned crop. `missing` names the models."""

    missing: tuple[str, ...]


@dataclass(frozen=True)
class FaceQueue(CropQueue[WaitingFace]):
    """The faces of a source that wait: found by this detector, with a crop, and without a vector of at least one of the
    models `digests` (name → digest).
    """

    detector_digest: str
    digests: Mapping[str, str]

    shown = "faces"
    lock = 7305216
    crops = aligned_crops
    key = aligned_crops.c.face_id

    def waits(self) -> sa.ColumnElement[bool]:
        """As CropQueue. It is not a join, as there are few crops and the search must begin with them."""
        return sa.exists().where(
            faces.c.face_id == aligned_crops.c.face_id, self._is_its(), self._lacks_vectors()
        )

    def is_embedded(self) -> sa.ColumnElement[bool]:
        """As CropQueue: there is a vector of each model."""
        return sa.exists().where(
            faces.c.face_id == aligned_crops.c.face_id, self._is_its(), ~self._lacks_vectors()
        )

    def of_source(self) -> sa.ColumnElement[bool]:
        """As CropQueue."""
        return sa.exists().where(faces.c.face_id == aligned_crops.c.face_id, faces.c.source == self.source)

    def waiting_ids(self, after: int) -> sa.Select[int]:
        """As CropQueue."""
        return (
            sa.select(faces.c.face_id)
            .join(aligned_crops, aligned_crops.c.face_id == faces.c.face_id)
            .where(faces.c.face_id > after, self._is_its(), self._lacks_vectors())
            .order_by(faces.c.face_id)
        )

    def waiting(
        self, connection: sa.Connection, after: int, limit: int, among: Sequence[int] | None = None
    ) -> list[WaitingFace]:
        """As CropQueue."""
        digests = self.digests
        next_ones = (
            sa.select(aligned_crops.c.face_id, aligned_crops.c.png)
            .where(aligned_crops.c.face_id > after, self.waits())
            .order_by(aligned_crops.c.face_id)
            .limit(limit)
        )
        if among is not None:
            next_ones = next_ones.where(aligned_crops.c.face_id.in_(among))
        rows = connection.execute(next_ones).all()
        have: dict[int, set[str]] = {}
        outdated: set[int] = set()
        for ids in batched([row.face_id for row in rows], IN_LIST):
            current = connection.execute(
                sa.select(embeddings.c.face_id, embeddings.c.model, embeddings.c.model_digest).where(
                    embeddings.c.face_id.in_(ids)
                )
            )
            for face_id, model, digest in current:
                if digests.get(model) == digest:
                    have.setdefault(face_id, set()).add(model)
                elif model in digests:
                    outdated.add(face_id)
        return [
            WaitingFace(
                face_id,
                png,
                face_id in outdated,
                tuple(name for name in digests if name not in have.get(face_id, ())),
            )
            for face_id, png in rows
        ]

    def store(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """As CropQueue."""
        present = still_present(connection, faces.c.face_id, [row["face_id"] for row in rows])
        upsert(connection, embeddings, [row for row in rows if row["face_id"] in present])

    def _is_its(self) -> sa.ColumnElement[bool]:
        """Condition on `faces`: found in the source by the detector of the queue."""
        return sa.and_(faces.c.source == self.source, faces.c.detector_digest == self.detector_digest)

    def _lacks_vectors(self) -> sa.ColumnElement[bool]:
        """Condition on `faces`: at least one of the models has no vector of the face."""
        return sa.or_(
            *(
                ~sa.exists().where(
                    embeddings.c.face_id == faces.c.face_id,
                    embeddings.c.model == model,
                    embeddings.c.model_digest == digest,
                )
                for model, digest in self.digests.items()
            )
        )
