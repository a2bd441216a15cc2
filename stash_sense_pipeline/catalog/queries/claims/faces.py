"""Claimed faces and their vectors: store, sample, count, remove."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import IN_LIST, rows_of
from stash_sense_pipeline.catalog.queries.claims.releases import ClaimState
from stash_sense_pipeline.catalog.schema import (
    claimed_faces,
    claimed_releases,
    claimed_vectors,
    faces,
    source_images,
)
from stash_sense_pipeline.catalog.upsert import batched, insert_many

_COLUMNS = ("release_id", "position", "source", "url", "box", "box_id", "quality", "yaw", "rounded")


class ClaimRow(NamedTuple):
    """A claimed face to store: its position in the release, its picture, and a record of its person (box, box_id)."""

    position: int
    source: str
    url: str
    box: str
    box_id: str
    quality: float
    yaw: float


@dataclass(frozen=True)
class SampleFace:
    """A claimed face with a picture that may be fetched for the proof."""

    claim_id: int
    source: str
    url: str


@dataclass(frozen=True)
class FaceCounts:
    """Faces of one source. `claimed`: not in use. `proven`: in use, their picture not seen. `seen`: of fetched pictures."""

    claimed: int = 0
    proven: int = 0
    seen: int = 0


def add_claims(connection: sa.Connection, release_id: int, rounded: bool, rows: Sequence[ClaimRow]) -> None:
    """Stores claimed faces."""
    insert_many(connection, claimed_faces, _COLUMNS, [(release_id, *row, rounded) for row in rows])


def known_positions(connection: sa.Connection, release_id: int) -> set[int]:
    """The positions of the release with a claimed face."""
    query = sa.select(claimed_faces.c.position).where(claimed_faces.c.release_id == release_id)
    return set(connection.scalars(query))


def known_pictures(connection: sa.Connection, release_id: int) -> set[tuple[str, str]]:
    """(source, url) of pictures that need no claim: those that were judged, and those that another release claims."""
    judged = sa.select(source_images.c.source, source_images.c.url).where(
        source_images.c.state.in_(["done", "rejected", "gone"])
    )
    others = sa.select(claimed_faces.c.source, claimed_faces.c.url).where(
        claimed_faces.c.release_id != release_id
    )
    return {(row[0], row[1]) for query in (judged, others) for row in streamed(connection, query)}


def without_vector(connection: sa.Connection, release_id: int, model: str) -> list[tuple[int, int]]:
    """(claim_id, position) of the claimed faces without a vector of the model, sorted."""
    this = claimed_faces.c
    has = sa.exists().where(claimed_vectors.c.claim_id == this.claim_id, claimed_vectors.c.model == model)
    query = sa.select(this.claim_id, this.position).where(
        this.release_id == release_id, this.face_id.is_(None), ~has
    )
    return [(row[0], row[1]) for row in connection.execute(query.order_by(this.claim_id))]


def add_vectors(
    connection: sa.Connection, model: str, claim_ids: Sequence[int], vectors: NDArray[np.float32]
) -> None:
    """Stores the vectors (n, dim) of claimed faces. Claims that were removed meanwhile are left out."""
    present: set[int] = set()
    for ids in batched(claim_ids, IN_LIST):
        found = sa.select(claimed_faces.c.claim_id).where(claimed_faces.c.claim_id.in_(ids))
        present.update(connection.scalars(found))
    rows = [
        (claim_id, model, vector.astype("<f4").tobytes())
        for claim_id, vector in zip(claim_ids, vectors, strict=True)
        if claim_id in present
    ]
    insert_many(connection, claimed_vectors, ("claim_id", "model", "vector"), rows)


def read_vectors(
    connection: sa.Connection, claim_ids: Collection[int]
) -> dict[int, dict[str, NDArray[np.float32]]]:
    """The vectors of claimed faces by claim and embedder."""
    columns = (claimed_vectors.c.claim_id, claimed_vectors.c.model, claimed_vectors.c.vector)
    found: dict[int, dict[str, NDArray[np.float32]]] = {}
    for claim_id, model, vector in rows_of(
        connection, sa.select(*columns), claimed_vectors.c.claim_id, claim_ids
    ):
        found.setdefault(claim_id, {})[model] = np.frombuffer(vector, dtype="<f4")
    return found


def unsampled(connection: sa.Connection, release_id: int) -> dict[str, list[int]]:
    """The claimed faces of a release that were not compared with their picture, by source."""
    this = claimed_faces.c
    query = (
        sa.select(this.source, this.claim_id)
        .where(
            this.release_id == release_id,
            this.face_id.is_(None),
            sa.type_coerce(this.cosines, sa.Text).is_(None),
        )
        .order_by(this.claim_id)
    )
    found: dict[str, list[int]] = {}
    for source, claim_id in connection.execute(query):
        found.setdefault(source, []).append(claim_id)
    return found


def sample_face(connection: sa.Connection, claim_id: int) -> SampleFace | None:
    """A claimed face; None when it was removed."""
    this = claimed_faces.c
    query = sa.select(this.claim_id, this.source, this.url).where(this.claim_id == claim_id)
    row = connection.execute(query).first()
    return None if row is None else SampleFace(*row)


def note_cosines(connection: sa.Connection, claim_id: int, cosines: Mapping[str, float]) -> None:
    """Notes the result of a comparison with the fetched picture."""
    this = claimed_faces.c.claim_id == claim_id
    connection.execute(sa.update(claimed_faces).where(this).values(cosines=dict(cosines)))


def compared(connection: sa.Connection, release_id: int) -> list[tuple[str, dict[str, float]]]:
    """(source, cosine by embedder) of the claimed faces that were compared with their picture."""
    this = claimed_faces.c
    query = sa.select(this.source, this.cosines).where(
        this.release_id == release_id, sa.type_coerce(this.cosines, sa.Text).is_not(None)
    )
    return [(source, cosines) for source, cosines in connection.execute(query) if cosines is not None]


def drop_unused(connection: sa.Connection, release_id: int, sources: Collection[str] | None = None) -> int:
    """Removes the claimed faces of a release that are no faces, of all sources or of these. Returns their number."""
    unused = sa.delete(claimed_faces).where(
        claimed_faces.c.release_id == release_id, claimed_faces.c.face_id.is_(None)
    )
    if sources is not None:
        unused = unused.where(claimed_faces.c.source.in_(sorted(sources)))
    return connection.execute(unused).rowcount


def drop_claims(connection: sa.Connection, claim_ids: Collection[int]) -> int:
    """Removes claimed faces with their vectors. Returns their number."""
    return sum(
        connection.execute(sa.delete(claimed_faces).where(claimed_faces.c.claim_id.in_(ids))).rowcount
        for ids in batched(sorted(claim_ids), IN_LIST)
    )


def addresses(connection: sa.Connection) -> Iterator[tuple[int, str]]:
    """(claim_id, url) of the claimed faces that are no faces."""
    this = claimed_faces.c
    query = sa.select(this.claim_id, this.url).where(this.face_id.is_(None))
    return ((row[0], row[1]) for row in streamed(connection, query))


def claimed_vectors_of(connection: sa.Connection, model: str, digest: str) -> Iterator[Any]:
    """(claim_id, vector) of the claimed faces by one embedder, given by its name and the digest of its network."""
    releases = [
        release_id
        for release_id, models in connection.execute(
            sa.select(claimed_releases.c.release_id, claimed_releases.c.models)
        )
        if (models.get(model) or {}).get("digest") == digest
    ]
    query = (
        sa.select(claimed_vectors.c.claim_id, claimed_vectors.c.vector)
        .join(claimed_faces, claimed_faces.c.claim_id == claimed_vectors.c.claim_id)
        .where(claimed_vectors.c.model == model, claimed_faces.c.release_id.in_(releases))
    )
    return streamed(connection, query)


def face_counts(connection: sa.Connection) -> dict[str, FaceCounts]:
    """The numbers of claimed, proven and seen faces by source. A refused claim counts nowhere."""
    claimed, proven = claimed_faces.c.face_id.is_(None), claimed_faces.c.face_id.is_not(None)
    of_claims = (
        sa.select(claimed_faces.c.source, sa.func.count().filter(claimed), sa.func.count().filter(proven))
        .join(claimed_releases, claimed_releases.c.release_id == claimed_faces.c.release_id)
        .where(claimed_releases.c.state != ClaimState.REFUSED)
        .group_by(claimed_faces.c.source)
    )
    claims = {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(of_claims)}
    stored = {
        row[0]: int(row[1])
        for row in connection.execute(
            sa.select(faces.c.source, sa.func.count()).where(~faces.c.second).group_by(faces.c.source)
        )
    }
    return {
        source: FaceCounts(
            claims.get(source, (0, 0))[0],
            claims.get(source, (0, 0))[1],
            stored.get(source, 0) - claims.get(source, (0, 0))[1],
        )
        for source in sorted(claims.keys() | stored.keys())
    }


def proven_pictures(connection: sa.Connection) -> set[tuple[str, str]]:
    """(source, url) of the pictures with a face in use that this program has not seen."""
    query = (
        sa.select(source_images.c.source, source_images.c.url)
        .join(
            faces, (faces.c.source == source_images.c.source) & (faces.c.image_id == source_images.c.image_id)
        )
        .join(claimed_faces, claimed_faces.c.face_id == faces.c.face_id)
    )
    return {(source, url) for source, url in streamed(connection, query)}
