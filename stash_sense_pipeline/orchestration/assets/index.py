"""Group index: one Voyager index for each embedder."""

from collections.abc import Iterator, Sequence

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import described_columns, numbers, one_line_failures
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import IndexConfig
from stash_sense_pipeline.orchestration.step_progress import ProgressFactory
from stash_sense_pipeline.release.contract import ADAFACE, REQUIRED_MODELS
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

_COLUMNS = {
    "id": ("integer", "0..n-1: the position of the face's performer in faces.json"),
    "vector": ("float32[dim]", "as the model gives it; the index compares by cosine"),
}
# Every embedder that can have an index, in the order in which indices are built.
_EMBEDDERS = (*REQUIRED_MODELS, ADAFACE)


def indices_asset(models: Sequence[str]) -> dg.AssetsDefinition:
    """`<model>_index` for each embedder name. All are one step: each build has one thread, and two builds use two cores."""
    decorate = dg.multi_asset(
        name=names.INDICES_STEP, specs=[_index_spec(model) for model in models], can_subset=True
    )
    return decorate(indices)


def indices(
    context: dg.AssetExecutionContext,
    config: IndexConfig,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
    progress: dg.ResourceParam[ProgressFactory],
) -> Iterator[dg.MaterializeResult]:
    """Builds the selected indices; of an embedder that the model pack lacks there is none, and the result says so."""
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.orchestration.assets.release import STAGING
    from stash_sense_pipeline.release.build.face_order import face_order
    from stash_sense_pipeline.release.build.staging import open_staging
    from stash_sense_pipeline.release.index_choice import stage_chosen_indices
    from stash_sense_pipeline.release.spec import index_models, index_tasks
    from stash_sense_pipeline.release.versions import latest_release

    wanted = [model for model in _EMBEDDERS if names.index_key(model) in context.selected_asset_keys]
    with one_line_failures():
        pack = load_pack(environment.model_pack, environment.models_dir)
        available = [model for model in wanted if model in index_models(settings, pack)]
        staging = open_staging(environment.data_dir, STAGING)
        latest = latest_release(environment.releases_dir)
        faces = len(face_order(catalog.engine))
        plan = config.plan(available, settings.export, latest, faces, threads=config.threads)
        reports = stage_chosen_indices(
            catalog.engine, plan, staging, latest=latest, progress=lambda name: progress(context, name)
        )
    for model in wanted:
        if model not in reports:
            context.log.warning("model pack %s has no %s, so no index of it is built", pack.name, model)
            yield dg.MaterializeResult(
                asset_key=names.index_key(model),
                data_version=dg.DataVersion("none"),
                metadata={"dagster/row_count": 0, "pack": pack.name},
            )
            continue
        report = reports[model]
        yield dg.MaterializeResult(
            asset_key=names.index_key(model),
            data_version=dg.DataVersion(report.input_digest),
            metadata={
                **numbers(report),
                "dagster/row_count": report.faces,
                "path": dg.MetadataValue.path(str(staging.release / report.file)),
                "sha256": report.sha256,
                "pack": report.pack,
                **{
                    f"{task.flavour}_size_bytes": reports[task.name].size_bytes
                    for task in index_tasks(available, plan.params, plan.flavours, None)
                    if task.model == model and task.name != model
                },
            },
        )


def _index_spec(model: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        names.index_key(model),
        deps=[names.TRUSTED_FACES],
        group_name=names.Group.INDEX.value,
        kinds={"voyager"},
        owners=names.OWNERS,
        code_version="1",
        metadata={"dagster/column_schema": described_columns(_COLUMNS)},
        description=f"Voyager index (cosine) over the {model} embeddings of all trusted faces, with dense ids 0..n-1. "
        "Rebuilt from the catalog each time, unless an index with the same input exists already.",
    )
