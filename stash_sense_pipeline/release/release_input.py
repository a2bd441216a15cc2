"""Digest of everything that decides the content of a release."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.runtime_tuning import trim_heap
from stash_sense_pipeline.release.build.content import ReleaseContent, read_content
from stash_sense_pipeline.release.build.face_order import (
    FaceOrder,
    ReleaseVectors,
    VectorFacts,
    read_face_order,
    read_facts,
    read_unit_vectors,
)
from stash_sense_pipeline.release.build.shown_names import NamedPerson, shown_names
from stash_sense_pipeline.release.build.voyager_index import (
    index_digest,
)
from stash_sense_pipeline.release.contract import (
    RELEASE_FORMAT,
    Flavour,
)
from stash_sense_pipeline.release.spec import ReleaseSpec


@dataclass(frozen=True)
class ReleaseInput:
    """Digests of the input of a release. `digest` covers everything that decides what users get."""

    digest: str
    order: str
    content: str
    indices: Mapping[str, str]


def read_input(engine: sa.Engine, spec: ReleaseSpec) -> dict[Flavour, ReleaseInput]:
    """Digests over faces, people, vectors, models, hosts, rules and parameters, of each flavour of the spec.

    Times and the number of threads are left out. Raises the ReleaseErrors of a build, so that a catalog that cannot be
    released fails before anything is built.
    """
    content = _digested(read_content(engine, spec.hosts, spec.profile_key, spec.priority), spec)
    with reading(engine) as connection:
        _check_order(connection, content.order)
        facts = {model: read_facts(connection, content.order, model) for model in spec.models}
    return {flavour: _input(spec.of(flavour), content, facts) for flavour in spec.flavours}


def read_input_and_vectors(
    engine: sa.Engine, spec: ReleaseSpec
) -> tuple[dict[Flavour, ReleaseInput], ReleaseVectors]:
    """read_input, and the unit vectors: they are read once, for the digest and for the checks."""
    content = _digested(read_content(engine, spec.hosts, spec.profile_key, spec.priority), spec)
    # The vectors take up to two gigabytes.
    trim_heap()
    with reading(engine) as connection:
        _check_order(connection, content.order)
        vectors = read_unit_vectors(connection, content.order, spec.models)
    return {flavour: _input(spec.of(flavour), content, vectors.facts) for flavour in spec.flavours}, vectors


@dataclass(frozen=True)
class _Digested:
    """What the digests need of the content. `shown`: digest of the names that differ from the plain ones, if any."""

    order: FaceOrder
    content: str
    sources: tuple[str, ...]
    shown: str | None


def _digested(content: ReleaseContent, spec: ReleaseSpec) -> _Digested:
    people = (NamedPerson(each.performer_id, each.name, each.fields) for each in content.performers)
    shown = sorted(shown_names(people, spec.namesakes).items())
    digest = hashlib.sha256(json.dumps(shown).encode()).hexdigest() if shown else None
    return _Digested(content.order, content.digest, content.sources, digest)


def _check_order(connection: sa.Connection, order: FaceOrder) -> None:
    """Raises ReleaseError when the trusted faces have changed since the content was read."""
    if read_face_order(connection).digest != order.digest:
        raise ReleaseError("the trusted faces changed while the release was read; run publish again")


def _input(spec: ReleaseSpec, content: _Digested, facts: Mapping[str, VectorFacts]) -> ReleaseInput:
    for model, of_model in facts.items():
        check_pack(spec.pack, model, of_model.pack, of_model.model_digest)
    indices = {model: index_digest(of_model.digest, spec.index) for model, of_model in facts.items()}
    state = {
        "format": RELEASE_FORMAT,
        "order": content.order.digest,
        "content": content.content,
        "indices": indices,
        # A stash-box without records or faces in the release changes nothing for users.
        "hosts": {source: spec.hosts[source] for source in content.sources if source in spec.hosts},
        "detector": spec.pack.detector.digest,
        # A rule that changes no shown name changes nothing for users.
        **({"shown_names": content.shown} if content.shown is not None else {}),
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    return ReleaseInput(f"sha256:{digest}", content.order.digest, content.content, indices)


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
