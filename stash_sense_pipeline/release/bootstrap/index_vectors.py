"""Vectors of a release's indices by position, and the same rounding for vectors that are compared with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.files import open_regular
from stash_sense_pipeline.privacy.suppression.suppressed_faces import SuppressedFaces
from stash_sense_pipeline.release.build.graph.voyager_file import VoyagerFile, load_index, read_voyager_file
from stash_sense_pipeline.release.contract import INDEX_FILES

Vectors = NDArray[np.float32]
_ROWS_A_BLOCK = 20_000
# The storage that does not round.
EXACT = "Float32"


def vectors_at(directory: Path, model: str) -> Callable[[Sequence[int]], Vectors]:
    """A function that reads the vectors at some positions of a verified index.

    Float32 files have vectors of length 1, and are not loaded. Those of 8-bit files are rounded; such a file is loaded.
    """
    path = directory / INDEX_FILES[model]
    file = read_voyager_file(path)
    if file.storage == EXACT:
        return _float32_reader(path, file)
    index = load_index(path)

    def read(positions: Sequence[int]) -> Vectors:
        return np.asarray(index.get_vectors(list(positions)), dtype=np.float32)

    return read


def _float32_reader(path: Path, file: VoyagerFile) -> Callable[[Sequence[int]], Vectors]:
    element_of = np.empty(file.count, dtype=np.int64)
    element_of[file.ids.astype(np.int64)] = np.arange(file.count)
    size = 4 * file.dimensions

    def read(positions: Sequence[int]) -> Vectors:
        with open_regular(path) as stream:
            rows = [
                os.pread(
                    stream.fileno(), size, file.first_vector + int(element_of[place]) * file.element_bytes
                )
                for place in positions
            ]
        return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), file.dimensions)

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
