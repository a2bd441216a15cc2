"""The layout of a Voyager file: it is validated before the native loader opens it, which trusts every number in it."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.files import open_regular

# Layout of format 1, as Voyager 2 writes it: magic, version, dimensions, space, storage, maximum norm, transform flag;
# then the hnswlib header, `count` elements of fixed size (links, vector, id), and the links of the upper levels.
_HEAD = struct.Struct("<4siiBBfB")
_GRAPH = struct.Struct("<QQQQQQiIQQQdQ")
HEADER_BYTES = _HEAD.size + _GRAPH.size
ID_BYTES = 8
_SPACES = {0: "Euclidean", 1: "InnerProduct", 2: "Cosine"}
_STORAGE = {16: ("Float8", 1), 32: ("Float32", 4), 48: ("E4M3", 1)}
_INNER_PRODUCT = 1
_ROWS_A_BLOCK = 8_192
_DELETED = 1
# The largest vectors of the contract have 1,280 numbers.
_MAX_DIMENSIONS = 8_192
# Links: Voyager's default is 12, that of this program 96. A release has at most a million faces.
_MAX_LINKS = 1_024
_MAX_EF_CONSTRUCTION = 1_000_000
_MAX_COUNT = 10_000_000
# An element reaches 1 / (M - 1) upper levels on average. Small files deviate by chance.
_LEVELS_FACTOR, _LEVELS_SLACK = 4, 1024**2


@dataclass(frozen=True)
class VoyagerFile:
    """The header of the file, `ids` (count,) uint64 in order of insertion, and the number of `deleted` elements.

    The vector of element i has its first byte at `first_vector` + i * `element_bytes`.
    """

    dimensions: int
    space: str
    storage: str
    count: int
    m: int
    ef_construction: int
    ids: NDArray[np.uint64]
    deleted: int
    element_bytes: int
    first_vector: int

    def element_of(self) -> NDArray[np.int64]:
        """The element of each id (count,), where the ids are 0 to count - 1."""
        return np.argsort(self.ids.astype(np.int64), kind="stable")


@dataclass(frozen=True)
class _Graph:
    """The hnswlib header, in the order of the file."""

    base_offset: int
    capacity: int
    count: int
    element_bytes: int
    id_offset: int
    vector_offset: int
    top_level: int
    entry_point: int
    links_upper: int
    links_base: int
    m: int
    level_factor: float
    ef_construction: int

    @classmethod
    def of(cls, content: bytes) -> _Graph:
        """The header in `content`, which begins as a Voyager file does."""
        return cls(*_GRAPH.unpack_from(content, _HEAD.size))


def read_voyager_file(path: Path) -> VoyagerFile:
    """Parses the file and checks that every length and link stays inside it. ValueError names the first that does not."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise ValueError(f"the file has only {size} bytes")
    magic, version, dimensions, space, storage, norm, transform = _HEAD.unpack_from(head)
    if magic != b"VOYA" or version != 1:
        raise ValueError("it is not a Voyager file of format 1")
    if space not in _SPACES or storage not in _STORAGE or not 0 < dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"its header is damaged (space {space}, storage {storage}, dimensions {dimensions})")
    # Only the inner product space has a transform, which uses the largest norm.
    transformed = (math.isfinite(norm) and norm >= 0) if space == _INNER_PRODUCT else norm == 0
    if not transformed or transform != (space == _INNER_PRODUCT):
        raise ValueError(f"its header is damaged (maximum norm {norm:g}, transform {transform})")
    storage_name, item = _STORAGE[storage]
    stored = dimensions + 1 if _SPACES[space] == "InnerProduct" else dimensions
    graph = _read_graph(head, stored * item, size)
    ids, deleted = _check_base_level(path, graph)
    _check_upper_levels(path, graph)
    return VoyagerFile(
        dimensions=dimensions,
        space=_SPACES[space],
        storage=storage_name,
        count=graph.count,
        m=graph.m,
        ef_construction=graph.ef_construction,
        ids=ids,
        deleted=deleted,
        element_bytes=graph.element_bytes,
        first_vector=HEADER_BYTES + graph.vector_offset,
    )


def read_links(path: Path, file: VoyagerFile) -> NDArray[np.uint32]:
    """The number of links of each element on the lowest level, and the links (n, 1 + places), in order of insertion.

    `file`: as read_voyager_file has checked it. OSError when it was cut since.
    """
    width = file.first_vector - HEADER_BYTES
    links = np.empty((file.count, width // 4), dtype=np.uint32)
    with open_regular(path) as stream:
        stream.seek(HEADER_BYTES)
        for start in range(0, file.count, _ROWS_A_BLOCK):
            rows = links[start : start + _ROWS_A_BLOCK]
            content = stream.read(len(rows) * file.element_bytes)
            if len(content) < len(rows) * file.element_bytes:
                raise OSError(f"{path} was cut while it was read")
            elements = np.frombuffer(content, dtype=np.uint8).reshape(len(rows), -1)
            rows[:] = elements[:, :width].copy().view("<u4")
    return links


def stored_vectors(content: bytes) -> NDArray[np.uint8]:
    """The vectors (count, bytes) in `content`, a Voyager file, as it stores them, in the order of insertion."""
    graph = _Graph.of(content)
    elements = np.frombuffer(content, np.uint8, graph.count * graph.element_bytes, HEADER_BYTES)
    return elements.reshape(graph.count, -1)[:, graph.vector_offset : graph.id_offset]


def header_with_vectors(graph: bytes, vectors: bytes) -> bytes:
    """The header of a file with the graph of the Voyager file `graph` and with vectors like those of the file `vectors`.

    Both may be cut after their headers.
    """
    own, like = _Graph.of(graph), _Graph.of(vectors)
    id_offset = own.vector_offset + like.id_offset - like.vector_offset
    fitted = replace(own, id_offset=id_offset, element_bytes=id_offset + ID_BYTES)
    return vectors[: _HEAD.size] + _GRAPH.pack(*astuple(fitted))


def load_index(path: Path) -> Any:
    """The index in a file that read_voyager_file has checked. It takes the memory of the file."""
    import voyager

    # Voyager reads a path in place. From a Python stream it would first read the whole file, which takes its memory twice.
    with open_regular(path) as stream:
        return voyager.Index.load(f"/dev/fd/{stream.fileno()}")


def _read_graph(head: bytes, vector_bytes: int, size: int) -> _Graph:
    graph = _Graph.of(head)
    sound = (
        graph.base_offset == 0
        and 1 < graph.m <= _MAX_LINKS
        and graph.links_upper == graph.m
        and graph.links_base == 2 * graph.m
        and graph.vector_offset == 4 + 4 * graph.links_base
        and graph.id_offset == graph.vector_offset + vector_bytes
        and graph.element_bytes == graph.id_offset + 8
    )
    if not sound:
        raise ValueError("its header is damaged (sizes of elements do not add up)")
    if (
        not math.isclose(graph.level_factor * math.log(graph.m), 1, rel_tol=1e-6)
        or graph.ef_construction > _MAX_EF_CONSTRUCTION
    ):
        raise ValueError(
            f"its header is damaged (level factor {graph.level_factor:g}, ef_construction {graph.ef_construction})"
        )
    if graph.count == 0:
        raise ValueError("it holds no vectors")
    if graph.count > _MAX_COUNT:
        raise ValueError(f"its header declares {graph.count} vectors, and at most {_MAX_COUNT} are allowed")
    if (
        graph.count * graph.element_bytes > size
        or not graph.count <= graph.capacity <= 16 * graph.count + 1024
    ):
        raise ValueError(
            f"it is cut short or damaged: {graph.count} elements of {graph.element_bytes} bytes in {size} bytes"
        )
    if graph.entry_point >= graph.count or not 0 <= graph.top_level < 64:
        raise ValueError("its header is damaged (entry point outside the graph)")
    return graph


def _check_base_level(path: Path, graph: _Graph) -> tuple[NDArray[np.uint64], int]:
    ids = np.empty(graph.count, dtype=np.uint64)
    deleted = 0
    place = np.arange(graph.links_base)
    for start, block in _blocks(path, graph):
        words = np.ascontiguousarray(block[:, : 4 + 4 * graph.links_base]).view("<u4")
        used = words[:, 0] & 0xFFFF
        deleted += int(np.count_nonzero((words[:, 0] >> 16) & _DELETED))
        outside = (words[:, 1:] >= graph.count) & (place < used[:, None])
        if (used > graph.links_base).any() or outside.any():
            raise ValueError("its graph is damaged (a link points outside)")
        tail = np.ascontiguousarray(block[:, graph.id_offset :]).view("<u8")
        ids[start : start + len(block)] = tail[:, 0]
    return ids, deleted


def _blocks(path: Path, graph: _Graph) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The elements in blocks (rows, element_bytes), each with the number of its first element."""
    # Read, and not mapped: the pages of a mapped file would count as memory of the process, beside the loaded index.
    with open_regular(path) as stream:
        stream.seek(HEADER_BYTES)
        for start in range(0, graph.count, _ROWS_A_BLOCK):
            rows = min(_ROWS_A_BLOCK, graph.count - start)
            data = stream.read(rows * graph.element_bytes)
            if len(data) < rows * graph.element_bytes:
                raise ValueError("it was cut short while it was read")
            yield start, np.frombuffer(data, np.uint8).reshape(rows, graph.element_bytes)


def _check_upper_levels(path: Path, graph: _Graph) -> None:
    """Checks the links of the upper levels: a link of a level must lead to an element that reaches that level."""
    level_bytes = 4 + 4 * graph.links_upper
    allowed = 4 * graph.count + _LEVELS_FACTOR * graph.count * level_bytes // (graph.m - 1) + _LEVELS_SLACK
    with open_regular(path) as stream:
        stream.seek(HEADER_BYTES + graph.count * graph.element_bytes)
        data = stream.read(allowed + 1)
    if len(data) > allowed:
        raise ValueError("its graph is damaged (the upper levels are too long)")
    levels = np.zeros(graph.count, dtype=np.int32)
    lists: list[tuple[int, int]] = []
    at = 0
    for element in range(graph.count):
        if at + 4 > len(data):
            raise ValueError("it is cut short (upper levels)")
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if length:
            if length % level_bytes or at + length > len(data) or length // level_bytes > 64:
                raise ValueError("its graph is damaged (length of the upper levels)")
            levels[element] = length // level_bytes
            lists.append((element, at))
            at += length
    if at != len(data):
        raise ValueError(f"it has {len(data) - at} bytes too many at its end")
    if levels[graph.entry_point] != graph.top_level or levels.max() > graph.top_level:
        raise ValueError("its graph is damaged (entry point is not on the top level)")
    for element, start in lists:
        words = np.frombuffer(data, "<u4", int(levels[element]) * (level_bytes // 4), start)
        for level, row in enumerate(words.reshape(-1, level_bytes // 4), start=1):
            used = int(row[0]) & 0xFFFF
            links = row[1 : 1 + used]
            if used > graph.links_upper or (links >= graph.count).any() or (levels[links] < level).any():
                raise ValueError("its graph is damaged (a link of an upper level points outside)")
