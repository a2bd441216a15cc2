"""The checks before publication: indices against the catalog, release against the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.schema import trusted_faces
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.build.graph.exact_search import Positions
from stash_sense_pipeline.release.checks.accuracy.answer_fidelity import (
    AnswerFidelity,
    Neighbours,
    answer_fidelity,
)
from stash_sense_pipeline.release.checks.accuracy.confusable_people import (
    ConfusablePeople,
    SimilarityDistribution,
    find_confusable,
    similarity_distribution,
)
from stash_sense_pipeline.release.checks.accuracy.left_out import PHOTOGRAPHS, ExactSample, choose_photographs
from stash_sense_pipeline.release.checks.accuracy.linked_neighbours import linked_neighbours
from stash_sense_pipeline.release.checks.accuracy.measurement import Accuracy, measure_accuracy
from stash_sense_pipeline.release.checks.accuracy.released_people import read_released_people
from stash_sense_pipeline.release.checks.accuracy.thresholds import people_by_faces
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.retrieval import (
    Answers,
    HeldOutBucket,
    RecallReport,
    ask_index,
    fidelity_check,
    held_out_check,
    held_out_retrieval,
    index_content_check,
    index_recall,
    load_index,
    recall_checks,
    self_retrieval_check,
)
from stash_sense_pipeline.release.checks.shrinkage import deleted_check, find_losses, shrink_check
from stash_sense_pipeline.release.checks.threshold_check import threshold_check
from stash_sense_pipeline.release.contract import FACES_JSON, INDEX_FILES, REQUIRED_MODELS
from stash_sense_pipeline.release.shown_people import ShownPeople, count_shown_people
from stash_sense_pipeline.release.spec import ReleaseSpec


@dataclass(frozen=True)
class Figures:
    """The numbers of the quality report. They hold no names: people and faces are given by id."""

    people_by_faces: Mapping[str, int]
    faces_by_source: Mapping[str, int]
    recall: tuple[RecallReport, ...]
    held_out: tuple[HeldOutBucket, ...]
    similarities: Mapping[str, SimilarityDistribution]
    accuracy: Accuracy
    confusable: ConfusablePeople
    fidelity: AnswerFidelity
    shown: ShownPeople


@dataclass(frozen=True)
class Proof:
    """The results of the checks. `figures` is None when an index does not hold the catalog's vectors."""

    checks: tuple[CheckResult, ...]
    figures: Figures | None


def prove_release(
    engine: sa.Engine,
    release: Path,
    vectors: ReleaseVectors,
    spec: ReleaseSpec,
    previous: Path | None,
) -> Proof:
    """Checks a staged release against the catalog that it was built from, and against the `previous` release if any.

    `vectors` are the catalog's, of each model that has an index in the release. One index at a time is held in memory,
    in a large release beside the vectors of its model only. Raises ReleaseError when the previous release cannot be read,
    or when the vectors in the catalog changed.
    """
    limits = spec.limits
    checks = [deleted_check(engine, release)]
    if previous is not None:
        losses = find_losses(engine, previous, release, spec.suppressions)
        checks.append(shrink_check(losses, allowed=limits.shrink, accepted=limits.accept_shrink))
    else:
        checks.append(CheckResult("no_unexplained_shrink", True, "the first release"))
    checks.append(one_pack_check(vectors, spec.pack))
    accuracy = measure_accuracy(vectors, read_released_people(release))
    photographs = choose_photographs(vectors.order.performer_ids, PHOTOGRAPHS)
    indices = prove_indices(release, vectors, spec, accuracy, photographs)
    checks += indices.checks
    if indices.answers is None:
        return Proof(tuple(checks), None)
    held_out = held_out_retrieval(vectors.order, accuracy.left_out)
    checks += [held_out_check(held_out), threshold_check(accuracy.thresholds)]
    with ThreadPoolExecutor(max_workers=1) as beside:
        similarities = beside.submit(_similarities, vectors)
        confusable = find_confusable(vectors, photographs, indices.answers.proposed)
    return Proof(
        tuple(checks),
        Figures(
            people_by_faces=people_by_faces(vectors.order),
            faces_by_source=_faces_by_source(engine),
            recall=indices.answers.recall,
            held_out=held_out,
            similarities=similarities.result(),
            accuracy=accuracy,
            confusable=confusable,
            fidelity=indices.answers.fidelity,
            shown=count_shown_people(release),
        ),
    )


@dataclass(frozen=True)
class IndexAnswers:
    """What the indices of one flavour answer: their recall, the fidelity, and the neighbours of photographs (q, k)."""

    recall: tuple[RecallReport, ...]
    fidelity: AnswerFidelity
    proposed: Mapping[str, NDArray[np.int32]]


@dataclass(frozen=True)
class IndexProof:
    """The results of the checks of the indices. `answers` is None when an index does not hold the catalog's vectors."""

    checks: tuple[CheckResult, ...]
    answers: IndexAnswers | None


def prove_indices(
    release: Path,
    vectors: ReleaseVectors,
    spec: ReleaseSpec,
    accuracy: Accuracy,
    photographs: Positions | None = None,
) -> IndexProof:
    """Checks the indices of one flavour: that they hold the catalog's vectors, and how well they answer.

    `spec`: that of the flavour. `photographs`: positions for which the required indices propose neighbours. One index at
    a time is held in memory.
    """
    limits, sample = spec.limits, accuracy.left_out.sample
    asked = _Asked(sample, photographs)
    checks: list[CheckResult] = []
    found: dict[str, _OfOneIndex] = {}
    for model in vectors.unit:
        vectors.make_room(model)
        content, of_index = _prove_index(release, model, vectors, spec, asked)
        checks.append(content)
        if of_index is None:
            return IndexProof(tuple(checks), None)
        found[model] = of_index
        checks += recall_checks(
            of_index.recall,
            limits.recall_at_1,
            limits.recall_at_100,
            far_blocks=limits.recall_at_100_blocks,
        )
    answers = {model: of_index.answers for model, of_index in found.items()}
    fidelity = answer_fidelity(
        vectors.order.performer_ids,
        sample.positions,
        sample.neighbours,
        {model: Neighbours(answers[model].ids, answers[model].distances) for model in REQUIRED_MODELS},
        limits.tie or 0.0,
    )
    checks.append(fidelity_check(fidelity, limits.answer_fidelity))
    owners = read_json(release / FACES_JSON, LARGE)
    checks.append(self_retrieval_check(owners, answers, limits.self_retrieval))
    recall = tuple(of_index.recall for of_index in found.values())
    proposed = {model: each.proposed for model, each in found.items() if each.proposed is not None}
    return IndexProof(tuple(checks), IndexAnswers(recall, fidelity, proposed))


@dataclass(frozen=True)
class _Asked:
    """The faces that an index is asked for: a sample with the answers of exact search, and photographs, if any."""

    sample: ExactSample
    photographs: Positions | None


@dataclass(frozen=True)
class _OfOneIndex:
    """What one index answers to sampled faces, its recall, and the neighbours of photographs (q, k), if asked for."""

    answers: Answers
    recall: RecallReport
    proposed: NDArray[np.int32] | None


def _prove_index(
    release: Path,
    model: str,
    vectors: ReleaseVectors,
    spec: ReleaseSpec,
    asked: _Asked,
) -> tuple[CheckResult, _OfOneIndex | None]:
    """Whether the index of `model` holds the catalog's vectors, and if so, what it answers."""
    unit = vectors.unit[model]
    path = release / INDEX_FILES[model]
    index = load_index(path)
    content = index_content_check(model, index, unit, spec.index.storage)
    if not content.passed:
        return content, None
    answers = ask_index(index, unit, asked.sample.positions)
    # It takes more than a gigabyte.
    del index
    proposed = None
    if asked.photographs is not None and model in REQUIRED_MODELS:
        proposed = linked_neighbours(path, unit, asked.photographs, vectors.order.performer_ids)
    known = asked.sample.neighbours.get(model)
    similarities = None if known is None else np.asarray(1 - known.distances)
    recall = index_recall(model, answers, unit, similarities, spec.limits.tie)
    return content, _OfOneIndex(answers, recall, proposed)


def one_pack_check(vectors: ReleaseVectors, pack: ModelPack) -> CheckResult:
    """Every vector was made by the pack in use."""
    other_models = [
        model
        for model, facts in vectors.facts.items()
        if model not in pack.embedders
        or (facts.pack, facts.model_digest) != (pack.name, pack.embedders[model].digest)
    ]
    numbers = {"faces": len(vectors.order), "models": len(vectors.unit)}
    if other_models:
        return CheckResult(
            "one_pack",
            False,
            f"the {other_models[0]} vectors were not made by pack {pack.name}; embed all faces again",
            numbers=numbers,
        )
    return CheckResult(
        "one_pack",
        True,
        f"{pack.name} made the {', '.join(vectors.unit)} vectors of all {len(vectors.order)} faces",
        numbers=numbers,
    )


def _similarities(vectors: ReleaseVectors) -> dict[str, SimilarityDistribution]:
    return {model: similarity_distribution(vectors.order, unit) for model, unit in vectors.unit.items()}


def _faces_by_source(engine: sa.Engine) -> dict[str, int]:
    with reading(engine) as connection:
        sources = connection.execute(sa.select(trusted_faces.c.source)).scalars()
        return dict(sorted(Counter(sources).items()))
