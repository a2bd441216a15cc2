"""The template of a record: mean vector of its own faces, without outliers and copies."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries import face_templates as store
from stash_sense_pipeline.catalog.queries.face_templates import OwnFace, Template
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import read_vectors
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

Vectors = NDArray[np.float32]

# Cosines of raw embeddings: faces of different people have about 0, photos of one person seldom below 0.3.
OUTLIER_SIMILARITY = 0.20
# Two pictures closer than this cosine distance in every model are the same shot; re-encoded copies stay below 0.05.
NEAR_DUPLICATE = 0.03
# More faces do not improve a mean.
_MOST_FACES = 30
_FACES_AT_ONCE = 20_000


def models_digest(models: Mapping[str, str]) -> str:
    """A text for the embedders of templates. `models`: name to the digest of its file."""
    return " ".join(f"{name}={digest}" for name, digest in sorted(models.items()))


def build_templates(
    reads: ShortReads,
    models: Mapping[str, str],
    shared: Collection[ImageKey],
    records: Collection[RecordKey] | None = None,
) -> dict[RecordKey, Template]:
    """Templates of all records, or of `records`, that have own faces which agree with each other.

    `shared` pictures, which several people have, are left out. The vectors are read in batches of some thousand faces.
    A face that loses a vector during the run is left out.
    """
    found: dict[RecordKey, Template] = {}
    own = [
        face
        for face in reads(store.read_own_faces, models, records)
        if (face.source, face.image_id) not in shared
    ]
    for batch in _batches(own):
        ids = sorted(face.face_id for _, rows in batch for face in rows)
        vectors = [reads(read_vectors, model, models[model], ids) for model in sorted(models)]
        for key, rows in batch:
            known = [face.face_id for face in rows if all(face.face_id in model for model in vectors)]
            stacks = [np.stack([model[face_id] for face_id in known]) for model in vectors if known]
            template = make_template(stacks) if known else None
            if template is not None:
                found[key] = template
    return found


def make_template(stacks: Sequence[Vectors]) -> Template | None:
    """The template of the faces of one record, best first. None without usable faces, or when they disagree.

    `stacks`: for each model the raw vectors, (faces, dim). Faces that are dissimilar in every model show several
    people, and the person of the record is unknown.
    """
    usable = np.all([np.isfinite(s).all(axis=1) & (np.linalg.norm(s, axis=1) > 0) for s in stacks], axis=0)
    units = [s[usable] / np.linalg.norm(s[usable], axis=1, keepdims=True) for s in stacks]
    similarities = [unit @ unit.T for unit in units]
    foreign = outliers(similarities, OUTLIER_SIMILARITY, 3)
    faces = [i for i in range(int(usable.sum())) if i not in foreign]
    if not faces or _disagree(similarities, faces):
        return None
    nearest = np.min(similarities, axis=0)
    shots: list[int] = []
    for i in faces:
        if not shots or nearest[i, shots].max() <= 1 - NEAR_DUPLICATE:
            shots.append(i)
    means = [unit[shots].mean(axis=0) for unit in units]
    norms = [float(np.linalg.norm(mean)) for mean in means]
    if min(norms) == 0:
        return None
    vector = np.concatenate([mean / norm for mean, norm in zip(means, norms, strict=True)])
    return Template(len(shots), vector.astype(np.float16))


def _disagree(similarities: Sequence[Vectors], faces: Sequence[int]) -> bool:
    count = len(faces)
    grid = np.ix_(faces, faces)
    between = [(s[grid].sum() - count) / max(1, count * (count - 1)) for s in similarities]
    return count > 1 and max(between) < OUTLIER_SIMILARITY


def outliers(similarities: Sequence[Vectors], limit: float, at_least: int) -> set[int]:
    """Faces that resemble none of the others in any model. The worst is removed first: it lowers the others' means.

    `similarities`: for each model the cosines, (faces, faces). There are no outliers among fewer than `at_least` faces,
    or when no face resembles the others. Ends when all faces that are left resemble the others: these have no outliers.
    The order of the faces does not matter, because equally bad faces are removed together.
    """
    left = list(range(len(similarities[0])))
    out: set[int] = set()
    while len(left) >= max(at_least, 2):
        grid = np.ix_(left, left)
        means = [(s[grid].sum(axis=1) - s[grid].diagonal()) / (len(left) - 1) for s in similarities]
        # The model with the highest mean decides for each face. The last bits depend on the order of the sum.
        best = np.round(np.max(means, axis=0).astype(np.float64), 5)
        if best.min() >= limit or np.all(best < limit):
            break
        worst = {left[i] for i in np.flatnonzero(best == best.min())}
        out |= worst
        left = [i for i in left if i not in worst]
    return out


def _batches(faces: Sequence[OwnFace]) -> Iterator[list[tuple[RecordKey, list[OwnFace]]]]:
    """Records with their best faces, each picture once, in batches of some thousand faces."""
    batch: list[tuple[RecordKey, list[OwnFace]]] = []
    size = 0
    for key, group in groupby(faces, key=attrgetter("source", "source_id")):
        first: dict[object, OwnFace] = {}
        for face in sorted(group, key=lambda face: (-face.quality, face.image_id)):
            first.setdefault(face.sha256 or face.face_id, face)
        rows = list(first.values())[:_MOST_FACES]
        batch.append((key, rows))
        size += len(rows)
        if size >= _FACES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
