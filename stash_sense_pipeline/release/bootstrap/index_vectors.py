"""Vectors of a release's indices by position, and the same rounding for vectors that are compared with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.privacy.suppression.suppressed_faces import SuppressedFaces
from stash_sense_pipeline.release.checks.voyager_file import read_voyager_file
from stash_sense_pipeline.release.contract import INDEX_FILES

Vectors = NDArray[np.float32]
_ROWS_A_BLOCK = 20_000


def vectors_at(directory: Path, model: str) -> Callable[[Sequence[int]], Vectors]:
    """A function that reads the vectors at some positions. Loads the index, which takes the memory of its file.

    Float32 files have vectors of length 1. Those of 8-bit files are rounded.
    """
    import voyager

    with (directory / INDEX_FILES[model]).open("rb") as stream:
        index: Any = voyager.Index.load(stream)

    def read(positions: Sequence[int]) -> Vectors:
        return np.asarray(index.get_vectors(list(positions)), dtype=np.float32)

    return read


def rounded_as(storage: str, vectors: Vectors) -> Vectors:
    """Vectors (n, dim) as an index of this storage returns them: of length 1, and rounded where the storage rounds."""
    import voyager

    kind = getattr(voyager.StorageDataType, storage)
    index: Any = voyager.Index(voyager.Space.Cosine, vectors.shape[1], storage_data_type=kind)
    numbers = list(range(len(vectors)))
    index.add_items(np.ascontiguousarray(vectors), ids=numbers, num_threads=1)
    return np.asarray(index.get_vectors(numbers), dtype=np.float32)


def refused_positions(directory: Path, digests: Mapping[str, str], templates: SuppressedFaces) -> set[int]:
    """The positions of a release with a face that the suppression list refuses."""
    candidates: set[int] = set()
    for model, digest in sorted(digests.items()):
        read, count = vectors_at(directory, model), _count(directory, model)
        for start in range(0, count, _ROWS_A_BLOCK):
            block = range(start, min(start + _ROWS_A_BLOCK, count))
            near = templates.near({(model, digest): read(block)})
            candidates.update(np.asarray(block)[near].tolist())
    if not candidates:
        return set()
    chosen = sorted(candidates)
    of_all = {(model, digest): vectors_at(directory, model)(chosen) for model, digest in digests.items()}
    return set(np.asarray(chosen)[templates.near(of_all)].tolist())


def _count(directory: Path, model: str) -> int:
    return read_voyager_file(directory / INDEX_FILES[model]).count
