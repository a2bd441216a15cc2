"""Group faces: aligned faces and embeddings of each source."""

import asyncio
import threading
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.progress import Progress, ProgressFactory
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.graceful_shutdown import on_interrupt
from stash_sense_pipeline.orchestration.metadata import (
    column_schema,
    image_refusal_check,
    numbers,
    one_line_failures,
    preview,
    source_failure,
)
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import EmbeddingConfig, FacesConfig
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.run_overrides import RunOverrides, apply_overrides
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings
from stash_sense_pipeline.sources.connections import open_connector, open_site_connector

if TYPE_CHECKING:
    from stash_sense_pipeline.faces.collect import CollectReport
    from stash_sense_pipeline.faces.models.model_packs import ModelPack
    from stash_sense_pipeline.faces.requeue import Requeued


def face_assets(sources: dg.PartitionsDefinition[str], gpu: bool = False) -> list[dg.AssetsDefinition]:
    """aligned_faces and face_embeddings, partitioned by source; with `gpu`, a pod of the latter asks for one."""

    @dg.asset(
        key=names.ALIGNED_FACES,
        deps=[names.PERFORMER_TABLE],
        partitions_def=sources,
        group_name=names.Group.FACES.value,
        kinds={"python", "onnx"},
        owners=names.OWNERS,
        code_version="1",
        check_specs=[
            dg.AssetCheckSpec(
                "no_mass_image_loss",
                asset=names.ALIGNED_FACES,
                description="No source refused more images for the first time in its last run than can be believed at once.",
            )
        ],
    )
    def aligned_faces(
        context: dg.AssetExecutionContext,
        config: FacesConfig,
        settings: dg.ResourceParam[Settings],
        environment: dg.ResourceParam[Environment],
        catalog: dg.ResourceParam[Catalog],
        progress: dg.ResourceParam[ProgressFactory],
    ) -> dg.MaterializeResult:
        """Aligned 112 x 112 face crops of one source: its pending images, fetched politely, detected, aligned and graded.

        Images are held in memory only. A crop waits in the catalog until it is embedded.
        """
        from stash_sense_pipeline.catalog import schema
        from stash_sense_pipeline.catalog.queries import previews
        from stash_sense_pipeline.catalog.queries.sync_state import mass_refusals
        from stash_sense_pipeline.catalog.source_lock import source_lock
        from stash_sense_pipeline.faces.models.model_packs import load_pack

        source = context.partition_key
        chosen = apply_overrides(
            settings,
            RunOverrides(
                source_max_faces={source: config.max_faces} if config.max_faces else {},
                completeness_threshold=config.completeness_threshold,
            ),
        )
        with one_line_failures():
            pack = load_pack(environment.model_pack, environment.models_dir)
            with source_lock(catalog.engine, source, context.log.info):
                report = asyncio.run(
                    _collect(catalog, chosen, environment, source, pack, progress(context.log, source))
                )
        _log_requeued(context, source, report.reopened)
        for host, images in report.hosts_down.items():
            context.log.warning(f"{source}: {host} is down; {images} images wait for the next day")
        if report.interrupted:
            raise _interrupted(context, f"{source}: {report.processed} images are stored, the rest waits")
        if report.outcome is not None:
            raise source_failure(source, report.outcome, report.message)
        return dg.MaterializeResult(
            metadata={
                **numbers(report),
                "reopened": asdict(report.reopened),
                "dagster/row_count": report.faces,
                "dagster/column_schema": column_schema(schema.faces),
                "preview": preview(previews.newest_faces(catalog.engine, source)),
            },
            check_results=[image_refusal_check(mass_refusals(catalog.engine, settings.names))],
        )

    @dg.asset(
        key=names.FACE_EMBEDDINGS,
        deps=[names.ALIGNED_FACES],
        partitions_def=sources,
        group_name=names.Group.FACES.value,
        kinds={"onnx", "table"},
        owners=names.OWNERS,
        code_version="1",
        # The limit on concurrent embeddings, and in containers the request for a GPU.
        pool=names.GPU_POOL,
        # Read by the k8s executor alone.
        op_tags={"dagster-k8s/config": names.K8S_GPU} if gpu else None,
    )
    def face_embeddings(
        context: dg.AssetExecutionContext,
        config: EmbeddingConfig,
        settings: dg.ResourceParam[Settings],
        environment: dg.ResourceParam[Environment],
        catalog: dg.ResourceParam[Catalog],
        progress: dg.ResourceParam[ProgressFactory],
    ) -> dg.MaterializeResult:
        """Embeddings of one source's aligned faces that wait for one, by every embedder of the model pack: raw float32."""
        from stash_sense_pipeline.catalog import schema
        from stash_sense_pipeline.catalog.queries import previews
        from stash_sense_pipeline.faces.embed_waiting import embed_waiting
        from stash_sense_pipeline.faces.models.model_packs import load_pack

        source, stop = context.partition_key, threading.Event()
        with one_line_failures(), on_interrupt(stop.set):
            if not settings.source(source).enabled:
                raise ConfigurationError(
                    f"{source} is not enabled in sources.yaml: none of its faces is embedded"
                )
            pack = load_pack(environment.model_pack, environment.models_dir)
            report = embed_waiting(
                catalog.engine,
                source,
                pack,
                device=config.device or environment.device,
                batch_size=config.batch_size,
                keep_crops=settings.global_.keep_aligned_crops,
                progress=progress(context.log, source),
                stop=stop.is_set,
            )
        if report.re_embedded:
            context.log.info(
                f"{source}: {report.re_embedded} faces had vectors of other networks; now of {pack.name}"
            )
        _log_requeued(context, source, report.reopened)
        if report.interrupted:
            raise _interrupted(
                context, f"{source}: {report.embedded} faces have their vectors, the rest waits"
            )
        return dg.MaterializeResult(
            metadata={
                **numbers(report),
                "reopened": asdict(report.reopened),
                "pack": pack.name,
                "dagster/row_count": report.embedded,
                "dagster/column_schema": column_schema(schema.embeddings),
                "preview": preview(previews.newest_embeddings(catalog.engine, source)),
            }
        )

    return [aligned_faces, face_embeddings]


def _log_requeued(context: dg.AssetExecutionContext, source: str, requeued: "Requeued") -> None:
    """Logs how many images wait again, and why: the model pack or the settings have changed."""
    reasons = {
        "another detector looked at them": requeued.other_detector,
        "their face lacks a vector of this pack and has no crop to make it of": requeued.crop_dropped,
        "the limits and filters that refused them are looser now": requeued.looser_rules,
        "they were given up after fewer attempts": requeued.more_attempts,
    }
    for reason, images in reasons.items():
        if images:
            context.log.warning(f"{source}: {images} images wait to be fetched again: {reason}")


def _interrupted(context: dg.AssetExecutionContext, what: str) -> dg.DagsterExecutionInterruptedError:
    """What makes Dagster call the run canceled, not failed."""
    context.log.warning(f"interrupted; {what}")
    return dg.DagsterExecutionInterruptedError(what)


async def _collect(
    catalog: Catalog,
    settings: Settings,
    environment: Environment,
    name: str,
    pack: "ModelPack",
    progress: Progress,
) -> "CollectReport":
    """Collects the faces of one source until it is done or somebody interrupts."""
    from stash_sense_pipeline.faces.collect import collect_faces
    from stash_sense_pipeline.privacy.enforcement import current_suppressions

    source = settings.source(name)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with on_interrupt(lambda: loop.call_soon_threadsafe(stop.set)):
        if isinstance(source, ReferenceSiteSettings):
            return await _collect_from_site(catalog, settings, environment, source, pack, progress, stop)
        async with open_connector(settings, environment, name) as connector:
            return await collect_faces(
                catalog.engine,
                source,
                pack,
                connector.client,
                connector.image_request,
                settings.global_,
                current_suppressions(catalog.engine, environment, settings.names),
                progress=progress,
                stop=stop,
            )


async def _collect_from_site(
    catalog: Catalog,
    settings: Settings,
    environment: Environment,
    site: ReferenceSiteSettings,
    pack: "ModelPack",
    progress: Progress,
    stop: asyncio.Event,
) -> "CollectReport":
    """As `_collect`. A site that refuses us is left alone for hours; addresses of its images, which name people, are in no
    message."""
    from stash_sense_pipeline.faces.collect import collect_faces
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.sources.cooldown import check_cooldown, is_refusal, start_cooldown
    from stash_sense_pipeline.sources.reference_sites.site_connector import read_referers

    now = datetime.now(UTC)
    check_cooldown(catalog.engine, site.name, now)
    if not site.fetch:
        # Nothing is asked of it, images neither.
        site = site.model_copy(update={"max_faces": 0})
    async with open_site_connector(settings, environment, site) as connector:
        connector.referers = read_referers(catalog.engine, connector)
        report = await collect_faces(
            catalog.engine,
            site,
            pack,
            connector.client,
            connector.image_request,
            settings.global_,
            current_suppressions(catalog.engine, environment, settings.names),
            progress=progress,
            stop=stop,
        )
    if report.outcome is None:
        return report
    message = f"{site.name}: the collection of images ended early ({report.outcome.value})"
    if is_refusal(report.outcome):
        until = start_cooldown(catalog.engine, site.name, now)
        message = f"{message}; it is left alone until {until:%Y-%m-%d %H:%M} UTC"
    return replace(report, message=message)
