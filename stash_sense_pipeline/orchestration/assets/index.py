"""Group index: one Voyager index for each embedder of the release."""

from collections.abc import Sequence

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import numbers, one_line_failures
from stash_sense_pipeline.orchestration.progress import ProgressFactory
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import IndexConfig
from stash_sense_pipeline.settings import Environment, Settings


def index_assets(models: Sequence[str]) -> list[dg.AssetsDefinition]:
    """`<model>_index` for each embedder name."""
    return [_index_asset(model) for model in models]


def _index_asset(model: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=names.index_key(model),
        deps=[names.TRUSTED_FACES],
        group_name=names.Group.INDEX.value,
        kinds={"voyager"},
        owners=names.OWNERS,
        code_version="1",
        description=f"Voyager index (cosine) over the {model} embeddings of all trusted faces, with dense ids 0..n-1. "
        "Built anew from the catalog each time, unless the last release's index has the same input.",
    )
    def index(
        context: dg.AssetExecutionContext,
        config: IndexConfig,
        settings: dg.ResourceParam[Settings],
        environment: dg.ResourceParam[Environment],
        catalog: dg.ResourceParam[Catalog],
        progress: dg.ResourceParam[ProgressFactory],
    ) -> dg.MaterializeResult:
        from stash_sense_pipeline.orchestration.assets.release import STAGING
        from stash_sense_pipeline.release.index import stage_index
        from stash_sense_pipeline.release.staging import open_staging
        from stash_sense_pipeline.release.versions import latest_release

        with one_line_failures():
            staging = open_staging(environment.data_dir, STAGING)
            report = stage_index(
                catalog.engine,
                model,
                staging,
                config.params(),
                reuse=latest_release(environment.releases_dir),
                progress=progress(context.log, model),
            )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.input_digest),
            metadata={
                **numbers(report),
                "dagster/row_count": report.faces,
                "path": dg.MetadataValue.path(str(staging.release / report.file)),
                "sha256": report.sha256,
                "pack": report.pack,
            },
        )

    return index
