"""What a release is made of, from the operator's settings and the model pack in use."""

from __future__ import annotations

from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release.build.voyager_index import IndexParams
from stash_sense_pipeline.release.checks.quality_gate import Limits
from stash_sense_pipeline.release.contract import ADAFACE, REQUIRED_MODELS
from stash_sense_pipeline.release.distribution.upload import Destination
from stash_sense_pipeline.release.publish import ReleaseSpec
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings


def index_models(settings: Settings, pack: ModelPack) -> tuple[str, ...]:
    """Embedders that get an index: the two that the sidecar asks, and AdaFace where it is wanted and `pack` has it."""
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
    """The spec of a release with the vectors of `pack`; `accept_shrink` lets people vanish without an explanation.

    Profile URLs stay out: the sidecar does not read them, and some are personal accounts.
    """
    return ReleaseSpec(
        hosts={name: box.host for name, box in settings.stash_boxes.items()},
        pack=pack,
        index=index,
        models=index_models(settings, pack),
        suppressions=suppressions,
        limits=Limits(
            recall_at_1=settings.export.min_recall_at_1,
            recall_at_100=settings.export.min_recall_at_100,
            recall_at_100_blocks=settings.export.recall_at_100_blocks,
            shrink=settings.export.max_shrink,
            accept_shrink=accept_shrink,
        ),
    )


def upload_destination(settings: Settings, environment: Environment) -> Destination:
    """Where releases are uploaded to. Raises ConfigurationError without a repository or a token."""
    token = environment.github_token
    if token is None:
        raise ConfigurationError(
            "GITHUB_TOKEN is not set; it needs write access to the contents of the repository"
        )
    return Destination(settings.export.github.repository, settings.export.github.api, token)
