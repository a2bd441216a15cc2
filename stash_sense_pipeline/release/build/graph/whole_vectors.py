"""Makes an index file from one with a graph along the main axes: with complete links, and with the whole vectors."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.build.face_order import Floats
from stash_sense_pipeline.release.build.graph.clusters import in_steps
from stash_sense_pipeline.release.build.graph.near_links import GraphVectors, complete_links
from stash_sense_pipeline.release.build.graph.voyager_file import (
    HEADER_BYTES,
    ID_BYTES,
    VoyagerFile,
    header_with_vectors,
    read_voyager_file,
    stored_vectors,
)

# Voyager is asked for the stored form of the vectors, not for a graph.
_FEWEST_LINKS = 2


@dataclass(frozen=True)
class NarrowIndex:
    """A flushed float32 index file with a graph along the main axes of the vectors.

    `owners` (n,): the person of each id; None: each is another. `exact_links`: of complete_links.
    """

    file: IO[bytes]
    owners: NDArray[np.int64] | None = None
    exact_links: bool = False


def write_whole_vectors(
    index: NarrowIndex,
    blocks: Callable[[], Iterable[Floats]],
    storage: Any,
    stream: IO[bytes],
    progress: Progress | None = None,
) -> None:
    """Writes to `stream` the index with complete links and with other vectors.

    `blocks` returns the vectors (rows, dim) of the ids 0..n-1, in order, at each call. `storage`: how they are stored, a
    type of Voyager. The file takes memory once (0.9 KB an element with 48 links and 128 numbers), and the links that are
    made take as much beside it.
    """
    narrow, owners = index.file, index.owners
    file = read_voyager_file(Path(f"/dev/fd/{narrow.fileno()}"))
    elements = _read_elements(narrow, file)
    upper_levels = narrow.read()
    links, vectors = _parts(elements, file)
    ids = file.ids.astype(np.int64)
    element_of = file.element_of()
    compared = GraphVectors(
        in_steps([vectors], np.arange(file.count)),
        in_steps(blocks(), element_of),
        None if owners is None else owners[ids],
    )
    links[:, 0] = complete_links(
        links[:, 1:], links[:, 0], compared, exact=index.exact_links, progress=progress
    )
    del compared
    header, start = b"", 0
    for block in blocks():
        stored = _as_stored(block, storage)
        header = header or header_with_vectors(_head(narrow), stored)
        own = element_of[start : start + len(block)]
        rows = _whole(elements[own], links.shape[1] * 4, stored_vectors(stored))
        for run in _runs(own):
            stream.seek(HEADER_BYTES + int(own[run.start]) * rows.shape[1])
            stream.write(rows[run.start : run.stop].data)
        start += len(block)
    stream.seek(0)
    stream.write(header)
    stream.seek(0, os.SEEK_END)
    stream.write(upper_levels)


def _read_elements(narrow: IO[bytes], file: VoyagerFile) -> NDArray[np.uint8]:
    """The elements (n, bytes) of a file, which is then read to their end."""
    elements = np.empty((file.count, file.element_bytes), dtype=np.uint8)
    narrow.seek(HEADER_BYTES)
    if narrow.readinto(elements.data) != elements.nbytes:  # type: ignore[attr-defined]
        raise OSError("the temporary file of the graph was cut short")
    return elements


def _parts(elements: NDArray[np.uint8], file: VoyagerFile) -> tuple[NDArray[np.uint32], Floats]:
    """Views of the number of links and the links (n, 1 + places), and of the vectors (n, dim)."""
    first = file.first_vector - HEADER_BYTES
    return elements[:, :first].view("<u4"), elements[:, first:-ID_BYTES].view("<f4")


def _whole(elements: NDArray[np.uint8], link_bytes: int, vectors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([elements[:, :link_bytes], vectors, elements[:, -ID_BYTES:]], axis=1)


def _runs(elements: NDArray[np.int64]) -> Iterator[range]:
    """The rows of which the elements follow one another in the file: all at once when one thread has built the graph."""
    edges = [0, *(np.flatnonzero(np.diff(elements) != 1) + 1).tolist(), len(elements)]
    return (range(first, after) for first, after in pairwise(edges))


def _head(narrow: IO[bytes]) -> bytes:
    narrow.seek(0)
    return narrow.read(HEADER_BYTES)


def _as_stored(block: Floats, storage: Any) -> bytes:
    """A Voyager file with the vectors of the block, as the Cosine space stores them."""
    import voyager

    index = voyager.Index(
        voyager.Space.Cosine,
        num_dimensions=block.shape[1],
        M=_FEWEST_LINKS,
        ef_construction=1,
        max_elements=len(block),
        storage_data_type=storage,
    )
    index.add_items(block, ids=range(len(block)), num_threads=1)
    content = io.BytesIO()
    index.save(content)
    return content.getvalue()
