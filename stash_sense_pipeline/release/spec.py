"""Specification of a release: hosts, model pack, index parameters, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.release.build.content import ProfileKey
from stash_sense_pipeline.release.build.voyager_index import (
    IndexParams,
)
from stash_sense_pipeline.release.contract import (
    ADAFACE,
    REQUIRED_MODELS,
)
from stash_sense_pipeline.settings.schema import Settings


@dataclass(frozen=True)
class Limits:
    """The quality that a release needs for publication, as shares from 0 to 1.

    `accept_shrink`: unexplained losses of people and faces do not forbid publication.
    """

    answer_fidelity: float = 0.999
    recall_at_1: float = 0.999
    recall_at_100: float = 0.9
    recall_at_100_blocks: bool = False
    self_retrieval: float = 0.99
    shrink: float = 0.02
    accept_shrink: bool = False


@dataclass(frozen=True)
class ReleaseSpec:
    """What a release is made of, apart from the catalog.

    `hosts`: universal-id host of each stash-box by its short name. `models`: embedders that get an index; each must
    be in the pack. `profile_key` finds the site and id of an external URL; with None the release has no external URLs.
    `suppressions`: the list that the finished files are checked against; suppressed records are kept out of the catalog
    before. `limits`: the quality that is required for publication.
    """

    hosts: Mapping[str, str]
    pack: ModelPack
    index: IndexParams = field(default_factory=IndexParams)
    models: tuple[str, ...] = REQUIRED_MODELS
    profile_key: ProfileKey | None = None
    suppressions: Suppressions = NO_SUPPRESSIONS
    limits: Limits = field(default_factory=Limits)


def index_models(settings: Settings, pack: ModelPack) -> tuple[str, ...]:
    """Embedders that get an index: the two required ones, and AdaFace when the settings want it and `pack` has it."""
    wants_adaface = settings.export.adaface and ADAFACE in pack.embedders
    return (*REQUIRED_MODELS, ADAFACE) if wants_adaface else REQUIRED_MODELS


def release_spec(
    settings: Settings,
    pack: ModelPack,
    index: IndexParams,
    suppressions: Suppressions,
    *,
    accept_shrink: bool = False,
) -> ReleaseSpec:
    """The spec of a release with the vectors of `pack`. `accept_shrink` allows unexplained losses of people and faces.

    Profile URLs are left out: the sidecar does not read them, and some are personal accounts.
    """
    return ReleaseSpec(
        hosts={name: box.host for name, box in settings.stash_boxes.items()},
        pack=pack,
        index=index,
        models=index_models(settings, pack),
        suppressions=suppressions,
        limits=Limits(
            answer_fidelity=settings.export.min_answer_fidelity,
            recall_at_1=settings.export.min_recall_at_1,
            recall_at_100=settings.export.min_recall_at_100,
            recall_at_100_blocks=settings.export.recall_at_100_blocks,
            shrink=settings.export.max_shrink,
            accept_shrink=accept_shrink,
        ),
    )
