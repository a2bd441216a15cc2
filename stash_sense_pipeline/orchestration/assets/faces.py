"""Group faces: aligned faces and embeddings of each source."""

import asyncio
import threading
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.graceful_shutdown import interrupted, on_interrupt
from stash_sense_pipeline.orchestration.metadata import (
    column_schema,
    image_refusal_check,
    numbers,
    one_line_failures,
    preview,
    source_failure,
)
from stash_sense_pipeline.orchestration.resources import Catalog, SourceRun
from stash_sense_pipeline.orchestration.run_config import EmbeddingConfig, FacesConfig
from stash_sense_pipeline.orchestration.step_progress import ProgressFactory
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.run_overrides import RunOverrides, apply_overrides
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings
from stash_sense_pipeline.sources.connections import open_connector, open_site_connector

if TYPE_CHECKING:
    from stash_sense_pipeline.faces.collect import CollectReport
    from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
    from stash_sense_pipeline.faces.embed_waiting import EmbedReport
    from stash_sense_pipeline.faces.models.model_packs import ModelPack
    from stash_sense_pipeline.faces.requeue import Requeued


@dataclass(frozen=True)
class _Packs:
    """The packs of one run; `second` is None without a second pack."""

    first: "ModelPack"
    second: "ModelPack | None"


@dg.asset(
    key=names.ALIGNED_FACES,
    deps=[names.PERFORMER_TABLE],
    group_name=names.Group.FACES.value,
    kinds={"python", "onnx"},
    owners=names.OWNERS,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "no_mass_image_loss",
            asset=names.ALIGNED_FACES,
            description="In its last run the source refused no more images for the first time than the limit allows.",
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
    """Aligned face crops of one source, 112 x 112 pixels: its pending images are fetched, detected, aligned and graded.

    Images are held in memory only. A crop stays in the catalog until it is embedded.
    """
    from stash_sense_pipeline.catalog import schema
    from stash_sense_pipeline.catalog.queries import previews
    from stash_sense_pipeline.catalog.queries.status import face_counts
    from stash_sense_pipeline.catalog.queries.sync_state import mass_refusals
    from stash_sense_pipeline.catalog.source_lock import source_lock
    from stash_sense_pipeline.faces.embed_waiting import embedding_backlog
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.faces.requeue import load_second_pack
    from stash_sense_pipeline.faces.tattoos.embed_waiting import tattoo_backlog

    source = context.partition_key
    overrides = RunOverrides(
        source_max_faces={source: config.max_faces} if config.max_faces else {},
        max_faces_total=config.max_faces_total,
        completeness_threshold=config.completeness_threshold,
    )
    chosen = apply_overrides(settings, overrides)
    run = SourceRun(source, chosen, environment, catalog, progress(context, source))
    with one_line_failures():
        pack = load_pack(environment.model_pack, environment.models_dir).for_tattoos(settings.faces.tattoos)
        second = load_second_pack(chosen.global_.second_pack, environment.models_dir, pack)
        with source_lock(catalog.engine, source, context.log.info):
            report = asyncio.run(_collect(run, _Packs(pack, second), config.max_images))
    _log_collected(context, run, report)
    if report.interrupted:
        raise interrupted(context, f"{source}: {report.processed} images are stored, the rest waits")
    if report.outcome is not None:
        raise source_failure(source, report.outcome, report.message)
    return dg.MaterializeResult(
        metadata={
            **numbers(report),
            "reopened": asdict(report.reopened),
            "claims": asdict(report.claims),
            names.WAITING_FACES: embedding_backlog(catalog.engine, source, pack, second),
            names.WAITING_TATTOOS: tattoo_backlog(catalog.engine, source, pack),
            "dagster/row_count": face_counts(catalog.engine, source)[0],
            "dagster/column_schema": column_schema(schema.faces),
            "preview": preview(previews.newest_faces(catalog.engine, source)),
        },
        check_results=[image_refusal_check(source, mass_refusals(catalog.engine, [source]).get(source, {}))],
    )


def face_embeddings_asset(*, gpu: bool) -> dg.AssetsDefinition:
    """face_embeddings; with `gpu` its pod on Kubernetes requests a GPU. Op tags can be set only when an asset is made."""
    decorate = dg.asset(
        key=names.FACE_EMBEDDINGS,
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
    return decorate(face_embeddings)


def face_embeddings(
    context: dg.AssetExecutionContext,
    config: EmbeddingConfig,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
    progress: dg.ResourceParam[ProgressFactory],
) -> dg.MaterializeResult:
    """Embeddings (raw float32) of the aligned faces of one source that have none, by every embedder of the model pack."""
    from stash_sense_pipeline.catalog import schema
    from stash_sense_pipeline.catalog.queries import previews
    from stash_sense_pipeline.catalog.queries.status import face_counts
    from stash_sense_pipeline.faces.crop_embedding import EmbeddingControl
    from stash_sense_pipeline.faces.embed_waiting import embed_waiting, embed_waiting_of_second
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.faces.requeue import load_second_pack

    source, stop = context.partition_key, threading.Event()
    with one_line_failures(), on_interrupt(stop.set):
        if not settings.source(source).enabled:
            raise ConfigurationError(
                f"{source} is not enabled in sources.yaml: none of its faces is embedded"
            )
        pack = load_pack(environment.model_pack, environment.models_dir)
        second = load_second_pack(settings.global_.second_pack, environment.models_dir, pack)

        rules = embedding_rules(config, settings, environment)
        control = EmbeddingControl(progress(context, source), stop.is_set)
        report, of_second = embed_waiting(catalog.engine, source, pack, rules, control), None
        if second is not None and not report.interrupted:
            of_second = embed_waiting_of_second(catalog.engine, source, second, rules, control)
    if report.re_embedded:
        context.log.info(
            f"{source}: {report.re_embedded} faces had vectors of other networks; they now have those of {pack.name}"
        )
    _log_requeued(context, source, report.reopened)
    if report.interrupted or (of_second is not None and of_second.interrupted):
        raise interrupted(context, f"{source}: {report.embedded} faces are embedded, the rest waits")
    return dg.MaterializeResult(
        metadata={
            **numbers(report),
            "reopened": asdict(report.reopened),
            "pack": pack.name,
            **(_numbers_of_second(of_second) if of_second is not None else {}),
            "dagster/row_count": face_counts(catalog.engine, source)[1],
            "dagster/column_schema": column_schema(schema.embeddings),
            "preview": preview(previews.newest_embeddings(catalog.engine, source)),
        }
    )


def embedding_rules(
    config: EmbeddingConfig, settings: Settings, environment: Environment
) -> "EmbeddingRules":
    """How a run embeds, faces or tattoos."""
    from stash_sense_pipeline.faces.crop_embedding import EmbeddingRules
    from stash_sense_pipeline.faces.models.onnx_sessions import Device

    device = Device(config.device or environment.device)
    return EmbeddingRules(device, config.batch_size, settings.global_.keep_aligned_crops)


def _log_collected(context: dg.AssetExecutionContext, run: SourceRun, report: "CollectReport") -> None:
    from stash_sense_pipeline.sources.probing.build_estimate import duration_text

    source = run.source
    _log_requeued(context, source, report.reopened)
    _log_second_looks(context, run, report.reopened.second_pack)
    if unsearched := report.reopened.tattoos_unsearched:
        hours = unsearched / run.settings.source(source).rate_limit / 60
        context.log.warning(f"{source}: fetching them takes about {duration_text(hours)}")
    if report.claims.used:
        context.log.info(f"{source}: {report.claims.used} proven faces of a release came into use")
    for host, images in report.hosts_down.items():
        context.log.warning(f"{source}: {host} is down; {images} images wait for the next day")


def _log_requeued(context: dg.AssetExecutionContext, source: str, requeued: "Requeued") -> None:
    """Logs how many images are pending again because the model pack or the settings changed, one line for each reason."""
    reasons = {
        "another detector was used on them": requeued.other_detector,
        "their face lacks a vector of this pack and has no crop to make it from": requeued.crop_dropped,
        "the limits and filters that rejected them are looser now": requeued.looser_rules,
        "they were not searched for tattoos by the networks of this pack": requeued.tattoos_unsearched,
        "they were given up after fewer attempts than are allowed now": requeued.more_attempts,
    }
    for reason, images in reasons.items():
        if images:
            context.log.warning(f"{source}: {images} images will be fetched again: {reason}")


def _log_second_looks(context: dg.AssetExecutionContext, run: SourceRun, images: int) -> None:
    """Logs how many pictures were queued for the second pack, and how long their requests take at the source's rate."""
    if images:
        hours = images / run.settings.source(run.source).rate_limit / 60
        context.log.warning(
            f"{run.source}: {images} pictures will be fetched once more for the second pack, which takes about"
            f" {hours:.1f} hours at the rate limit; the faces of the first pack stay in use"
        )


def _numbers_of_second(report: "EmbedReport") -> dict[str, int]:
    """The numbers of the embedding by the second pack, as metadata."""
    return {"second_embedded": report.embedded, "second_crops_left": report.crops_left}


async def _collect(run: SourceRun, packs: _Packs, max_images: int | None) -> "CollectReport":
    """Collects the faces of one source until none is pending, `max_images` were fetched, or a signal arrives."""
    from stash_sense_pipeline.faces.collect import collect_faces
    from stash_sense_pipeline.faces.collection.run_context import CollectLimits
    from stash_sense_pipeline.privacy.enforcement import current_suppressions

    settings, engine = run.settings, run.catalog.engine
    source = settings.source(run.source)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with on_interrupt(lambda: loop.call_soon_threadsafe(stop.set)):
        if isinstance(source, ReferenceSiteSettings):
            return await _collect_from_site(run, source, packs, stop, max_images)
        async with open_connector(settings, run.environment, run.source) as connector:
            return await collect_faces(
                engine,
                source,
                packs.first,
                connector.client,
                connector.image_request,
                settings.global_,
                current_suppressions(engine, run.environment, settings.names),
                second=packs.second,
                limits=CollectLimits(max_images=max_images),
                progress=run.progress,
                stop=stop,
            )


async def _collect_from_site(
    run: SourceRun,
    site: ReferenceSiteSettings,
    packs: _Packs,
    stop: asyncio.Event,
    max_images: int | None,
) -> "CollectReport":
    """Like `_collect`, for a reference site. A site that refuses requests gets a cooldown of hours.

    No message holds an image address: on a reference site it names a person.
    """
    from stash_sense_pipeline.faces.collect import collect_faces
    from stash_sense_pipeline.faces.collection.run_context import CollectLimits
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.sources.cooldown import check_cooldown, is_refusal, start_cooldown
    from stash_sense_pipeline.sources.reference_sites.site_connector import read_referers

    engine, now = run.catalog.engine, datetime.now(UTC)
    check_cooldown(engine, site.name, now)
    if not site.fetch:
        # No request goes to this site, for images neither.
        site = site.model_copy(update={"max_faces": 0})
    async with open_site_connector(run.settings, run.environment, site) as connector:
        connector.referers = read_referers(engine, connector)
        report = await collect_faces(
            engine,
            site,
            packs.first,
            connector.client,
            connector.image_request,
            run.settings.global_,
            current_suppressions(engine, run.environment, run.settings.names),
            second=packs.second,
            limits=CollectLimits(max_images=max_images),
            progress=run.progress,
            stop=stop,
        )
    if report.outcome is None:
        return report
    message = f"{site.name}: the collection of images ended early ({report.outcome.value})"
    if is_refusal(report.outcome):
        until = start_cooldown(engine, site.name, now)
        message = f"{message}; the next request goes out after {until:%Y-%m-%d %H:%M} UTC"
    return replace(report, message=message)
