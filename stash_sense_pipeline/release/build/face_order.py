"""The order of trusted faces in all files of a release, and their vectors in that order."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import trusted_table
from stash_sense_pipeline.catalog.schema import embeddings
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ReleaseError

# 10 MB of vectors.
_ROWS_A_BLOCK = 5_000
# Vectors that take less stay in memory beside an index. Reading half a gigabyte of them takes four seconds.
_HELD_BYTES = 10**9


@dataclass(frozen=True)
class FaceOrder:
    """Position i of a release is the face `face_ids[i]` of the performer `performer_ids[i]` (both int64, shape (n,))."""

    face_ids: NDArray[np.int64]
    performer_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.face_ids)

    @property
    def digest(self) -> str:
        """SHA-256 of face and performer ids in order. The steps of a release compare it to prove that they use one order.

        It is no part of a release, because two catalogs give other ids to the same faces.
        """
        pairs = np.stack([self.face_ids, self.performer_ids]).astype("<i8")
        return hashlib.sha256(pairs.tobytes()).hexdigest()

    @property
    def people_digest(self) -> str:
        """SHA-256 of the positions at which the faces of another performer begin. It depends on no ids."""
        firsts = np.flatnonzero(np.diff(self.performer_ids)) + 1
        return hashlib.sha256(firsts.astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class VectorFacts:
    """Shape and origin of the vectors of one embedder: `count` rows of `dimensions`, all made by one pack and model file.

    `digest`: SHA-256 of the model's digest, the shape and the vectors in release order.
    """

    count: int
    dimensions: int
    pack: str
    model_digest: str
    digest: str


@dataclass(frozen=True)
class FaceVectors:
    """Float32 vectors (n, dim) of one embedder in release order, and the facts about the stored vectors."""

    vectors: NDArray[np.float32]
    facts: VectorFacts


@dataclass(frozen=True)
class VectorBlock:
    """Raw float32 vectors (rows, dim) of the faces from position `start` on, their norms (rows,), and their model."""

    start: int
    vectors: NDArray[np.float32]
    lengths: NDArray[np.float32]
    pack: str
    model_digest: str


def face_order(engine: sa.Engine, second: bool = False) -> FaceOrder:
    """The trusted faces of one pack at positions 0..n-1: by performer, best face first. ReleaseError when there are none.

    `second`: the faces are those of the second pack.
    """
    with reading(engine) as connection:
        return read_face_order(connection, second)


def read_face_order(connection: sa.Connection, second: bool = False) -> FaceOrder:
    """Like face_order, in the caller's transaction."""
    table = trusted_table(second).c
    query = sa.select(table.face_id, table.performer_id).order_by(
        table.performer_id, table.rank, table.face_id
    )
    rows = list(streamed(connection, query))
    if not rows:
        raise ReleaseError(
            "the catalog has no trusted faces, so there is nothing to release; refresh a source and run identity first"
        )
    face_ids, performer_ids = zip(*rows, strict=True)
    return FaceOrder(np.array(face_ids, dtype=np.int64), np.array(performer_ids, dtype=np.int64))


def read_vectors(
    connection: sa.Connection, order: FaceOrder, model: str, *, unit: bool = False
) -> FaceVectors:
    """All vectors of embedder `model` in release order. With `unit` they are scaled to length 1.

    Raises ReleaseError when a face has no vector, when more than one pack or model file made the vectors, when their
    lengths differ, or when one is not finite or is zero (Voyager would accept these without an error).
    """
    taken: list[NDArray[np.float32]] = []

    def keep(block: VectorBlock) -> None:
        if not taken:
            taken.append(np.empty((len(order), block.vectors.shape[1]), dtype=np.float32))
        place = taken[0][block.start : block.start + len(block.vectors)]
        np.divide(block.vectors, block.lengths[:, None] if unit else 1, out=place)

    facts = read_facts(connection, order, model, keep)
    return FaceVectors(taken[0], facts)


def read_facts(
    connection: sa.Connection,
    order: FaceOrder,
    model: str,
    each: Callable[[VectorBlock], None] | None = None,
) -> VectorFacts:
    """The facts about all vectors of `model`. Holds one block of them at a time, and passes each block to `each`.

    Raises ReleaseError as read_vectors does.
    """
    first = read_block(connection, order, model, 0)
    state = start_digest(first.pack, first.model_digest, len(order), first.vectors.shape[1])
    for block in itertools.chain([first], _blocks_after(connection, order, model, first)):
        state.update(block.vectors.data)
        if each is not None:
            each(block)
    return VectorFacts(len(order), first.vectors.shape[1], first.pack, first.model_digest, state.hexdigest())


def start_digest(pack: str, model_digest: str, count: int, dimensions: int) -> hashlib._Hash:
    """A hash object for VectorFacts.digest. Update it with little-endian float32 rows in release order."""
    return hashlib.sha256(f"{pack}\n{model_digest}\n{(count, dimensions)}\n".encode())


def block_starts(order: FaceOrder) -> range:
    """The positions at which read_block can begin."""
    return range(0, len(order), _ROWS_A_BLOCK)


def read_block(connection: sa.Connection, order: FaceOrder, model: str, start: int) -> VectorBlock:
    """The vectors of a few thousand faces from position `start` on. ReleaseError as read_vectors, for these faces."""
    ids = order.face_ids[start : start + _ROWS_A_BLOCK]
    # By primary key, in any order: SQLite would move every blob through its sorter. The ids are literals in the query,
    # because thousands of parameters take ten times as long.
    listed: sa.ColumnElement[Any] = sa.literal_column(f"({','.join(map(str, ids.tolist()))})")
    query = sa.select(
        embeddings.c.face_id, embeddings.c.vector, embeddings.c.pack, embeddings.c.model_digest
    ).where(embeddings.c.model == model, embeddings.c.face_id.op("IN")(listed))
    # Every block has another query, so that a cache of compiled queries would only grow.
    rows = connection.execute(query, execution_options={"compiled_cache": None}).all()
    if len(rows) < len(ids):
        raise ReleaseError(_missing_vectors_text(connection, order, model))
    numbers, blobs, packs, digests = zip(*rows, strict=True)
    sizes = set(map(len, blobs))
    if len(sizes) > 1 or sizes == {0} or next(iter(sizes)) % 4:
        raise ReleaseError(
            f"the {model} embeddings near face {ids[0]} have lengths {sorted(sizes)} bytes; embed again"
        )
    makers = set(zip(packs, digests, strict=True))
    if len(makers) > 1:
        raise ReleaseError(_several_makers_text(model, makers))
    vector_of = dict(zip(numbers, blobs, strict=True))
    # A bytearray, because Voyager accepts writable arrays only.
    joined = bytearray().join(map(vector_of.__getitem__, ids.tolist()))
    vectors = np.frombuffer(joined, dtype="<f4").reshape(len(rows), -1)
    lengths = _usable_lengths(vectors, ids, model)
    ((pack, model_digest),) = makers
    return VectorBlock(start, vectors, lengths, pack, model_digest)


def _blocks_after(
    connection: sa.Connection, order: FaceOrder, model: str, first: VectorBlock
) -> Iterator[VectorBlock]:
    for start in block_starts(order)[1:]:
        block = read_block(connection, order, model, start)
        if (block.pack, block.model_digest) != (first.pack, first.model_digest):
            makers = {(first.pack, first.model_digest), (block.pack, block.model_digest)}
            raise ReleaseError(_several_makers_text(model, makers))
        if block.vectors.shape[1] != first.vectors.shape[1]:
            raise ReleaseError(
                f"the {model} embeddings have different lengths ({first.vectors.shape[1]} and {block.vectors.shape[1]}); "
                "embed again"
            )
        yield block


def _missing_vectors_text(connection: sa.Connection, order: FaceOrder, model: str) -> str:
    query = sa.select(embeddings.c.face_id).where(embeddings.c.model == model)
    known = np.array(connection.execute(query).scalars().all(), dtype=np.int64)
    without = order.face_ids[~np.isin(order.face_ids, known)]
    return (
        f"{len(without)} trusted faces have no {model} embedding, the first is face {without[0]}; "
        "run face_embeddings and trusted_faces again"
    )


def _several_makers_text(model: str, makers: set[tuple[str, str]]) -> str:
    packs = sorted({pack for pack, _ in makers})
    what = f"packs {' and '.join(packs)}" if len(packs) > 1 else f"two model files of pack {packs[0]}"
    return f"the {model} embeddings come from {what}; a release holds one model's vectors only: embed all faces again"


def _usable_lengths(
    vectors: NDArray[np.float32], face_ids: NDArray[np.int64], model: str
) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise ReleaseError(
            f"the {model} vector of face {face_ids[wrong[0]]} is not finite or is zero; embed that face again"
        )
    return np.asarray(norms, dtype=np.float32)


Floats = NDArray[np.float32]


class CatalogVectors(Mapping[str, Floats]):
    """Unit vectors (n, dim) of each embedder in release order. Freed ones are read from the catalog when asked for.

    Asking raises ReleaseError when the vectors in the catalog are others since they were freed.
    """

    def __init__(self, engine: sa.Engine, order: FaceOrder, found: Mapping[str, FaceVectors]) -> None:
        self._engine = engine
        self._order = order
        self._facts = {model: each.facts for model, each in found.items()}
        self._held = {model: each.vectors for model, each in found.items()}
        # Two threads that ask for freed vectors do not both read them.
        self._lock = Lock()

    def __getitem__(self, model: str) -> Floats:
        with self._lock:
            if model in self._facts and model not in self._held:
                self._held[model] = self._read(model)
            return self._held[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def make_room(self, model: str | None = None) -> None:
        """Frees the vectors of other embedders than `model` if those of all take more than a gigabyte."""
        if sum(4 * facts.count * facts.dimensions for facts in self._facts.values()) > _HELD_BYTES:
            with self._lock:
                self._held = {name: vectors for name, vectors in self._held.items() if name == model}

    def _read(self, model: str) -> Floats:
        with reading(self._engine) as connection:
            found = read_vectors(connection, self._order, model, unit=True)
        if found.facts != self._facts[model]:
            raise ReleaseError(f"{model} embeddings changed while the release was checked; publish again")
        return found.vectors


@dataclass(frozen=True)
class ReleaseVectors:
    """Unit vectors (n, dim) of each embedder in release order, and the faces and performers they belong to.

    `facts`: the facts about the raw vectors, by embedder.
    """

    order: FaceOrder
    unit: Mapping[str, Floats]
    facts: Mapping[str, VectorFacts] = field(default_factory=dict)

    def make_room(self, model: str | None = None) -> None:
        """Frees vectors of other embedders than `model`, of a large release, that can be read again from the catalog."""
        if isinstance(self.unit, CatalogVectors):
            self.unit.make_room(model)


def load_unit_vectors(engine: sa.Engine, models: Sequence[str]) -> ReleaseVectors:
    """Unit vectors of all trusted faces, 2 KB a face and model. ReleaseError as read_vectors."""
    with reading(engine) as connection:
        order = read_face_order(connection)
        found = {model: read_vectors(connection, order, model, unit=True) for model in models}
    facts = {model: each.facts for model, each in found.items()}
    return ReleaseVectors(order, CatalogVectors(engine, order, found), facts)


def normalised(vectors: Floats) -> Floats:
    """Scales the rows to length 1, in place, and returns the array."""
    vectors /= lengths(vectors)[:, None]
    return vectors


def lengths(vectors: Floats) -> Floats:
    """The Euclidean length of each row, without the copy of all rows that numpy.linalg.norm makes."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), dtype=np.float32)
