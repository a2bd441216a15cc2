"""The one order of the trusted faces that every file of a release uses, and their vectors in that order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.engine import reading
from stash_sense_pipeline.catalog.schema import embeddings, trusted_faces
from stash_sense_pipeline.errors import ReleaseError

_ROWS_A_FETCH = 4096


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
class FaceVectors:
    """Raw float32 vectors (n, dim) of one embedder in release order, and the model that made all of them."""

    vectors: NDArray[np.float32]
    pack: str
    model_digest: str

    @property
    def digest(self) -> str:
        """SHA-256 of the model's digest, the shape and the vectors in order."""
        head = f"{self.pack}\n{self.model_digest}\n{self.vectors.shape}\n".encode()
        state = hashlib.sha256(head)
        state.update(np.ascontiguousarray(self.vectors, dtype="<f4").view(np.uint8).data)
        return state.hexdigest()


def face_order(engine: sa.Engine) -> FaceOrder:
    """The trusted faces as dense positions 0..n-1: by performer, best face first. ReleaseError when there are none."""
    with reading(engine) as connection:
        return read_face_order(connection)


def read_face_order(connection: sa.Connection) -> FaceOrder:
    """Like face_order, inside a transaction of the caller's."""
    query = sa.select(trusted_faces.c.face_id, trusted_faces.c.performer_id).order_by(
        trusted_faces.c.performer_id, trusted_faces.c.rank, trusted_faces.c.face_id
    )
    rows = connection.execute(query).all()
    if not rows:
        raise ReleaseError(
            "the catalog has no trusted faces, so there is nothing to release; refresh a source and run identity first"
        )
    pairs = np.array([tuple(row) for row in rows], dtype=np.int64)
    return FaceOrder(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]))


def read_vectors(connection: sa.Connection, order: FaceOrder, model: str) -> FaceVectors:
    """All vectors of embedder `model` in release order.

    Raises ReleaseError when a face has none, when they were made by more than one pack or model file, differ in
    length, or are not finite or zero (Voyager would take those in silently).
    """
    by_id = np.argsort(order.face_ids, kind="stable")
    sorted_ids = order.face_ids[by_id]
    vectors: NDArray[np.float32] | None = None
    filled = np.zeros(len(order), dtype=bool)
    makers: set[tuple[str, str]] = set()
    for ids, block, made_by in _vector_blocks(connection, model):
        if vectors is None:
            vectors = np.empty((len(order), block.shape[1]), dtype=np.float32)
        elif block.shape[1] != vectors.shape[1]:
            raise ReleaseError(
                f"the {model} embeddings have different lengths ({vectors.shape[1]} and {block.shape[1]}); embed again"
            )
        at = np.searchsorted(sorted_ids, ids)
        positions = by_id[at]
        vectors[positions] = block
        filled[positions] = True
        makers |= made_by
        if len(makers) > 1:
            raise ReleaseError(_mixture(model, makers))
    if vectors is None or not filled.all():
        missing = int(order.face_ids[int(np.argmin(filled))])
        raise ReleaseError(
            f"{int((~filled).sum())} trusted faces have no {model} embedding, first face {missing}; "
            "run face_embeddings and trusted_faces again"
        )
    _check_usable(vectors, order, model)
    ((pack, model_digest),) = makers
    return FaceVectors(vectors, pack, model_digest)


def _vector_blocks(
    connection: sa.Connection, model: str
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], set[tuple[str, str]]]]:
    # In the order of the primary key: sorting by release position would carry every blob through the sorter.
    query = (
        sa.select(embeddings.c.face_id, embeddings.c.vector, embeddings.c.pack, embeddings.c.model_digest)
        .join(trusted_faces, trusted_faces.c.face_id == embeddings.c.face_id)
        .where(embeddings.c.model == model)
        .execution_options(yield_per=_ROWS_A_FETCH)
    )
    for rows in connection.execute(query).partitions():
        ids = np.array([row.face_id for row in rows], dtype=np.int64)
        sizes = {len(row.vector) for row in rows}
        if len(sizes) > 1 or sizes == {0} or next(iter(sizes)) % 4:
            raise ReleaseError(
                f"the {model} embeddings near face {ids[0]} have lengths {sorted(sizes)} bytes; embed again"
            )
        block = np.frombuffer(b"".join(row.vector for row in rows), dtype="<f4").reshape(len(rows), -1)
        yield ids, block, {(row.pack, row.model_digest) for row in rows}


def _mixture(model: str, makers: set[tuple[str, str]]) -> str:
    packs = sorted({pack for pack, _ in makers})
    what = f"packs {' and '.join(packs)}" if len(packs) > 1 else f"two model files of pack {packs[0]}"
    return f"the {model} embeddings come from {what}; a release holds one model's vectors only: embed all faces again"


def _check_usable(vectors: NDArray[np.float32], order: FaceOrder, model: str) -> None:
    for start in range(0, len(vectors), 65_536):
        block = vectors[start : start + 65_536]
        norms = np.sqrt(np.einsum("ij,ij->i", block, block))
        wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(wrong):
            face = int(order.face_ids[start + int(wrong[0])])
            raise ReleaseError(
                f"the {model} vector of face {face} is not finite or is zero; embed that face again"
            )
