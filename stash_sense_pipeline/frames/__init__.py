"""The catalog as pandas DataFrames, for people who want to look for themselves: read-only, and without suppressed people.

Each function takes the URL of a catalog, such as `sqlite:////srv/stash-sense/catalog.db`. The columns are described in
docs/frames.md. Raises CatalogError when there is no catalog, or while entries of the suppression list are not applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

CHUNK_ROWS = 50_000

__all__ = [
    "Embeddings",
    "chunks",
    "embedding_chunks",
    "embeddings",
    "evidence",
    "faces",
    "identities",
    "images",
    "performers",
]


@dataclass(frozen=True)
class Embeddings:
    """Vectors of faces. Row i of `matrix`, of shape (n, dimensions), belongs to row i of `index`."""

    matrix: NDArray[np.float32]
    index: pd.DataFrame


def performers(catalog: str) -> pd.DataFrame:
    """The live records of the sources, each with the number of its identity. One row a record."""
    return _whole("performers", catalog)


def images(catalog: str) -> pd.DataFrame:
    """The images that live records show. One row an image of a record: an image of two records has two rows."""
    return _whole("images", catalog)


def faces(catalog: str) -> pd.DataFrame:
    """The faces in these images. `performer_id` and `rank` are missing for a face that is not trusted."""
    return _whole("faces", catalog)


def identities(catalog: str) -> pd.DataFrame:
    """Which live records are one person. One row a record."""
    return _whole("identities", catalog)


def evidence(catalog: str) -> pd.DataFrame:
    """The evidence for and against two live records being one person, without the text that they share."""
    return _whole("evidence", catalog)


def embeddings(catalog: str, model: str, model_digest: str | None = None) -> Embeddings:
    """The vectors of one model, in the order of the faces. `index` has face_id, model, pack and model_digest.

    Vectors of different networks must not be compared. Raises CatalogError when the catalog holds vectors of several,
    unless `model_digest` chooses one.
    """
    from stash_sense_pipeline.frames.reading import whole_frame
    from stash_sense_pipeline.frames.vectors import as_embeddings, one_network

    frame = whole_frame(catalog, one_network(catalog, model, model_digest))
    return Embeddings(*as_embeddings(frame))


def chunks(table: str, catalog: str, rows: int = CHUNK_ROWS) -> Iterator[pd.DataFrame]:
    """The frame of the function with the name `table`, at most `rows` rows at a time, for a catalog above memory.

    `table` may also be `embeddings`: the vectors of all models, with the vector of each face as a cell.
    """
    from stash_sense_pipeline.frames.reading import frame_chunks
    from stash_sense_pipeline.frames.tables import frame_table

    yield from frame_chunks(catalog, frame_table(table), rows)


def embedding_chunks(
    catalog: str, model: str, model_digest: str | None = None, rows: int = CHUNK_ROWS
) -> Iterator[Embeddings]:
    """As `embeddings`, at most `rows` vectors at a time."""
    from stash_sense_pipeline.frames.reading import frame_chunks
    from stash_sense_pipeline.frames.vectors import as_embeddings, one_network

    for frame in frame_chunks(catalog, one_network(catalog, model, model_digest), rows):
        yield Embeddings(*as_embeddings(frame))


def _whole(table: str, catalog: str) -> pd.DataFrame:
    from stash_sense_pipeline.frames.reading import whole_frame
    from stash_sense_pipeline.frames.tables import frame_table

    return whole_frame(catalog, frame_table(table))
