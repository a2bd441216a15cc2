"""Embeddings as one matrix with an index, of one network only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.schema import embeddings
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.frames.reading import catalog_for_reading
from stash_sense_pipeline.frames.tables import FrameTable, of_model


def one_network(catalog: str, model: str, digest: str | None) -> FrameTable:
    """The embeddings of this model by the network of this digest, or by the only one in the catalog.

    Raises CatalogError when the catalog holds none, or those of several networks and `digest` is None.
    """
    table = embeddings.c
    query = sa.select(table.model_digest).where(table.model == model).distinct()
    with catalog_for_reading(catalog) as engine, reading(engine) as connection:
        found = sorted(connection.scalars(query))
        models = sorted(connection.scalars(sa.select(table.model).distinct()))
    if not found or (digest is not None and digest not in found):
        what = model if not found else f"{model} of {digest}"
        raise CatalogError(
            f"the catalog has no embeddings of {what}; it has those of {', '.join(models) or 'none'}"
        )
    if digest is None and len(found) > 1:
        raise CatalogError(
            f"the embeddings of {model} are of {len(found)} networks, and must not be compared; give model_digest: one of"
            f" {', '.join(found)}"
        )
    return of_model(model, digest or found[0])


def as_embeddings(frame: pd.DataFrame) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """The vectors of a frame of embeddings as a matrix, and its other columns."""
    vectors = list(frame["vector"])
    matrix = np.stack(vectors).astype(np.float32, copy=False) if vectors else np.empty((0, 0), np.float32)
    return matrix, frame.drop(columns="vector")
