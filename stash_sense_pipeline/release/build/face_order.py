"""The order of trusted faces in all files of a release, and their vectors in that order."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.schema import embeddings, trusted_faces
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ReleaseError

# 10 MB of vectors.
_ROWS_A_BLOCK = 5_000


@dataclass(frozen=True)
class FaceOrder:
    """Position i of a release is `face_ids[i]`, a face of `performer_ids[i]` (both int64, shape (n,))."""

    face_ids: NDArray[np.int64]
    performer_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.face_ids)

    @property
    def digest(self) -> str:
        """SHA-256 of ids and owners in order: steps of one release compare it, so that none uses another order."""
        pairs = np.stack([self.face_ids, self.performer_ids]).astype("<i8")
        return hashlib.sha256(pairs.tobytes()).hexdigest()


@dataclass(frozen=True)
class VectorFacts:
    """What there is to say about the vectors of one embedder: `count` rows of `dimensions`, and who made all of them.

    `digest`: SHA-256 of the model's digest, the shape and the vectors in release order.
    """

    count: int
    dimensions: int
    pack: str
    model_digest: str
    digest: str


@dataclass(frozen=True)
class FaceVectors:
    """Float32 vectors (n, dim) of one embedder in release order, and the facts about them as they are stored."""

    vectors: NDArray[np.float32]
    facts: VectorFacts


@dataclass(frozen=True)
class VectorBlock:
    """Raw float32 vectors (rows, dim) of the faces from position `start` on, their lengths (rows,), and their model."""

    start: int
    vectors: NDArray[np.float32]
    lengths: NDArray[np.float32]
    pack: str
    model_digest: str


def face_order(engine: sa.Engine) -> FaceOrder:
    """The trusted faces as dense positions 0..n-1: by performer, best face first. ReleaseError when there are none."""
    with reading(engine) as connection:
        return read_face_order(connection)


def read_face_order(connection: sa.Connection) -> FaceOrder:
    """Like face_order, inside a transaction of the caller's."""
    query = sa.select(trusted_faces.c.face_id, trusted_faces.c.performer_id).order_by(
        trusted_faces.c.performer_id, trusted_faces.c.rank, trusted_faces.c.face_id
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
    """All vectors of embedder `model` in release order, with `unit` scaled to length 1.

    Raises ReleaseError when a face has none, when they were made by more than one pack or model file, differ in
    length, or are not finite or zero (Voyager would take those in silently).
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
    """The facts about all vectors of `model`, without holding more than a block of them; `each` is given every block.

    Raises as read_vectors.
    """
    first = read_block(connection, order, model, 0)
    state = start_digest(first.pack, first.model_digest, len(order), first.vectors.shape[1])
    for block in itertools.chain([first], _blocks_after(connection, order, model, first)):
        state.update(block.vectors.data)
        if each is not None:
            each(block)
    return VectorFacts(len(order), first.vectors.shape[1], first.pack, first.model_digest, state.hexdigest())


def start_digest(pack: str, model_digest: str, count: int, dimensions: int) -> hashlib._Hash:
    """The digest of vectors before the first of them: feed it little-endian float32 rows in release order."""
    return hashlib.sha256(f"{pack}\n{model_digest}\n{(count, dimensions)}\n".encode())


def block_starts(order: FaceOrder) -> range:
    """The positions at which read_block can begin."""
    return range(0, len(order), _ROWS_A_BLOCK)


def read_block(connection: sa.Connection, order: FaceOrder, model: str, start: int) -> VectorBlock:
    """The vectors of a few thousand faces from position `start` on. Raises as read_vectors, for these faces."""
    ids = order.face_ids[start : start + _ROWS_A_BLOCK]
    # By primary key, in any order: sorting by release position would carry every blob through the sorter. The numbers
    # are in the text of the query, where thousands of them cost a tenth of what as many parameters cost.
    listed: sa.ColumnElement[Any] = sa.literal_column(f"({','.join(map(str, ids.tolist()))})")
    query = sa.select(
        embeddings.c.face_id, embeddings.c.vector, embeddings.c.pack, embeddings.c.model_digest
    ).where(embeddings.c.model == model, embeddings.c.face_id.op("IN")(listed))
    # No two blocks have the same query, so there is nothing to remember.
    rows = connection.execute(query, execution_options={"compiled_cache": None}).all()
    if len(rows) < len(ids):
        raise ReleaseError(_missing(connection, order, model))
    numbers, blobs, packs, digests = zip(*rows, strict=True)
    sizes = set(map(len, blobs))
    if len(sizes) > 1 or sizes == {0} or next(iter(sizes)) % 4:
        raise ReleaseError(
            f"the {model} embeddings near face {ids[0]} have lengths {sorted(sizes)} bytes; embed again"
        )
    makers = set(zip(packs, digests, strict=True))
    if len(makers) > 1:
        raise ReleaseError(_mixture(model, makers))
    vector_of = dict(zip(numbers, blobs, strict=True))
    # A bytearray, because Voyager takes writable arrays only.
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
            raise ReleaseError(_mixture(model, makers))
        if block.vectors.shape[1] != first.vectors.shape[1]:
            raise ReleaseError(
                f"the {model} embeddings have different lengths ({first.vectors.shape[1]} and {block.vectors.shape[1]}); "
                "embed again"
            )
        yield block


def _missing(connection: sa.Connection, order: FaceOrder, model: str) -> str:
    query = (
        sa.select(embeddings.c.face_id)
        .join(trusted_faces, trusted_faces.c.face_id == embeddings.c.face_id)
        .where(embeddings.c.model == model)
    )
    known = np.array(connection.execute(query).scalars().all(), dtype=np.int64)
    without = order.face_ids[~np.isin(order.face_ids, known)]
    return (
        f"{len(without)} trusted faces have no {model} embedding, first face {without[0]}; "
        "run face_embeddings and trusted_faces again"
    )


def _mixture(model: str, makers: set[tuple[str, str]]) -> str:
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


@dataclass(frozen=True)
class ReleaseVectors:
    """Unit vectors (n, dim) of each embedder in release order, and the faces and performers they belong to.

    `facts`: of the raw vectors that they were made from.
    """

    order: FaceOrder
    unit: Mapping[str, Floats]
    facts: Mapping[str, VectorFacts] = field(default_factory=dict)


def load_unit_vectors(engine: sa.Engine, models: Sequence[str]) -> ReleaseVectors:
    """Vectors of all trusted faces, normalised; 2 KB a face and model. ReleaseError as read_vectors."""
    with reading(engine) as connection:
        return read_unit_vectors(connection, read_face_order(connection), models)


def read_unit_vectors(connection: sa.Connection, order: FaceOrder, models: Sequence[str]) -> ReleaseVectors:
    """Like load_unit_vectors, inside a transaction of the caller's, in its order."""
    read = {model: read_vectors(connection, order, model, unit=True) for model in models}
    return ReleaseVectors(
        order,
        {model: found.vectors for model, found in read.items()},
        {model: found.facts for model, found in read.items()},
    )


def normalised(vectors: Floats) -> Floats:
    """Rows scaled to length 1, in place."""
    vectors /= lengths(vectors)[:, None]
    return vectors


def lengths(vectors: Floats) -> Floats:
    """The length of each row, without a copy of all of them as numpy.linalg.norm makes."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), dtype=np.float32)
