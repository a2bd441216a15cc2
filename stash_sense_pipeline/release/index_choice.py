"""Chooses the parameters of the indices: the cheapest with which the sidecar answers as by exact search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.foundation.runtime_tuning import trim_heap
from stash_sense_pipeline.release.build.face_order import load_unit_vectors
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours, sample_positions
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.staging import Staging
from stash_sense_pipeline.release.build.voyager_index import (
    IndexParams,
    IndexReport,
    flavour_params,
    stage_indices,
    tie_of,
)
from stash_sense_pipeline.release.checks.accuracy.answer_fidelity import (
    AnswerFidelity,
    Neighbours,
    answer_fidelity,
)
from stash_sense_pipeline.release.checks.accuracy.left_out import PROBES
from stash_sense_pipeline.release.checks.retrieval import ask_index, index_recall, load_index
from stash_sense_pipeline.release.contract import INDEX_FILES, REQUIRED_MODELS, SIDECAR_K, Flavour
from stash_sense_pipeline.release.spec import index_tasks


class Corner(NamedTuple):
    """The parameters that decide the time of a build, the size of an index and its recall (see IndexParams)."""

    m: int
    ef_construction: int
    graph_dimensions: int | None = None
    exact_links: bool = False

    @property
    def key(self) -> tuple[int, int, bool]:
        """What tells corners of the ladder apart, in their order."""
        return self.m, self.ef_construction, self.exact_links


# From cheap to dear. docs/release.md has the measurements. A graph along axes gets the nearest neighbours as links when it
# is built, so it needs no high ef_construction. The last corner is for vectors that form no clusters.
LADDER = (
    Corner(24, 60, 128),
    Corner(32, 60, 128),
    Corner(48, 60, 128),
    Corner(64, 60, 128),
    Corner(96, 60, 128),
    Corner(128, 60, 128),
    Corner(128, 60, 128, exact_links=True),
)
# The corner at which a first release with more faces starts: lower ones find too few neighbours among vectors of usual
# difficulty, and their indices would be built in vain.
_FIRST_CORNERS = ((150_000, LADDER[4]), (50_000, LADDER[3]), (-1, LADDER[0]))
# The part of a staged release that says how its corner was chosen.
INDEX_CHOICE = "index-choice"
_LADDER_CHOSE, _SETTINGS_CHOSE = "ladder", "settings"


@dataclass(frozen=True)
class IndexPlan:
    """The indices to build: embedders, flavours, the first parameters of the flavour full, and the required quality.

    With `climbs`, the next corner of the ladder follows while the answer fidelity is below `limit`, or the recall at 1 or
    within the sidecar's distance is below `recall`.
    """

    models: tuple[str, ...]
    flavours: tuple[Flavour, ...]
    params: IndexParams
    climbs: bool
    limit: float
    recall: float = 0.999


class _Quality(NamedTuple):
    """The answer fidelity of the indices of a flavour, and their lowest recall at 1 or within the sidecar's distance."""

    fidelity: AnswerFidelity
    recall: float


def plan_indices(plan: IndexPlan, pinned: Corner | None, latest: Path | None, faces: int) -> IndexPlan:
    """The plan with `pinned` parameters, or those that a ladder chose for the `latest` release, or a low corner.

    `faces`: the number of faces in each index.
    """
    first = next(corner for more_than, corner in _FIRST_CORNERS if faces > more_than)
    corner = pinned or _last_corner(latest) or first
    params = replace(plan.params, **corner._asdict())
    return replace(plan, params=params, climbs=pinned is None)


def staged_params(plan: IndexPlan, staging: Staging) -> IndexParams:
    """The parameters of the staged indices when the plan climbs and they are staged, else those of the plan."""
    part = f"index-{REQUIRED_MODELS[0]}"
    if not (plan.climbs and staging.has_part(part)):
        return plan.params
    return replace(plan.params, **_corner_of(staging.read_part(part))._asdict())


def stage_chosen_indices(
    engine: sa.Engine,
    plan: IndexPlan,
    staging: Staging,
    *,
    latest: Path | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, IndexReport]:
    """Stages the indices of the plan, and notes in the staging directory how their parameters were chosen.

    The fidelity of a flavour is measured when both required indices are staged with the same parameters; the ladder ends
    where all flavours reach the limit. At its last corner the indices stay: the checks of the release refuse them.
    `latest`: the newest release, of which equal indices are used again. The results are by the names of the tasks.
    """
    params = plan.params
    while True:
        tasks = index_tasks(plan.models, params, plan.flavours, latest)
        reports = stage_indices(engine, tasks, staging, progress=progress)
        measured = {
            flavour: _measure(engine, staging.of(flavour), flavour_params(params, flavour))
            for flavour in plan.flavours
            if plan.climbs
        }
        poor = [
            each
            for each in measured.values()
            if each is not None and (each.fidelity.share < plan.limit or each.recall < plan.recall)
        ]
        higher = _next_corner(params)
        if not poor or higher is None:
            for flavour in plan.flavours:
                staging.of(flavour).write_part(INDEX_CHOICE, _note(plan, params, measured.get(flavour)))
            return reports
        params = replace(params, **higher._asdict())


def _note(plan: IndexPlan, params: IndexParams, quality: _Quality | None) -> dict[str, object]:
    """What the manifest says about the choice. It does not tell which corners were tried: two builds give the same bytes."""
    return {
        "by": _LADDER_CHOSE if plan.climbs else _SETTINGS_CHOSE,
        "m": params.m,
        "ef_construction": params.ef_construction,
        **({"exact_links": True} if params.exact_links else {}),
        "answer_fidelity": None if quality is None else round(quality.fidelity.share, 6),
        "required": plan.limit if plan.climbs else None,
    }


def _last_corner(latest: Path | None) -> Corner | None:
    """The corner that a ladder chose for the newest release."""
    if latest is None:
        return None
    try:
        choice = read_manifest(latest).get(INDEX_CHOICE.replace("-", "_"))
    except ReleaseError:
        # The publish reports a manifest that cannot be read.
        return None
    if not isinstance(choice, dict) or choice.get("by") != _LADDER_CHOSE:
        return None
    key = _corner_of(choice).key
    return next((each for each in LADDER if each.key == key), None)


def _corner_of(made: Mapping[str, Any]) -> Corner:
    """The corner that a report of an index, or a manifest, states."""
    return Corner(
        made.get("m", 0),
        made.get("ef_construction", 0),
        made.get("graph_dimensions"),
        made.get("exact_links", False),
    )


def _next_corner(params: IndexParams) -> Corner | None:
    key = _corner_of(params.content).key
    return next((each for each in LADDER if each.key > key), None)


def _measure(engine: sa.Engine, staging: Staging, params: IndexParams) -> _Quality | None:
    """The quality of the staged indices of the required models, or None when one has other parameters."""
    for model in REQUIRED_MODELS:
        part = f"index-{model}"
        if not staging.has_part(part):
            return None
        made = staging.read_part(part)
        fitting = params.fitting(made["faces"], made["dimensions"])
        if _corner_of(made).key != _corner_of(fitting.content).key:
            return None
    exact: dict[str, Neighbours] = {}
    indexed: dict[str, Neighbours] = {}
    recalls: list[float] = []
    for model in REQUIRED_MODELS:
        vectors = load_unit_vectors(engine, (model,))
        order, unit = vectors.order, vectors.unit[model]
        probes = sample_positions(len(order), PROBES)
        ids, similar = exact_neighbours(unit[probes], unit, min(SIDECAR_K, len(order)))
        exact[model] = Neighbours(ids, 1 - similar)
        answers = ask_index(load_index(staging.release / INDEX_FILES[model]), unit, probes)
        indexed[model] = Neighbours(answers.ids, answers.distances)
        found = index_recall(model, answers, unit, similar, tie_of(params.storage))
        recalls += [found.at_1, found.in_reach]
        # The vectors of one embedder take up to a gigabyte.
        del vectors, unit, answers
        trim_heap()
    rounding = tie_of(params.storage) or 0.0
    return _Quality(answer_fidelity(order.performer_ids, probes, exact, indexed, rounding), min(recalls))
