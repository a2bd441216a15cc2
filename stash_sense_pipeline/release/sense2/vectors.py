"""The vectors of a sense2 release: of length 1, rounded to bfloat16, in the order of their embedding indices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.schema import embeddings, second_trusted_faces, trusted_faces
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.privacy.suppression.suppressed_faces import load_templates
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release.build.face_order import FaceOrder, block_starts, read_block
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.release_input import check_pack
from stash_sense_pipeline.release.sense2.contract import DIMENSIONS

Rounded = NDArray[np.uint16]


@dataclass(frozen=True)
class ModelVectors:
    """The bfloat16 vectors (n, 512) of one embedder, one a face, and the check that none is a refused face's."""

    rounded: Rounded
    model_digest: str
    refused_faces: CheckResult


def read_model_vectors(
    engine: sa.Engine, order: FaceOrder, pack: ModelPack, model: str, suppressions: Suppressions
) -> ModelVectors:
    """The vectors of `model` in `order`, 1 KB a face.

    Raises ReleaseError as read_block does, and when the vectors are not those of `pack` or have not 512 numbers.
    """
    rounded_to = np.empty((len(order), DIMENSIONS), dtype="<u2")
    near = 0
    digest = ""
    with reading(engine) as connection:
        templates = load_templates(connection, suppressions.key)
        others = _other_models(connection, order, pack, model) if len(templates) else ()
        for start in block_starts(order):
            block = read_block(connection, order, model, start)
            check_pack(pack, model, block.pack, block.model_digest)
            if block.vectors.shape[1] != DIMENSIONS:
                raise ReleaseError(
                    f"a {model} vector has {block.vectors.shape[1]} numbers, and a sense2 release needs {DIMENSIONS}; "
                    "choose another embedder"
                )
            digest = block.model_digest
            unit = block.vectors / block.lengths[:, None]
            rounded_to[start : start + len(unit)] = rounded(unit)
            if len(templates):
                blocks = {each: read_block(connection, order, each, start) for each in others}
                compared = {(each, made.model_digest): made.vectors for each, made in blocks.items()}
                near += int(templates.near({(model, digest): unit, **compared}).sum())
    comparable = sum((model, digest) in person for person in templates.people.values())
    return ModelVectors(rounded_to, digest, _refused(near, len(order), comparable, len(templates)))


def _other_models(
    connection: sa.Connection, order: FaceOrder, pack: ModelPack, model: str
) -> tuple[str, ...]:
    """The other embedders of the pack that have a vector of every face: a face is refused by all embedders together."""
    released = sa.union_all(sa.select(trusted_faces.c.face_id), sa.select(second_trusted_faces.c.face_id))
    query = (
        sa.select(embeddings.c.model, sa.func.count())
        .where(embeddings.c.pack == pack.name, embeddings.c.face_id.in_(released))
        .group_by(embeddings.c.model)
    )
    whole = {name for name, count in connection.execute(query) if count == len(order)}
    return tuple(name for name in pack.embedders if name in whole and name != model)


def _refused(near: int, count: int, comparable: int, templates: int) -> CheckResult:
    if near:
        return CheckResult(
            "refused_faces",
            False,
            f"{near} vectors are near a refused face; run `stash-sense suppress apply --all` and publish again",
        )
    if comparable < templates:
        return CheckResult(
            "refused_faces",
            False,
            f"none of {count} vectors is near one of {comparable} refused faces; {templates - comparable} others have no "
            "vector of this embedder, because they were refused before the pack was in use: their pictures and records are "
            "found, a new picture of them is not",
            Severity.WARNING,
        )
    return CheckResult(
        "refused_faces", True, f"none of {count} vectors is near one of {templates} refused faces"
    )


def rounded(vectors: NDArray[np.float32]) -> Rounded:
    """The nearest bfloat16 numbers, as their 16 bits; of two equally near ones, the even one. For finite numbers."""
    bits = np.ascontiguousarray(vectors, dtype="<f4").view("<u4")
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        "<u2"
    )


def widened(vectors: Rounded) -> NDArray[np.float32]:
    """The float32 numbers that are equal to these bfloat16 numbers."""
    return (vectors.astype("<u4") << np.uint32(16)).view("<f4")
