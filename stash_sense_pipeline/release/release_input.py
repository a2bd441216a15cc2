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
    load_unit_vectors,
    read_face_order,
    read_facts,
)
from stash_sense_pipeline.release.build.shown_names import NamedPerson, shown_names
from stash_sense_pipeline.release.build.tattoos.tattoo_index import TattooVectors
from stash_sense_pipeline.release.build.voyager_index import (
    index_digest,
)
from stash_sense_pipeline.release.contract import (
    RELEASE_FORMAT,
    TATTOO,
    Flavour,
)
from stash_sense_pipeline.release.spec import ReleaseSpec


@dataclass(frozen=True)
class ReleaseInput:
    """Digests of the input of a release. `digest` covers everything that decides what users get, and no id of the catalog.

    Two catalogs with the same content have the same `digest`. `order` is of face ids of the catalog: the parts of one
    release are compared by it.
    """

    digest: str
    order: str
    content: str
    indices: Mapping[str, str]
    # Of the rows and entries of tattoos; None when the release has none.
    tattoos: str | None = None


def read_input(engine: sa.Engine, spec: ReleaseSpec, tattoos: TattooVectors) -> dict[Flavour, ReleaseInput]:
    """Digests over faces, people, vectors, models, hosts, rules and parameters, of each flavour of the spec.

    `tattoos`: as load_tattoos read them before. ReleaseError when they are of faces that are not trusted any more.

    Times and the number of threads are left out. Raises the ReleaseErrors of a build, so that a catalog that cannot be
    released fails before anything is built.
    """
    content = _digested(read_content(engine, spec.hosts, spec.profile_key, spec.priority), spec)
    with reading(engine) as connection:
        _check_order(read_face_order(connection), content.order)
        facts = {model: read_facts(connection, content.order, model) for model in spec.models}
    return _inputs(spec, content, facts, tattoos)


def read_input_and_vectors(
    engine: sa.Engine, spec: ReleaseSpec, tattoos: TattooVectors
) -> tuple[dict[Flavour, ReleaseInput], ReleaseVectors]:
    """read_input, and the unit vectors: they are read once, for the digest and for the checks."""
    # One after the other, so that the content of all people is not in memory beside all vectors.
    content = _digested(read_content(engine, spec.hosts, spec.profile_key, spec.priority), spec)
    trim_heap()
    vectors = load_unit_vectors(engine, spec.models)
    _check_order(vectors.order, content.order)
    return _inputs(spec, content, vectors.facts, tattoos), vectors


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


def _check_order(of_vectors: FaceOrder, of_content: FaceOrder) -> None:
    """Raises ReleaseError when the trusted faces changed between the reads of the content and of the vectors."""
    if of_vectors.digest != of_content.digest:
        raise ReleaseError("the trusted faces changed while the release was read; run publish again")


def _check_tattoos(order: FaceOrder, tattoos: TattooVectors) -> None:
    """Raises ReleaseError when a tattoo is in a picture of a face that is not in the release."""
    owner = dict(zip(order.face_ids.tolist(), order.performer_ids.tolist(), strict=True))
    stale = [each for each in tattoos.tattoos.entries if owner.get(each.face_id) != each.performer_id]
    if stale:
        raise ReleaseError("the trusted faces changed while the tattoos were read; run publish again")


def _inputs(
    spec: ReleaseSpec, content: _Digested, facts: Mapping[str, VectorFacts], tattoos: TattooVectors
) -> dict[Flavour, ReleaseInput]:
    for model, of_model in facts.items():
        check_pack(spec.pack, model, of_model.pack, of_model.model_digest)
    _check_tattoos(content.order, tattoos)
    digests = {model: of_model.digest for model, of_model in facts.items()}
    if tattoos.tattoos.left_out is None:
        digests[TATTOO] = tattoos.digest
    return {
        flavour: _input(spec.of(flavour), content, digests, tattoos.tattoos.digest)
        for flavour in spec.flavours
    }


def _input(
    spec: ReleaseSpec, content: _Digested, digests: Mapping[str, str], tattoos: str | None
) -> ReleaseInput:
    """`digests`: of the vectors of each index. `tattoos`: of the rows of tattoos, if the release has any."""
    indices = {
        model: index_digest(digest, spec.index, None if model == TATTOO else content.order)
        for model, digest in digests.items()
    }
    state = {
        "format": RELEASE_FORMAT,
        "content": content.content,
        "indices": indices,
        # A stash-box without records or faces in the release changes nothing for users.
        "hosts": {source: spec.hosts[source] for source in content.sources if source in spec.hosts},
        "detector": spec.pack.detector.finding_digest,
        # A rule that changes no shown name changes nothing for users.
        **({"shown_names": content.shown} if content.shown is not None else {}),
        **({"tattoos": tattoos} if tattoos is not None else {}),
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    return ReleaseInput(f"sha256:{digest}", content.order.digest, content.content, indices, tattoos)


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
