"""Checks of the Voyager files.

Each public function checks one property of a file. It returns its finding, or raises an error that
describes the failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stash_sense_pipeline.release.build.graph.voyager_file import VoyagerFile, load_index, read_voyager_file
from stash_sense_pipeline.release.contract import (
    SIDECAR_K,
)

# Three copies of a block are in memory at a time: 24 MB.
_VECTORS_A_BLOCK = 4_000


# How far a length may be from 1: 8-bit storage rounds every number of a unit vector.
_NORM_TOLERANCE = {"Float32": 1e-3, "E4M3": 0.1, "Float8": 0.2}


def loads(path: Path, found: list[tuple[VoyagerFile, Any]]) -> str:
    """Reads a Voyager file and appends its header and the loaded index to `found`.

    The index is None when its ids are wrong or when it holds deleted elements.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path.name}")
    file = read_voyager_file(path)
    # A sparse file can claim any size for free, but right ids must be written: only such a file is loaded.
    index = _load(path, file) if _has_right_ids(file) and file.deleted == 0 else None
    found.append((file, index))
    return f"{file.count} vectors, {file.storage}, M {file.m}, ef_construction {file.ef_construction}"


def _load(path: Path, file: VoyagerFile) -> Any:
    index = load_index(path)
    if index.num_elements != file.count or index.num_dimensions != file.dimensions:
        raise ValueError(f"Voyager loads {index.num_elements} elements of {file.count}")
    return index


def space(file: VoyagerFile) -> str:
    if file.space != "Cosine":
        raise ValueError(f"{file.space}, but the sidecar expects Cosine distances")
    return file.space


def dimensions(file: VoyagerFile, wanted: int) -> str:
    if file.dimensions != wanted:
        raise ValueError(f"{file.dimensions}, but the sidecar's vectors have {wanted}")
    return str(file.dimensions)


def tombstones(file: VoyagerFile) -> str:
    if file.deleted:
        raise ValueError(f"{file.deleted} deleted elements are still in the file")
    return "none"


def _has_right_ids(file: VoyagerFile) -> bool:
    return np.array_equal(np.sort(file.ids), np.arange(file.count, dtype=np.uint64))


def ids(file: VoyagerFile) -> str:
    if not _has_right_ids(file):
        raise ValueError(f"the ids are not 0 to {file.count - 1} without gaps")
    return f"0 to {file.count - 1}"


def vectors(index: Any, file: VoyagerFile) -> str:
    tolerance = _NORM_TOLERANCE[file.storage]
    for start in range(0, file.count, _VECTORS_A_BLOCK):
        block = index.get_vectors(range(start, min(start + _VECTORS_A_BLOCK, file.count)))
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", block, block))
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= tolerance))
        if len(wrong):
            raise ValueError(
                f"vector {start + wrong[0]} is not a finite unit vector (length {norms[wrong[0]]:g})"
            )
    return f"{file.count} finite unit vectors"


def enough_faces(file: VoyagerFile) -> str:
    alive = file.count - file.deleted
    if alive < SIDECAR_K:
        raise ValueError(
            f"{alive} faces: the sidecar asks for {SIDECAR_K} neighbours, so every query fails (RecallError); add faces"
        )
    return f"{alive} faces, the sidecar needs {SIDECAR_K}"
