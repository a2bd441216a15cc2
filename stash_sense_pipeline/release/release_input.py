"""Digest of everything that decides the content of a release."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.runtime_tuning import trim_heap
from stash_sense_pipeline.release.build.content import read_content
from stash_sense_pipeline.release.build.face_order import (
    FaceOrder,
    ReleaseVectors,
    VectorFacts,
    read_face_order,
    read_facts,
    read_unit_vectors,
)
from stash_sense_pipeline.release.build.voyager_index import (
    index_digest,
)
from stash_sense_pipeline.release.contract import (
    RELEASE_FORMAT,
)
from stash_sense_pipeline.release.spec import ReleaseSpec


@dataclass(frozen=True)
class ReleaseInput:
    """Digests of the input of a release. `digest` covers everything that decides what users get."""

    digest: str
    order: str
    content: str
    indices: Mapping[str, str]


def read_input(engine: sa.Engine, spec: ReleaseSpec) -> ReleaseInput:
    """Digests over faces, people, vectors, models, hosts and parameters. Times and the number of threads are left out.

    Raises the ReleaseErrors of a build, so that a catalog that cannot be released fails before anything is built.
    """
    content = read_content(engine, spec.hosts, spec.profile_key)
    with reading(engine) as connection:
        _check_order(connection, content.order)
        facts = {model: read_facts(connection, content.order, model) for model in spec.models}
    return _input(spec, content.order, content.digest, content.sources, facts)


def read_input_and_vectors(engine: sa.Engine, spec: ReleaseSpec) -> tuple[ReleaseInput, ReleaseVectors]:
    """read_input, and the unit vectors: they are read once, for the digest and for the checks."""
    content = read_content(engine, spec.hosts, spec.profile_key)
    order, digest, sources = content.order, content.digest, content.sources
    # The vectors take up to two gigabytes.
    del content
    trim_heap()
    with reading(engine) as connection:
        _check_order(connection, order)
        vectors = read_unit_vectors(connection, order, spec.models)
    return _input(spec, order, digest, sources, vectors.facts), vectors


def _check_order(connection: sa.Connection, order: FaceOrder) -> None:
    """Raises ReleaseError when the trusted faces have changed since the content was read."""
    if read_face_order(connection).digest != order.digest:
        raise ReleaseError("the trusted faces changed while the release was read; run publish again")


def _input(
    spec: ReleaseSpec,
    order: FaceOrder,
    content: str,
    sources: Sequence[str],
    facts: Mapping[str, VectorFacts],
) -> ReleaseInput:
    for model, of_model in facts.items():
        check_pack(spec.pack, model, of_model.pack, of_model.model_digest)
    indices = {model: index_digest(of_model.digest, spec.index) for model, of_model in facts.items()}
    state = {
        "format": RELEASE_FORMAT,
        "order": order.digest,
        "content": content,
        "indices": indices,
        # A stash-box without records or faces in the release changes nothing for users.
        "hosts": {source: spec.hosts[source] for source in sources if source in spec.hosts},
        "detector": spec.pack.detector.digest,
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    return ReleaseInput(f"sha256:{digest}", order.digest, content, indices)


def check_pack(pack: ModelPack, model: str, made_by: str, model_digest: str) -> None:
    """Raises ReleaseError unless `pack` is the pack `made_by` and its embedder `model` has that digest."""
    embedder = pack.embedders.get(model)
    if embedder is None:
        raise ReleaseError(
            f"model pack {pack.name} has no embedder {model}; choose another pack or leave that index out"
        )
    if (made_by, model_digest) != (pack.name, embedder.digest):
        raise ReleaseError(
            f"the {model} embeddings were made by pack {made_by} (model {model_digest[:12]}), but the pack in use is "
            f"{pack.name} (model {embedder.digest[:12]}); embed all faces again"
        )
