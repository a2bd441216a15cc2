"""Encrypted templates of refused faces, and the search for faces near them."""

from __future__ import annotations

import hmac
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

import numpy as np
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import image_key, rows_of
from stash_sense_pipeline.catalog.schema import embeddings, faces, suppressed_faces
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.privacy.linked_records import own_and_shared_images
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

Floats = NDArray[np.float32]

# Limits of the radius of a template. A face is refused when its cosine distance to the template is at most the radius:
# the distance of the farthest of the person's own faces, within these limits. The sidecar takes two faces for one person
# up to 0.5; the predecessor accepted a face at 0.35 to 0.45, depending on how many faces it had.
_SMALLEST_RADIUS, _LARGEST_RADIUS = 0.25, 0.40
_NONCE = 12
_ROWS_A_BLOCK = 2_048
# Bounds the memory of the product of faces and templates: all faces at once would take 40 MB a thousand templates.
_FACES_A_PRODUCT = 2_048


@dataclass(frozen=True)
class SuppressedFace:
    """The mean direction (dim,) of a person's faces by one embedder.

    A face within `radius` of it, in cosine distance, is refused.
    """

    vector: Floats = field(repr=False)
    radius: float


@dataclass(frozen=True)
class SuppressedFaces:
    """The templates of each person, by (model, digest of the model)."""

    people: Mapping[str, Mapping[tuple[str, str], SuppressedFace]] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of people with a refused face."""
        return len(self.people)

    def near(self, vectors: Mapping[tuple[str, str], Floats]) -> NDArray[np.bool_]:
        """Which of n faces are refused, as a mask of shape (n,).

        `vectors` maps (model, digest) to arrays (n, dim) of any norm, with the same face in row i of each. A face is
        refused when it is near the template by every embedder that both have; with no embedder in common it is not.
        """
        count = len(next(iter(vectors.values()))) if vectors else 0
        refused = np.zeros(count, dtype=bool)
        for models, stacked in self._by_models(frozenset(vectors)).items():
            for start in range(0, count, _FACES_A_PRODUCT):
                rows = np.arange(start, min(start + _FACES_A_PRODUCT, count))
                near: NDArray[np.bool_] | bool = True
                for model, (means, radii) in zip(models, stacked, strict=True):
                    near &= 1 - _unit(vectors[model][rows]) @ means.T <= radii
                    # The other embedders compare only the few faces that this one finds near.
                    found = near.any(axis=1)
                    rows, near = rows[found], near[found]
                refused[rows] = True
        return refused

    def _by_models(
        self, present: frozenset[tuple[str, str]]
    ) -> dict[tuple[tuple[str, str], ...], list[tuple[Floats, Floats]]]:
        """Means (people, dim) and radii (people,) of each embedder, by which embedders of `present` the people have."""
        alike: dict[tuple[tuple[str, str], ...], list[Mapping[tuple[str, str], SuppressedFace]]] = (
            defaultdict(list)
        )
        for person in self.people.values():
            alike[tuple(sorted(present & person.keys()))].append(person)
        alike.pop((), None)
        return {
            models: [
                (
                    np.stack([person[model].vector for person in people]),
                    np.array([person[model].radius for person in people], dtype=np.float32),
                )
                for model in models
            ]
            for models, people in alike.items()
        }


@dataclass(frozen=True)
class BlockedPerson:
    """The records of a person with a face to refuse, and the `disowned` images, which show no face of the person."""

    records: Collection[RecordKey]
    disowned: Collection[ImageKey] = ()


def keep_templates(
    connection: sa.Connection, key: bytes, people: Iterable[BlockedPerson], now: datetime
) -> int:
    """Stores a sealed template of each person, made of the faces on images that only that person has.

    A disowned image is left out: its face would refuse another person. Returns the number of people with a template; a
    person without such a face gets none.
    """
    kept = 0
    for each in people:
        rows = _faces_of(connection, each)
        person = secrets.token_hex(8)
        for (model, digest), vectors in rows.items():
            unit = _unit(np.stack(vectors))
            mean = _unit(unit.mean(axis=0, keepdims=True))[0]
            farthest = float((1 - unit @ mean).max())
            connection.execute(
                sa.insert(suppressed_faces).values(
                    model=model,
                    model_digest=digest,
                    person=person,
                    sealed=_seal(key, mean, model, digest),
                    radius=min(max(farthest, _SMALLEST_RADIUS), _LARGEST_RADIUS),
                    added_at=now,
                )
            )
        kept += bool(rows)
    return kept


def load_templates(connection: sa.Connection, key: bytes) -> SuppressedFaces:
    """The decrypted templates of a catalog. Raises CatalogError when they were sealed with another key."""
    people: dict[str, dict[tuple[str, str], SuppressedFace]] = defaultdict(dict)
    for row in connection.execute(sa.select(suppressed_faces)):
        vector = _open(key, row.sealed, row.model, row.model_digest)
        people[row.person][row.model, row.model_digest] = SuppressedFace(vector, row.radius)
    return SuppressedFaces(dict(people))


def faces_near(connection: sa.Connection, templates: SuppressedFaces) -> set[int]:
    """The ids of the refused faces in the catalog. Reads all embeddings when there are templates."""
    models = sorted({model for person in templates.people.values() for model in person})
    # One embedder of each person finds candidates; these few are compared by all embedders. A face of another pack has no
    # vector of that embedder, and is found by the next one.
    candidates: set[int] = set()
    for place, model in enumerate(models):
        asked = models[:place] if all(min(person) != model for person in templates.people.values()) else []
        for face_ids, rows in _vectors(connection, model, None, without=asked):
            candidates.update(np.asarray(face_ids)[templates.near({model: rows})].tolist())
    found: set[int] = set()
    by_model = {
        model: {
            face_id: row
            for face_ids, vectors in _vectors(connection, model, candidates)
            for face_id, row in zip(face_ids, vectors, strict=True)
        }
        for model in models
    }
    for face_id in candidates:
        vectors = {model: rows[face_id][None] for model, rows in by_model.items() if face_id in rows}
        if templates.near(vectors)[0]:
            found.add(face_id)
    return found


def _vectors(
    connection: sa.Connection,
    model: tuple[str, str],
    only: Collection[int] | None,
    without: Collection[tuple[str, str]] = (),
) -> Iterator[tuple[list[int], Floats]]:
    query = sa.select(embeddings.c.face_id, embeddings.c.vector).where(
        embeddings.c.model == model[0], embeddings.c.model_digest == model[1]
    )
    other = embeddings.alias()
    for name, digest in without:
        query = query.where(
            ~sa.exists().where(
                other.c.face_id == embeddings.c.face_id,
                other.c.model == name,
                other.c.model_digest == digest,
            )
        )
    if only is not None:
        rows = list(rows_of(connection, query, embeddings.c.face_id, only))
        if rows:
            yield [row[0] for row in rows], _stack(row[1] for row in rows)
        return
    found = streamed(connection, query)
    while part := list(islice(found, _ROWS_A_BLOCK)):
        yield [row[0] for row in part], _stack(row[1] for row in part)


def _stack(blobs: Iterable[bytes]) -> Floats:
    """The vectors of one model as an array (n, dim)."""
    rows = list(blobs)
    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), -1)


def _faces_of(connection: sa.Connection, person: BlockedPerson) -> dict[tuple[str, str], list[Floats]]:
    """The embeddings of faces on images that only this person has, by (model, digest)."""
    theirs, shared = own_and_shared_images(connection, person.records)
    joined = faces.join(embeddings, embeddings.c.face_id == faces.c.face_id)
    query = sa.select(embeddings.c.model, embeddings.c.model_digest, embeddings.c.vector).select_from(joined)
    found: dict[tuple[str, str], list[Floats]] = defaultdict(list)
    for model, digest, vector in rows_of(
        connection, query, image_key(faces), theirs - shared - set(person.disowned)
    ):
        found[model, digest].append(np.frombuffer(vector, dtype="<f4"))
    return found


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def _cipher(key: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"face template", "sha256"))


def _seal(key: bytes, vector: Floats, model: str, digest: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE)
    plain = vector.astype("<f4").tobytes()
    return nonce + _cipher(key).encrypt(nonce, plain, f"{model}\0{digest}".encode())


def _open(key: bytes, sealed: bytes, model: str, digest: str) -> Floats:
    try:
        plain = _cipher(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], f"{model}\0{digest}".encode())
    except InvalidTag:
        raise CatalogError(
            "a face template was sealed with another suppression.key; restore it from a backup"
        ) from None
    return np.frombuffer(plain, dtype="<f4")
