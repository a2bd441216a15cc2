"""Builds face_embeddings.usearch, and reads one that others made without running usearch on it.

usearch takes metric, dtype and links from the file and checks none of them: a damaged file makes it read foreign memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.files import open_regular
from stash_sense_pipeline.release.sense2.contract import CONNECTIVITY, DIMENSIONS, EXPANSION_ADD
from stash_sense_pipeline.release.sense2.vectors import Rounded, widened

# The layout of usearch 2.x on little-endian machines: number of rows and bytes a row, the vectors, a head of 64 bytes,
# the graph's head, the level of each node, the nodes. A node has its key, its level, and its links of each level:
# their number, and room for the most.
_MATRIX = struct.Struct("<II")
_HEAD = struct.Struct("<7sHHHBBBBQQQB")
_HEAD_BYTES = 64
_GRAPH = struct.Struct("<QQQQQ")
_MAGIC = b"usearch"
_MAJOR = 2
_COSINE, _BFLOAT16, _U64, _U32 = ord("c"), 4, 14, 15
_BYTES_A_VECTOR = 2 * DIMENSIONS
_BYTES_OF_KEY_AND_LEVEL = 10
# Levels of a graph: with 16 links, each level has a sixteenth of the nodes of the one below.
_MOST_LEVELS = 64
_ROWS_A_BLOCK = 20_000
# Rounding to 8 bits of precision changes the length of a vector by less.
_LENGTH_TOLERANCE = 0.01


class IndexHead(NamedTuple):
    """What an index file says of itself. `version`: the version of usearch that wrote it."""

    version: str
    metric: int
    dtype: int
    present: int
    deleted: int
    dimensions: int
    multi: bool
    connectivity: int


@dataclass(frozen=True)
class IndexFile:
    """An index file: its head, its keys, and its bfloat16 vectors, one row a key."""

    head: IndexHead
    keys: NDArray[np.uint64]
    vectors: Rounded

    def blocks(self) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32]]]:
        """Keys and float32 vectors, some thousand rows at a time."""
        for start in range(0, len(self.keys), _ROWS_A_BLOCK):
            rows = slice(start, start + _ROWS_A_BLOCK)
            yield self.keys[rows], widened(np.asarray(self.vectors[rows]))


def build_index(keys: NDArray[np.int64], vectors: Rounded, path: Path) -> None:
    """Writes the index of these vectors, in this order and with one thread: the same input gives the same bytes."""
    from usearch.index import Index

    index = Index(
        ndim=DIMENSIONS,
        metric="cos",
        dtype="bf16",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
    )
    for start in range(0, len(keys), _ROWS_A_BLOCK):
        rows = slice(start, start + _ROWS_A_BLOCK)
        index.add(keys[rows].astype(np.uint64), widened(vectors[rows]), threads=1)
    index.save(str(path))


def read_index(path: Path) -> IndexFile:
    """The content of an index file, which stays on the disk.

    Raises ValueError, one line, unless it is an index of bfloat16 vectors of 512 numbers in which every link leads to a
    node of the same level; OSError when it cannot be read. Metric, count and lengths are left to the checks.
    """
    with open_regular(path) as stream:
        data = np.memmap(stream, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    rows, width = _unpacked(_MATRIX, data, 0)
    if width != _BYTES_A_VECTOR:
        raise ValueError(
            f"a vector has {width} bytes, and {_BYTES_A_VECTOR} are expected: 512 bfloat16 numbers"
        )
    at = _MATRIX.size + rows * width
    head = _read_head(data, at)
    keys = _Graph(data, at + _HEAD_BYTES, rows).keys()
    vectors = data[_MATRIX.size : at].view("<u2").reshape(rows, DIMENSIONS)
    size, connectivity = _unpacked(_GRAPH, data, at + _HEAD_BYTES)[:2]
    if size != rows:
        raise ValueError(f"the graph has {size} nodes, and there are {rows} vectors")
    return IndexFile(head._replace(connectivity=connectivity), keys, vectors)


def _unpacked(form: struct.Struct, data: NDArray[np.uint8], at: int) -> tuple[Any, ...]:
    if at + form.size > len(data):
        raise ValueError("the file is cut off, or is no index of usearch")
    return form.unpack(data[at : at + form.size].tobytes())


def _read_head(data: NDArray[np.uint8], at: int) -> IndexHead:
    magic, *numbers = _unpacked(_HEAD, data, at)
    major, minor, patch, metric, dtype, key_kind, slot_kind, present, deleted, dimensions, multi = numbers
    if magic != _MAGIC or major != _MAJOR:
        raise ValueError("it is no index of usearch 2")
    if (key_kind, slot_kind) != (_U64, _U32):
        raise ValueError(
            f"its keys are of kind {key_kind} and its links of kind {slot_kind}, not u64 and u32"
        )
    if dtype != _BFLOAT16 or dimensions != DIMENSIONS:
        raise ValueError(
            f"it holds {dimensions} numbers of kind {dtype} a vector, not {DIMENSIONS} of bfloat16"
        )
    return IndexHead(f"{major}.{minor}.{patch}", metric, dtype, present, deleted, dimensions, bool(multi), 0)


class _Graph:
    """The nodes of an index file, of which the head of the graph is at `at`."""

    def __init__(self, data: NDArray[np.uint8], at: int, rows: int) -> None:
        self._data = data
        size, upper, base, top, entry = _unpacked(_GRAPH, data, at)
        if size != rows or not 0 < upper <= 256 or not 0 < base <= 512:
            raise ValueError(
                f"its graph has {size} nodes for {rows} vectors, with {upper} and {base} links a node"
            )
        self._base, self._upper = int(base), int(upper)
        start = at + _GRAPH.size
        if start + 2 * size > len(data):
            raise ValueError("the file is cut off")
        self._levels = np.frombuffer(data[start : start + 2 * size].tobytes(), dtype="<i2")
        if size and (self._levels.min() < 0 or self._levels.max() >= _MOST_LEVELS):
            raise ValueError(f"a node of its graph has level {self._levels.max()}")
        if size and (entry >= size or top != self._levels.max() or self._levels[entry] != top):
            raise ValueError("its graph begins at no node of the top level")
        lengths = (
            _BYTES_OF_KEY_AND_LEVEL
            + (4 + 4 * self._base)
            + self._levels.astype(np.int64) * (4 + 4 * self._upper)
        )
        self._offsets = start + 2 * size + np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if self._offsets[-1] != len(data):
            raise ValueError(f"it has {len(data)} bytes, and {self._offsets[-1]} are expected")

    def keys(self) -> NDArray[np.uint64]:
        """The keys of all nodes, after a check of all links."""
        offsets = self._offsets[:-1]
        found = [
            self._gathered(offsets[start : start + _ROWS_A_BLOCK], 8, "<u8").reshape(-1)
            for start in range(0, len(offsets), _ROWS_A_BLOCK)
        ]
        for start in range(0, len(offsets), _ROWS_A_BLOCK):
            self._check_links(slice(start, start + _ROWS_A_BLOCK))
        keys: NDArray[np.uint64] = np.concatenate(found) if found else np.empty(0, dtype=np.uint64)
        if len(np.unique(keys)) != len(keys):
            raise ValueError("two of its vectors have one key")
        return keys

    def _gathered(self, offsets: NDArray[np.int64], length: int, dtype: str) -> NDArray[np.uint64]:
        """The bytes at each offset as numbers, one row an offset."""
        taken = self._data[offsets[:, None] + np.arange(length)]
        return np.ascontiguousarray(taken).view(dtype)

    def _check_links(self, rows: slice) -> None:
        offsets, levels = self._offsets[:-1][rows], self._levels[rows]
        repeated = self._gathered(offsets + 8, 2, "<i2").reshape(-1)
        if not np.array_equal(repeated, levels):
            raise ValueError("a node of its graph has two levels")
        at = offsets + _BYTES_OF_KEY_AND_LEVEL
        self._check_level(at, self._base, 0)
        for level in range(1, int(levels.max(initial=0)) + 1):
            chosen = levels >= level
            at_level = at[chosen] + (4 + 4 * self._base) + (level - 1) * (4 + 4 * self._upper)
            self._check_level(at_level, self._upper, level)

    def _check_level(self, at: NDArray[np.int64], most: int, level: int) -> None:
        numbers = self._gathered(at, 4 + 4 * most, "<u4")
        counts, slots = numbers[:, 0], numbers[:, 1:]
        if (counts > most).any():
            raise ValueError("a node of its graph has more links than there is room for")
        linked = slots[np.arange(most)[None, :] < counts[:, None]]
        if (linked >= len(self._levels)).any() or (self._levels[linked] < level).any():
            raise ValueError("a link of its graph leads to no node of its level")


# --- checks -----------------------------------------------------------------------------------------------------------


def check_head(index: IndexFile) -> str:
    """The metric is cosine, one vector a key, as many as stated, none deleted, 16 links. ValueError otherwise."""
    head = index.head
    if head.metric != _COSINE:
        raise ValueError(
            f"its metric is {chr(head.metric)!r}, not cosine; a client would get wrong distances"
        )
    if head.multi:
        raise ValueError("it allows several vectors a key")
    if head.deleted or head.present != len(index.keys):
        raise ValueError(
            f"it states {head.present} vectors and {head.deleted} deleted ones, and has {len(index.keys)}"
        )
    if head.connectivity != CONNECTIVITY:
        raise ValueError(f"it has {head.connectivity} links a vector, not {CONNECTIVITY}")
    return f"{head.present} vectors of {head.dimensions} bfloat16 numbers, cosine, usearch {head.version}"


def check_lengths(index: IndexFile) -> str:
    """Every vector is finite and has length 1. ValueError otherwise."""
    for keys, vectors in index.blocks():
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= _LENGTH_TOLERANCE))
        if len(wrong):
            raise ValueError(f"the vector {keys[wrong[0]]} is not finite or has not length 1")
    return f"{len(index.keys)} vectors of length 1"
