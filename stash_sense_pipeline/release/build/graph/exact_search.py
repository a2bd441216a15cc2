"""Exact search: the most similar vectors, by matrix products in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

_ROWS_A_BLOCK = 16_384
# Similarities of a block. A larger block is new memory at each product, which takes as long as the product.
_SIMILARITIES_A_BLOCK = 1 << 22
# The largest similarity of each group of columns is found in a tenth of the time that a partition takes.
_COLUMNS_A_GROUP = 32


def exact_neighbours(queries: Floats, gallery: Floats | NDArray[np.int8], k: int) -> tuple[Positions, Floats]:
    """The k nearest rows of `gallery` to each query by cosine similarity, best first: positions and similarities (q, k).

    Both arrays hold unit vectors, or vectors of whole numbers. Of equally similar rows the first ones are taken. Each
    block is one matrix product, which takes nearly all of the time: only similarities that can be among the k best are
    sorted.
    """
    count = len(queries)
    k = min(k, len(gallery))
    best = _Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    waiting: list[_Found] = []
    floor = np.full(count, -np.inf, dtype=np.float32)
    block = max(1, min(_ROWS_A_BLOCK, _SIMILARITIES_A_BLOCK // max(1, count)))
    for start in range(0, len(gallery), block):
        similar = queries @ gallery[start : start + block].astype(np.float32, copy=False).T
        if start == 0:
            floor = _lowest_of_the_best(similar, k)
        flat = np.flatnonzero(similar >= floor[:, None])
        rows, columns = np.divmod(flat, similar.shape[1])
        waiting.append(_Found(rows, columns + start, similar.reshape(-1)[flat]))
        # A sort takes as long as several products, so that it waits until there are as many candidates as it keeps.
        if sum(len(found.rows) for found in waiting) >= count * k:
            best, floor = _keep_best([best, *waiting], count, k)
            waiting = []
    best, _ = _keep_best([best, *waiting], count, k)
    return best.columns.reshape(count, k), best.values.reshape(count, k)


class _Found(NamedTuple):
    """Candidates: the query, the position in the gallery and the similarity of each."""

    rows: Positions
    columns: Positions
    values: Floats


def _lowest_of_the_best(similar: Floats, k: int) -> Floats:
    """A lower bound of the k-th largest value of each row (rows, columns); -inf for rows of fewer than k values.

    The k-th largest of the maxima of disjoint groups is one: at least k values of the row are as large.
    """
    rows, columns = similar.shape
    groups = columns // _COLUMNS_A_GROUP
    if groups >= k:
        whole = similar[:, : groups * _COLUMNS_A_GROUP]
        similar = whole.reshape(rows, _COLUMNS_A_GROUP, groups).max(axis=1)
    elif columns < k:
        return np.full(rows, -np.inf, dtype=np.float32)
    place = similar.shape[1] - k
    return np.asarray(np.partition(similar, place, axis=1)[:, place])


def _keep_best(candidates: Sequence[_Found], count: int, k: int) -> tuple[_Found, Floats]:
    """The k most similar candidates of each query, best first, and the k-th similarity (-inf when there are fewer)."""
    rows = np.concatenate([each.rows for each in candidates])
    columns = np.concatenate([each.columns for each in candidates])
    values = np.concatenate([each.values for each in candidates])
    # One stable sort of whole numbers takes half the time of a sort by three keys. Candidates come in order of columns.
    by_row = np.argsort((rows << 32) - _ranked(values), kind="stable")
    rows, columns, values = rows[by_row], columns[by_row], values[by_row]
    begins = np.searchsorted(rows, np.arange(count))
    place = np.arange(len(rows)) - begins[rows]
    kept = place < k
    floor = np.full(count, -np.inf, dtype=np.float32)
    last = place == k - 1
    floor[rows[last]] = values[last]
    return _Found(rows[kept], columns[kept], values[kept]), floor


def _ranked(values: Floats) -> Positions:
    """Whole numbers of 32 bits in the order of float32 values."""
    # Negative zero equals zero.
    bits = (values + np.float32(0)).view(np.int32)
    return np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)


def sample_positions(count: int, size: int, seed: int = 1) -> Positions:
    """`size` of the positions 0..count-1, or all of them, sorted. The same arguments give the same positions."""
    if size >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False)).astype(np.int64)
