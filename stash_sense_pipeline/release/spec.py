"""Specification of a release: hosts, model pack, index parameters, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.release.build.content import ProfileKey
from stash_sense_pipeline.release.build.performers_db import DatabaseSpec
from stash_sense_pipeline.release.build.tattoos.tattoo_rows import TattooSpec
from stash_sense_pipeline.release.build.voyager_index import (
    IndexParams,
    IndexTask,
    Storage,
    flavour_params,
    tie_of,
)
from stash_sense_pipeline.release.contract import (
    ADAFACE,
    REQUIRED_MODELS,
    Flavour,
)
from stash_sense_pipeline.release.sense2.contract import DIMENSIONS
from stash_sense_pipeline.release.versions import release_path
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY
from stash_sense_pipeline.settings.schema import Settings


@dataclass(frozen=True)
class Limits:
    """The quality that a release needs for publication, as shares from 0 to 1.

    `accept_shrink`: unexplained losses of people and faces do not forbid publication. `tie`: similarities this close are
    equal; None: those that float32 cannot tell apart.
    """

    answer_fidelity: float = 0.999
    recall_at_1: float = 0.999
    recall_at_100: float = 0.9
    recall_at_100_blocks: bool = False
    self_retrieval: float = 0.99
    shrink: float = 0.02
    accept_shrink: bool = False
    tie: float | None = None


def small_limits(full: Limits) -> Limits:
    """The limits of the flavour small: those of the flavour full, for distances that are rounded.

    The last of the 100 neighbours change places most. The sidecar does not answer with them, so they do not block.
    """
    return replace(full, tie=tie_of(Storage.E4M3), recall_at_100_blocks=False)


@dataclass(frozen=True)
class ReleaseSpec:
    """What a release is made of, apart from the catalog.

    `hosts`: universal-id host of each stash-box by its short name. `models`: embedders that get an index; each must
    be in the pack. `profile_key` finds the site and id of an external URL; with None the release has no external URLs.
    `suppressions`: the list that the finished files are checked against; suppressed records are kept out of the catalog
    before. `limits`: the quality that is required for publication. `small`: that of the flavour small; None: it is not
    made. `priority`: stash-boxes, the first that a person has gives the universal id and the name. `namesakes`: the
    fields that tell people of one name apart, see shown_names. `tattoos`: None when the release has no tattoos.
    """

    hosts: Mapping[str, str]
    pack: ModelPack
    index: IndexParams = field(default_factory=IndexParams)
    models: tuple[str, ...] = REQUIRED_MODELS
    profile_key: ProfileKey | None = None
    suppressions: Suppressions = NO_SUPPRESSIONS
    limits: Limits = field(default_factory=Limits)
    small: Limits | None = None
    priority: tuple[str, ...] = ENDPOINT_PRIORITY
    namesakes: tuple[str, ...] = ()
    tattoos: TattooSpec | None = None

    @property
    def database(self) -> DatabaseSpec:
        """The spec of performers.db."""
        return DatabaseSpec(self.hosts, self.profile_key, self.priority, self.tattoos)

    @property
    def flavours(self) -> tuple[Flavour, ...]:
        """The flavours that are made, full first."""
        return tuple(Flavour) if self.small is not None else (Flavour.FULL,)

    def of(self, flavour: Flavour) -> ReleaseSpec:
        """The spec of one flavour: its index parameters and its limits."""
        own = {Flavour.FULL: self.limits, Flavour.SMALL: self.small}[flavour] or Limits()
        return replace(self, index=flavour_params(self.index, flavour), limits=own)


def index_tasks(
    models: Sequence[str], params: IndexParams, flavours: Sequence[Flavour], latest: Path | None
) -> list[IndexTask]:
    """The indices of all flavours. `latest`: the newest release, of which equal indices are used again."""
    return [
        IndexTask(
            model,
            flavour_params(params, flavour),
            None if latest is None else release_path(latest.parent, latest.name, flavour),
            flavour,
        )
        for flavour in flavours
        for model in models
    ]


@dataclass(frozen=True)
class Sense2Spec:
    """What a sense2 release is made of, apart from the catalog.

    `hosts`: the stash-boxes by short name; each of their records is a performer. `model`: the embedder of `pack` that made
    the vectors. Raises ConfigurationError unless it gives 512 numbers. `second`: `pack` is the second pack, with trusted
    faces of its own. `suppressions`: the list that the files are checked against. `priority`: stash-boxes, the first that
    a person has shows the faces of reference sites. `shrink`: the share of performers or faces that may be lost without an
    explanation; `accept_shrink`: any share may.
    """

    hosts: Mapping[str, str]
    pack: ModelPack
    model: str
    suppressions: Suppressions = NO_SUPPRESSIONS
    priority: tuple[str, ...] = ENDPOINT_PRIORITY
    second: bool = False
    shrink: float = 0.02
    accept_shrink: bool = False

    def __post_init__(self) -> None:
        fitting = sense2_models(self.pack)
        if self.model not in fitting:
            raise ConfigurationError(
                f"model pack {self.pack.name} has no embedder {self.model} with {DIMENSIONS} numbers; "
                f"it has {', '.join(fitting) or 'none'}"
            )


def sense2_models(pack: ModelPack) -> tuple[str, ...]:
    """The embedders of a pack with as many numbers as a sense2 release needs."""
    return tuple(sorted(name for name, each in pack.embedders.items() if each.dim == DIMENSIONS))


def sense2_spec(
    settings: Settings,
    second_pack: ModelPack | None,
    suppressions: Suppressions,
    *,
    accept_shrink: bool = False,
) -> Sense2Spec:
    """The spec of a release with the faces of the second pack. ConfigurationError unless it has one embedder for it.

    `accept_shrink` allows unexplained losses of performers and faces.
    """
    if second_pack is None:
        raise ConfigurationError(
            "a sense2 release needs a second model pack; set global.second_pack in sources.yaml, for instance to sense2"
        )
    fitting = sense2_models(second_pack)
    if len(fitting) != 1:
        raise ConfigurationError(
            f"model pack {second_pack.name} has {len(fitting)} embedders with {DIMENSIONS} numbers, and a sense2 release "
            "holds vectors of one; choose another pack for global.second_pack"
        )
    return Sense2Spec(
        hosts={name: box.host for name, box in settings.stash_boxes.items()},
        pack=second_pack,
        model=fitting[0],
        suppressions=suppressions,
        priority=settings.export.endpoint_priority,
        second=True,
        shrink=settings.export.max_shrink,
        accept_shrink=accept_shrink,
    )


def index_models(settings: Settings, pack: ModelPack) -> tuple[str, ...]:
    """Embedders that get an index: the two required ones, and AdaFace when the settings want it and `pack` has it."""
    wants_adaface = settings.export.adaface and ADAFACE in pack.embedders
    return (*REQUIRED_MODELS, ADAFACE) if wants_adaface else REQUIRED_MODELS


def tattoo_spec(settings: Settings, pack: ModelPack) -> TattooSpec | None:
    """The spec of tattoos; None when faces.tattoos is off. ModelPackError when it is on and `pack` lacks the networks."""
    networks = pack.for_tattoos(settings.faces.tattoos).tattoo
    if networks is None:
        return None
    return TattooSpec(pack.name, networks.models, settings.export.min_tattoo_coverage)


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
    limits = Limits(
        answer_fidelity=settings.export.min_answer_fidelity,
        recall_at_1=settings.export.min_recall_at_1,
        recall_at_100=settings.export.min_recall_at_100,
        recall_at_100_blocks=settings.export.recall_at_100_blocks,
        shrink=settings.export.max_shrink,
        accept_shrink=accept_shrink,
        tie=tie_of(index.storage),
    )
    return ReleaseSpec(
        hosts={name: box.host for name, box in settings.stash_boxes.items()},
        pack=pack,
        index=index,
        models=index_models(settings, pack),
        suppressions=suppressions,
        limits=limits,
        small=small_limits(limits) if Flavour.SMALL in settings.export.flavours else None,
        priority=settings.export.endpoint_priority,
        namesakes=settings.export.namesakes,
        tattoos=tattoo_spec(settings, pack),
    )
