"""Faces, aligned crops and embeddings: store, reuse, lease for embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings, faces, source_images
from stash_sense_pipeline.catalog.upsert import batched, upsert

# The first half of the key of PostgreSQL's advisory lock on a face. The second half is the face_id.
_LEASES = 7305216
_FACE_COLUMNS = tuple(
    column for column in faces.c if column.name not in ("face_id", "source", "image_id", "created_at")
)
# Images with equal bytes. Executed for every fetched image, so it is built once.
_EQUAL_IMAGES = (
    sa.select(
        source_images.c.source,
        source_images.c.image_id,
        source_images.c.state,
        source_images.c.reason,
        source_images.c.picture_hash,
    )
    .where(
        source_images.c.sha256 == sa.bindparam("sha256"),
        source_images.c.detector_digest == sa.bindparam("detector"),
        source_images.c.judged_by == sa.bindparam("judged_by"),
        sa.or_(source_images.c.state == "done", source_images.c.state == "rejected"),
    )
    # One placeholder picture can be the image of thousands of performers, all with the same verdict.
    .limit(8)
)


@dataclass(frozen=True)
class StoredFace:
    """One face to store for an image. `columns`: of the table `faces`. `png`: the aligned crop. `picture_hash`: of the
    image. `vectors`: rows of `embeddings` that exist already.
    """

    columns: Mapping[str, Any]
    png: bytes | None
    picture_hash: str | None
    vectors: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Judged:
    """The verdict on an image: its state, the reason when it was rejected, the face when it is done."""

    state: str
    reason: str | None
    face: StoredFace | None


@dataclass(frozen=True)
class EmbeddingQueue:
    """The faces of a source that wait for embedding: found by this detector, with a crop, and without a vector of at
    least one of the models `digests` (name → digest).
    """

    source: str
    detector_digest: str
    digests: Mapping[str, str]


@dataclass(frozen=True)
class WaitingFace:
    """A face that lacks vectors, with its aligned crop.

    `missing` names the models. `outdated`: it has a vector of another version of one of the models.
    """

    face_id: int
    png: bytes
    missing: tuple[str, ...]
    outdated: bool


def find_judged(
    connection: sa.Connection, sha256: str, detector_digest: str, judged_by: str, digests: Mapping[str, str]
) -> Judged | None:
    """The verdict on an image with these bytes in any source, by the same detector and rules, or None.

    A done image counts only if its face can be copied completely: with its crop, or with a vector of each model in
    `digests` (name → digest).
    """
    asked = {"sha256": sha256, "detector": detector_digest, "judged_by": judged_by}
    rows = connection.execute(_EQUAL_IMAGES, asked).all()
    for source, image_id, state, reason, picture_hash in rows:
        if state == "rejected":
            return Judged(state, reason, None)
        face = _stored_face(connection, source, image_id, picture_hash, digests)
        if face is not None:
            return Judged(state, None, face)
    return None


def _stored_face(
    connection: sa.Connection,
    source: str,
    image_id: str,
    picture_hash: str | None,
    digests: Mapping[str, str],
) -> StoredFace | None:
    row = connection.execute(
        sa.select(faces.c.face_id, *_FACE_COLUMNS).where(
            faces.c.source == source, faces.c.image_id == image_id
        )
    ).first()
    if row is None:
        return None
    columns = dict(row._mapping)
    face_id = columns.pop("face_id")
    png = connection.scalar(sa.select(aligned_crops.c.png).where(aligned_crops.c.face_id == face_id))
    vectors = connection.execute(
        sa.select(embeddings.c.model, embeddings.c.vector, embeddings.c.pack, embeddings.c.model_digest)
        .where(embeddings.c.face_id == face_id)
        .order_by(embeddings.c.model)
    ).all()
    current = [dict(row._mapping) for row in vectors if digests.get(row.model) == row.model_digest]
    if png is None and len(current) < len(digests):
        return None
    return StoredFace(columns, png, picture_hash, current)


def store_faces(
    connection: sa.Connection, source: str, found: Sequence[tuple[str, StoredFace]], now: datetime
) -> None:
    """Stores one face for each (image_id, face). It replaces all faces of the image."""
    forget_faces(connection, source, [image_id for image_id, _ in found])
    if not found:
        return
    rows = [
        {**face.columns, "source": source, "image_id": image_id, "created_at": now}
        for image_id, face in found
    ]
    face_ids = connection.scalars(
        sa.insert(faces).returning(faces.c.face_id, sort_by_parameter_order=True), rows
    ).all()
    stored = [(face_id, face) for face_id, (_, face) in zip(face_ids, found, strict=True)]
    crops = [{"face_id": face_id, "png": face.png} for face_id, face in stored if face.png is not None]
    upsert(connection, aligned_crops, crops)
    vectors = [
        {"face_id": face_id, "created_at": now, **vector}
        for face_id, face in stored
        for vector in face.vectors
    ]
    upsert(connection, embeddings, vectors)


def forget_faces(connection: sa.Connection, source: str, image_ids: Sequence[str]) -> None:
    """Removes the faces of images with their crops and vectors."""
    for ids in batched(image_ids, IN_LIST):
        connection.execute(sa.delete(faces).where(faces.c.source == source, faces.c.image_id.in_(ids)))


def _lacks_vectors(digests: Mapping[str, str]) -> sa.ColumnElement[bool]:
    """Condition on `faces`: at least one of the models (name → digest) has no vector of the face."""
    return sa.or_(
        *(
            ~sa.exists().where(
                embeddings.c.face_id == faces.c.face_id,
                embeddings.c.model == model,
                embeddings.c.model_digest == digest,
            )
            for model, digest in digests.items()
        )
    )


def _of_queue(queue: EmbeddingQueue) -> sa.ColumnElement[bool]:
    """Condition on `faces`: found in the source by the detector of the queue."""
    return sa.and_(faces.c.source == queue.source, faces.c.detector_digest == queue.detector_digest)


def _waiting(queue: EmbeddingQueue) -> sa.ColumnElement[bool]:
    """Condition on `aligned_crops`: the face is in the queue. It is not a join, as there are few crops and the search
    must begin with them.
    """
    return sa.exists().where(
        faces.c.face_id == aligned_crops.c.face_id, _of_queue(queue), _lacks_vectors(queue.digests)
    )


def count_waiting(connection: sa.Connection, queue: EmbeddingQueue) -> int:
    """The number of faces in the queue."""
    waiting = sa.select(sa.func.count()).select_from(aligned_crops)
    return connection.scalar(waiting.where(_waiting(queue))) or 0


def waiting_faces(
    connection: sa.Connection,
    queue: EmbeddingQueue,
    after: int,
    limit: int,
    among: Sequence[int] | None = None,
) -> list[WaitingFace]:
    """The next `limit` faces of the queue with ids above `after`, sorted by id. With `among`, only of these ids."""
    digests = queue.digests
    next_ones = (
        sa.select(aligned_crops.c.face_id, aligned_crops.c.png)
        .where(aligned_crops.c.face_id > after, _waiting(queue))
        .order_by(aligned_crops.c.face_id)
        .limit(limit)
    )
    if among is not None:
        next_ones = next_ones.where(aligned_crops.c.face_id.in_(among))
    rows = connection.execute(next_ones).all()
    have: dict[int, set[str]] = {}
    outdated: set[int] = set()
    for ids in batched([row.face_id for row in rows], IN_LIST):
        current = connection.execute(
            sa.select(embeddings.c.face_id, embeddings.c.model, embeddings.c.model_digest).where(
                embeddings.c.face_id.in_(ids)
            )
        )
        for face_id, model, digest in current:
            if digests.get(model) == digest:
                have.setdefault(face_id, set()).add(model)
            elif model in digests:
                outdated.add(face_id)
    return [
        WaitingFace(
            face_id,
            png,
            tuple(name for name in digests if name not in have.get(face_id, ())),
            face_id in outdated,
        )
        for face_id, png in rows
    ]


@contextmanager
def leasing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A PostgreSQL session without an open transaction, for `lease_faces` and `release_faces`. Leases end with it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            yield connection
        finally:
            # The connection goes back to the pool and would keep the leases.
            if not connection.invalidated:
                connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))


def lease_faces(
    session: sa.Connection, queue: EmbeddingQueue, after: int, limit: int
) -> tuple[list[WaitingFace], list[int]]:
    """As `waiting_faces`, but leases the faces until `release_faces` and skips those that another worker has leased.

    `session` is one of `leasing`. Returns the faces and the leased ids. Another worker may just have finished some of
    the ids, which then have no face in the list. There are no ids when other workers have leased all waiting faces. A
    lease is an advisory lock, so it ends with the connection of its worker. It does not lock a row.
    """
    waiting = (
        sa.select(faces.c.face_id)
        .join(aligned_crops, aligned_crops.c.face_id == faces.c.face_id)
        .where(faces.c.face_id > after, _of_queue(queue), _lacks_vectors(queue.digests))
        .order_by(faces.c.face_id)
        # OFFSET is an optimisation fence: the locks are taken in the order of the ids, and at most `limit` of them.
        .offset(0)
        .subquery()
    )
    free = (
        sa.select(waiting.c.face_id)
        .where(sa.func.pg_try_advisory_lock(_LEASES, waiting.c.face_id))
        .limit(limit)
    )
    leased = list(session.scalars(free))
    if not leased:
        return [], []
    # Reads again, to see what other workers have committed since the search began.
    return waiting_faces(session, queue, after, limit, among=leased), leased


def release_faces(session: sa.Connection, leased: Sequence[int]) -> None:
    """Ends leases. Call it after the vectors of the faces are committed."""
    for face_id in leased:
        session.execute(sa.select(sa.func.pg_advisory_unlock(_LEASES, face_id)))


def store_vectors(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores embeddings; each replaces the one of the same face and model.

    Embeddings of a face that was removed, or that another transaction is removing, are left out.
    """
    present: set[int] = set()
    for ids in batched(sorted({row["face_id"] for row in rows}), IN_LIST):
        query = sa.select(faces.c.face_id).where(faces.c.face_id.in_(ids))
        # Another transaction that removes one of the faces waits until its vectors are stored. SQLite has one writer.
        present.update(connection.scalars(query.with_for_update(key_share=True, read=True, skip_locked=True)))
    upsert(connection, embeddings, [row for row in rows if row["face_id"] in present])


def drop_crops(connection: sa.Connection, face_ids: Sequence[int]) -> None:
    """Removes the crops of faces."""
    for ids in batched(face_ids, IN_LIST):
        connection.execute(sa.delete(aligned_crops).where(aligned_crops.c.face_id.in_(ids)))


def drop_embedded_crops(connection: sa.Connection, queue: EmbeddingQueue) -> int:
    """Removes the crops of faces that have a vector of every model of the queue. Returns their number."""
    complete = sa.exists().where(
        faces.c.face_id == aligned_crops.c.face_id, _of_queue(queue), ~_lacks_vectors(queue.digests)
    )
    return connection.execute(sa.delete(aligned_crops).where(complete)).rowcount


def count_crops(connection: sa.Connection, source: str) -> int:
    """The number of stored crops of a source's faces."""
    of_source = sa.exists().where(faces.c.face_id == aligned_crops.c.face_id, faces.c.source == source)
    return connection.scalar(sa.select(sa.func.count()).select_from(aligned_crops).where(of_source)) or 0
