"""Candidates for trusted faces, the stored choice, and the faces that are kept out of releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.schema import (
    claimed_faces,
    embeddings,
    face_collisions,
    face_exclusions,
    faces,
    identity_members,
    performer_images,
    second_trusted_faces,
    source_images,
    trusted_faces,
)
from stash_sense_pipeline.catalog.upsert import batched, insert_many, upsert

_ROWS_PER_STATEMENT = 5_000


class CandidateRow(NamedTuple):
    """One face of an image of a record in an identity. `sha256` is of the image's bytes.

    `claimed`: the face came from a release, and this program has not seen its picture.
    """

    face_id: int
    performer_id: int
    source: str
    source_id: str
    image_id: str
    quality: float
    sha256: str | None
    yaw: float = 0.0
    picture_hash: str | None = None
    claimed: bool = False


class CollisionRow(NamedTuple):
    """A face that is nearer to another performer (`nearer_to`) than to its own. The similarities are mean cosines."""

    performer_id: int
    source: str
    source_id: str
    nearer_to: int
    similarity: float
    nearer_similarity: float


class ExclusionRow(NamedTuple):
    """A face that is kept out of releases, and why. `people`: of a hub, the number of other people it is near."""

    performer_id: int
    source: str
    source_id: str
    reason: str
    people: int | None = None


class TrustedRow(NamedTuple):
    """One face that represents a performer; rank 0 is the best."""

    performer_id: int
    source: str
    source_id: str
    rank: int


def read_candidates(connection: sa.Connection, detector: str | None = None) -> list[CandidateRow]:
    """All faces of all images of all identity members, a row for each record that lists the image, sorted by face_id.

    They are those of the first pack; with `detector` those of the second pack, by the digest of its detector. Faces of
    an image that waits to be processed again are left out: they are from another detector or other limits. Those of the
    second pack stay when the image waits for the first pack only.
    """
    query = (
        sa.select(
            faces.c.face_id,
            identity_members.c.performer_id,
            faces.c.source,
            performer_images.c.source_id,
            faces.c.image_id,
            faces.c.quality,
            source_images.c.sha256,
            faces.c.yaw,
            source_images.c.picture_hash,
            claimed_faces.c.face_id.is_not(None),
        )
        .outerjoin(claimed_faces, claimed_faces.c.face_id == faces.c.face_id)
        .join(
            source_images,
            (source_images.c.source == faces.c.source) & (source_images.c.image_id == faces.c.image_id),
        )
        .join(
            performer_images,
            (performer_images.c.source == faces.c.source) & (performer_images.c.image_id == faces.c.image_id),
        )
        .join(
            identity_members,
            (identity_members.c.source == performer_images.c.source)
            & (identity_members.c.source_id == performer_images.c.source_id),
        )
        .where(_of_first() if detector is None else _of_second(detector))
        .order_by(faces.c.face_id, performer_images.c.source_id)
    )
    return [CandidateRow._make(row) for row in streamed(connection, query)]


def _of_first() -> sa.ColumnElement[bool]:
    return sa.and_(source_images.c.state == sa.literal("done", literal_execute=True), ~faces.c.second)


def _of_second(detector: str) -> sa.ColumnElement[bool]:
    """Condition: a face of the second pack, on an image that was fetched and judged.

    An image that another first pack, or looser criteria for it, must judge again is pending and keeps the digest of the
    detector that judged it. Its second face is of this detector and of the fetched picture, and no verdict of the first
    pack changes it.
    """
    image = source_images.c
    judged_before = sa.and_(
        image.state == "pending", image.sha256.is_not(None), image.detector_digest.is_not(None)
    )
    return sa.and_(
        faces.c.second,
        faces.c.detector_digest == detector,
        sa.or_(image.state.in_(["done", "rejected"]), judged_before),
    )


def read_owners(connection: sa.Connection) -> Iterable[tuple[int, int, str, str]]:
    """(face_id, performer_id, source, source_id) of every face, a row for each record that lists its image."""
    query = (
        sa.select(
            faces.c.face_id,
            identity_members.c.performer_id,
            performer_images.c.source,
            performer_images.c.source_id,
        )
        .select_from(faces)
        .join(
            performer_images,
            (performer_images.c.source == faces.c.source) & (performer_images.c.image_id == faces.c.image_id),
        )
        .join(
            identity_members,
            (identity_members.c.source == performer_images.c.source)
            & (identity_members.c.source_id == performer_images.c.source_id),
        )
    )
    return streamed(connection, query)


def faces_with_all(connection: sa.Connection, models: Mapping[str, str]) -> set[int]:
    """The ids of faces with an embedding of every model. `models`: name to the digest of its file."""
    common: set[int] | None = None
    for model, digest in sorted(models.items()):
        query = sa.select(embeddings.c.face_id).where(
            embeddings.c.model == model, embeddings.c.model_digest == digest
        )
        found = {face_id for (face_id,) in streamed(connection, query)}
        common = found if common is None else common & found
    return common or set()


def read_vectors(
    connection: sa.Connection, model: str, digest: str, face_ids: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """The raw embeddings of the faces by one model, float32 (dimensions,)."""
    found: dict[int, NDArray[np.float32]] = {}
    for batch in batched(face_ids, IN_LIST):
        query = sa.select(embeddings.c.face_id, embeddings.c.vector).where(
            embeddings.c.face_id.in_(batch),
            embeddings.c.model == model,
            embeddings.c.model_digest == digest,
        )
        for face_id, vector in connection.execute(query).all():
            found[face_id] = np.frombuffer(vector, dtype="<f4")
    return found


def trusted_table(second: bool) -> sa.Table:
    """The table of the trusted faces of the first pack, or of the second one."""
    return second_trusted_faces if second else trusted_faces


def read_trusted(connection: sa.Connection, second: bool = False) -> dict[int, TrustedRow]:
    """The stored trusted faces of a pack, by face_id."""
    table = trusted_table(second).c
    query = sa.select(table.face_id, table.performer_id, table.source, table.source_id, table.rank)
    return {row[0]: TrustedRow._make(row[1:]) for row in streamed(connection, query)}


def store_trusted(
    connection: sa.Connection,
    stored: Mapping[int, TrustedRow],
    wanted: Mapping[int, TrustedRow],
    second: bool = False,
) -> tuple[int, int, int]:
    """Makes the trusted faces of a pack equal to `wanted`. Returns the numbers of faces added, removed and changed."""
    table = trusted_table(second)
    gone = [face_id for face_id in stored if face_id not in wanted]
    new = [face_id for face_id in wanted if face_id not in stored]
    changed = [face_id for face_id, row in wanted.items() if face_id in stored and stored[face_id] != row]
    where = table.c.face_id == sa.bindparam("which")
    for ids in batched(gone, _ROWS_PER_STATEMENT):
        connection.execute(table.delete().where(where), [{"which": face_id} for face_id in ids])
    # The parameters must not have the names of columns.
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in TrustedRow._fields}
    for ids in batched(changed, _ROWS_PER_STATEMENT):
        rows = [
            {"which": face_id} | {f"new_{name}": value for name, value in wanted[face_id]._asdict().items()}
            for face_id in ids
        ]
        connection.execute(table.update().where(where).values(**values), rows)
    columns = ("face_id", *TrustedRow._fields)
    for ids in batched(new, _ROWS_PER_STATEMENT):
        insert_many(connection, table, columns, [(face_id, *wanted[face_id]) for face_id in ids])
    return len(new), len(gone), len(changed)


def read_collisions(connection: sa.Connection) -> dict[int, CollisionRow]:
    """The collisions, by face_id. Their faces are kept out of releases."""
    table = face_collisions.c
    query = sa.select(table.face_id, *(table[name] for name in CollisionRow._fields)).order_by(table.face_id)
    return {row[0]: CollisionRow._make(row[1:]) for row in streamed(connection, query)}


def store_collisions(connection: sa.Connection, wanted: Mapping[int, CollisionRow], now: datetime) -> None:
    """Makes the stored collisions equal to `wanted`. A face that stays keeps its found_at."""
    stored = read_collisions(connection)
    table = face_collisions
    for batch in batched(sorted(stored.keys() - wanted.keys()), IN_LIST):
        connection.execute(table.delete().where(table.c.face_id.in_(batch)))
    rows = [
        {"face_id": face_id, **row._asdict(), "found_at": now}
        for face_id, row in sorted(wanted.items())
        if stored.get(face_id) != row
    ]
    upsert(connection, table, rows, keep=frozenset({"found_at"}))


def read_exclusions(connection: sa.Connection) -> dict[tuple[int, int], ExclusionRow]:
    """The faces that are kept out of releases for another reason than a collision, by (face_id, performer_id)."""
    table = face_exclusions.c
    columns = (table[name] for name in ExclusionRow._fields)
    query = sa.select(table.face_id, *columns).order_by(table.face_id, table.performer_id)
    return {(row[0], row[1]): ExclusionRow._make(row[1:]) for row in streamed(connection, query)}


def store_exclusions(
    connection: sa.Connection, wanted: Mapping[tuple[int, int], ExclusionRow], now: datetime
) -> None:
    """Makes the stored exclusions equal to `wanted`. A face that stays for the same reason keeps its found_at."""
    stored = read_exclusions(connection)
    table = face_exclusions
    which = (table.c.face_id == sa.bindparam("which")) & (table.c.performer_id == sa.bindparam("performer"))
    changed = sorted(key for key, row in stored.items() if wanted.get(key) != row)
    for some in batched(changed, _ROWS_PER_STATEMENT):
        rows = [{"which": face_id, "performer": performer_id} for face_id, performer_id in some]
        connection.execute(table.delete().where(which), rows)
    new = sorted(key for key, row in wanted.items() if stored.get(key) != row)
    columns = ("face_id", *ExclusionRow._fields, "found_at")
    for some in batched(new, _ROWS_PER_STATEMENT):
        insert_many(connection, table, columns, [(key[0], *wanted[key], now) for key in some])


def images_of_faces(connection: sa.Connection, face_ids: Sequence[int]) -> dict[int, str]:
    """`source:image_id` of each of these faces."""
    query = sa.select(faces.c.face_id, faces.c.source, faces.c.image_id)
    return {
        face_id: f"{source}:{image_id}"
        for some in batched(sorted(face_ids), IN_LIST)
        for face_id, source, image_id in connection.execute(query.where(faces.c.face_id.in_(some)))
    }


def people_without_a_face(connection: sa.Connection) -> dict[int, list[tuple[str, str, str]]]:
    """The performers with every face kept out of releases: (source, source_id, reason) of each face, sorted."""
    trusted, out, near = trusted_faces.c, face_exclusions.c, face_collisions.c
    collided = sa.literal("nearer to another performer")
    query = sa.union_all(
        sa.select(out.performer_id, out.source, out.source_id, out.reason),
        sa.select(near.performer_id, near.source, near.source_id, collided),
    ).subquery()
    rows = sa.select(query).where(~sa.exists().where(trusted.performer_id == query.c.performer_id))
    found: dict[int, list[tuple[str, str, str]]] = {}
    for performer_id, source, source_id, reason in streamed(connection, rows):
        found.setdefault(performer_id, []).append((source, source_id, reason))
    return {performer_id: sorted(found[performer_id]) for performer_id in sorted(found)}
