"""Near faces of many stored faces, found by the links of an index.

A search of the index for each of them would take many times as long: it reads the vectors of thousands of elements from
memory, where a product of two matrices compares a cluster of faces with all of their candidates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.graph.clusters import clusters_of, in_steps
from stash_sense_pipeline.release.build.graph.element_lists import Elements
from stash_sense_pipeline.release.build.graph.exact_search import Floats, Positions
from stash_sense_pipeline.release.build.graph.near_elements import (
    best,
    candidates_for,
    candidates_of,
    similarities,
)
from stash_sense_pipeline.release.build.graph.voyager_file import read_links, read_voyager_file
from stash_sense_pipeline.release.contract import SIDECAR_K

# Fewer than a cluster of a graph has: these faces are farther apart. All their links together are 5,000 to 8,000 faces.
_FACES_A_CLUSTER = 50
_FEWEST_CANDIDATES = 10_000


def linked_neighbours(path: Path, unit: Floats, positions: Positions, owners: Positions) -> NDArray[np.int32]:
    """The nearest faces (q, k) that are found for the stored faces at `positions` (q,), nearest first. -1 is none.

    `path`: an index of the unit vectors `unit` (n, dim). `owners` (n,): the performer of each face. There are as many
    neighbours as the sidecar asks for, beside those of the person with the most faces: without a face's own person, 100
    others are left. Memory: the links of the index, and `dim` bytes a face.
    """
    file = read_voyager_file(path)
    links = read_links(path, file)
    ids = file.ids.astype(np.int64)
    element_of = file.element_of()
    steps = in_steps([unit], element_of)

    def neighbours(elements: Elements) -> Elements:
        rows = links[elements]
        linked: Elements = rows[:, 1:][np.arange(rows.shape[1] - 1) < rows[:, :1]]
        return linked

    asked = element_of[positions].astype(np.uint32)
    own = int(np.unique(owners, return_counts=True)[1].max())
    most = max(candidates_for(file.count), _FEWEST_CANDIDATES)
    found = np.full((len(positions), min(SIDECAR_K + own, file.count)), -1, dtype=np.int32)
    for places in clusters_of(steps[asked], _FACES_A_CLUSTER):
        candidates = candidates_of(asked[places], neighbours, file.count, most)
        similar = similarities(steps, asked[places], candidates)
        columns = best(similar, found.shape[1])
        ranked = np.argsort(-np.take_along_axis(similar, columns, axis=1), axis=1, kind="stable")
        found[places, : columns.shape[1]] = ids[candidates[np.take_along_axis(columns, ranked, axis=1)]]
    return found
