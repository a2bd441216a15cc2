"""Crops of tattoos that wait for an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.embedding.crop_queue import CropQueue, WaitingCrop, still_present
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels
from stash_sense_pipeline.catalog.schema import (
    faces,
    tattoo_crops,
    tattoo_detections,
    tattoo_embeddings,
    tattoo_scans,
)
from stash_sense_pipeline.catalog.upsert import upsert


@dataclass(frozen=True)
class TattooQueue(CropQueue[WaitingCrop]):
    """The tattoos of a source that wait: found by this detector, with a crop, and without a vector of this embedder."""

    models: TattooModels

    shown = "tattoos"
    lock = 7305217
    crops = tattoo_crops
    key = tattoo_crops.c.tattoo_id

    def waits(self) -> sa.ColumnElement[bool]:
        """As CropQueue."""
        return sa.and_(self._is_its(), ~self._has_vector())

    def is_embedded(self) -> sa.ColumnElement[bool]:
        """As CropQueue."""
        return sa.and_(self._is_its(), self._has_vector())

    def of_source(self) -> sa.ColumnElement[bool]:
        """As CropQueue."""
        return sa.exists().where(
            tattoo_detections.c.tattoo_id == tattoo_crops.c.tattoo_id,
            faces.c.face_id == tattoo_detections.c.face_id,
            faces.c.source == self.source,
        )

    def waiting_ids(self, after: int) -> sa.Select[int]:
        """As CropQueue."""
        return sa.select(self.key).where(self.key > after, self.waits()).order_by(self.key)

    def waiting(
        self, connection: sa.Connection, after: int, limit: int, among: Sequence[int] | None = None
    ) -> list[WaitingCrop]:
        """As CropQueue."""
        outdated = sa.exists().where(tattoo_embeddings.c.tattoo_id == tattoo_crops.c.tattoo_id)
        query = (
            sa.select(tattoo_crops.c.tattoo_id, tattoo_crops.c.png, outdated)
            .where(self.key > after, self.waits())
            .order_by(self.key)
            .limit(limit)
        )
        if among is not None:
            query = query.where(self.key.in_(among))
        return [WaitingCrop(*row) for row in connection.execute(query)]

    def store(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """As CropQueue."""
        present = still_present(connection, tattoo_detections.c.tattoo_id, [row["tattoo_id"] for row in rows])
        upsert(connection, tattoo_embeddings, [row for row in rows if row["tattoo_id"] in present])

    def _is_its(self) -> sa.ColumnElement[bool]:
        """Condition on `tattoo_crops`: found in the source by the detector of the queue."""
        return sa.exists().where(
            tattoo_detections.c.tattoo_id == tattoo_crops.c.tattoo_id,
            tattoo_scans.c.face_id == tattoo_detections.c.face_id,
            tattoo_scans.c.detector_digest == self.models.detector,
            faces.c.face_id == tattoo_detections.c.face_id,
            faces.c.source == self.source,
        )

    def _has_vector(self) -> sa.ColumnElement[bool]:
        """Condition on `tattoo_crops`: there is a vector of the embedder of the queue."""
        return sa.exists().where(
            tattoo_embeddings.c.tattoo_id == tattoo_crops.c.tattoo_id,
            tattoo_embeddings.c.model_digest == self.models.embedder,
        )


def count_vectors(connection: sa.Connection, source: str) -> int:
    """The number of tattoos of a source with a vector."""
    of_source = sa.exists().where(
        tattoo_detections.c.tattoo_id == tattoo_embeddings.c.tattoo_id,
        faces.c.face_id == tattoo_detections.c.face_id,
        faces.c.source == source,
    )
    return connection.scalar(sa.select(sa.func.count()).select_from(tattoo_embeddings).where(of_source)) or 0
