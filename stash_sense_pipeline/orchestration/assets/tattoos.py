"""Group faces: embeddings of the tattoos in pictures of faces. Only with faces.tattoos in sources.yaml."""

import threading

import dagster as dg

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.assets.faces import embedding_rules
from stash_sense_pipeline.orchestration.graceful_shutdown import interrupted, on_interrupt
from stash_sense_pipeline.orchestration.metadata import column_schema, numbers, one_line_failures, preview
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import EmbeddingConfig
from stash_sense_pipeline.orchestration.step_progress import ProgressFactory
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings


def tattoo_embeddings_asset(*, gpu: bool) -> dg.AssetsDefinition:
    """tattoo_embeddings; with `gpu` its pod on Kubernetes requests a GPU. Op tags can be set only when an asset is made."""
    decorate = dg.asset(
        key=names.TATTOO_EMBEDDINGS,
        deps=[names.ALIGNED_FACES],
        group_name=names.Group.FACES.value,
        kinds={"onnx", "table"},
        owners=names.OWNERS,
        code_version="1",
        # The limit on concurrent embeddings, and in containers the request for a GPU.
        pool=names.GPU_POOL,
        # Only the k8s executor reads these.
        op_tags={"dagster-k8s/config": names.K8S_GPU} if gpu else None,
    )
    return decorate(tattoo_embeddings)


def tattoo_embeddings(
    context: dg.AssetExecutionContext,
    config: EmbeddingConfig,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
    progress: dg.ResourceParam[ProgressFactory],
) -> dg.MaterializeResult:
    """Embeddings (float32 of length 1) of the tattoos of one source that have none, by the model pack's tattoo embedder."""
    from stash_sense_pipeline.catalog import schema
    from stash_sense_pipeline.catalog.queries import previews
    from stash_sense_pipeline.catalog.queries.embedding.tattoo_queue import count_vectors
    from stash_sense_pipeline.catalog.transactions import reading
    from stash_sense_pipeline.faces.crop_embedding import EmbeddingControl
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.faces.tattoos.embed_waiting import embed_waiting_tattoos

    source, stop = context.partition_key, threading.Event()
    with one_line_failures(), on_interrupt(stop.set):
        if not settings.source(source).enabled:
            raise ConfigurationError(
                f"{source} is not enabled in sources.yaml: none of its tattoos is embedded"
            )
        pack = load_pack(environment.model_pack, environment.models_dir)
        rules = embedding_rules(config, settings, environment)
        control = EmbeddingControl(progress(context, source), stop.is_set)
        report = embed_waiting_tattoos(catalog.engine, source, pack, rules, control)
    if report.re_embedded:
        context.log.info(
            f"{source}: {report.re_embedded} tattoos had vectors of another network; they now have those of {pack.name}"
        )
    if report.interrupted:
        raise interrupted(context, f"{source}: {report.embedded} tattoos are embedded, the rest waits")
    with reading(catalog.engine) as connection:
        rows = count_vectors(connection, source)
    return dg.MaterializeResult(
        metadata={
            **numbers(report),
            "pack": pack.name,
            "dagster/row_count": rows,
            "dagster/column_schema": column_schema(schema.tattoo_embeddings),
            "preview": preview(previews.newest_tattoos(catalog.engine, source)),
        }
    )
