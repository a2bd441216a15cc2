"""Group ingest: the performers of each source."""

from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.graceful_shutdown import interrupted, run_until_interrupt
from stash_sense_pipeline.orchestration.metadata import (
    column_schema,
    field_drift_check,
    found_shares,
    numbers,
    one_line_failures,
    preview,
    source_failure,
)
from stash_sense_pipeline.orchestration.resources import Catalog, SourceRun
from stash_sense_pipeline.orchestration.run_config import IngestConfig, ReferenceMode
from stash_sense_pipeline.orchestration.step_progress import ProgressFactory
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings
from stash_sense_pipeline.sources.connections import open_connector, open_site_connector

if TYPE_CHECKING:
    from stash_sense_pipeline.sources.ingest_context import IngestContext
    from stash_sense_pipeline.sources.reference_sites.enrich import EnrichReport
    from stash_sense_pipeline.sources.stash_boxes.refresh import SyncReport


@dg.asset(
    key=names.PERFORMER_TABLE,
    group_name=names.Group.INGEST.value,
    kinds={"python", "table"},
    owners=names.OWNERS,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "no_mass_disappearance",
            asset=names.PERFORMER_TABLE,
            description="The source did not lose more records at once than the limit; a larger loss needs a second sweep.",
        ),
        dg.AssetCheckSpec(
            "no_field_drift",
            asset=names.PERFORMER_TABLE,
            description="On the pages of each reference site, every field is found about as often as before.",
        ),
    ],
)
def performer_table(
    context: dg.AssetExecutionContext,
    config: IngestConfig,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
    progress: dg.ResourceParam[ProgressFactory],
) -> dg.MaterializeResult:
    """The performers of one source: records, aliases, profile URLs, the ledger of their images, and tombstones.

    Stash-box: the first run reads every performer; later runs read what the source changed since, and from time to time
    sweep it. Reference site: the profiles that are due, of performers that a stash-box has.
    """
    from stash_sense_pipeline.catalog import schema
    from stash_sense_pipeline.catalog.queries import previews
    from stash_sense_pipeline.catalog.source_lock import source_lock
    from stash_sense_pipeline.sources.reference_sites.enrich import EnrichReport
    from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import stored_drifts

    source = context.partition_key
    run = SourceRun(source, settings, environment, catalog, progress(context, source))
    # A click on Materialize carries no tag, so the queue does not keep such a run from overlapping with another.
    with one_line_failures(), source_lock(catalog.engine, source, context.log.info):
        report = run_until_interrupt(_refresh(run, config))
    if report is None:
        raise interrupted(context, f"{source}: the records that were read are stored; the next run goes on")
    return dg.MaterializeResult(
        metadata={
            **numbers(report),
            **found_shares(report.fields if isinstance(report, EnrichReport) else {}),
            "mode": report.mode,
            "outcome": report.outcome.value,
            "dagster/row_count": report.live,
            "dagster/column_schema": column_schema(schema.source_performers),
            "preview": preview(previews.changed_performers(catalog.engine, source)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="no_mass_disappearance",
                passed=not report.refused,
                metadata={"source": source, "refused": report.refused, **report.missing},
            ),
            field_drift_check(source, stored_drifts(catalog.engine, [source]).get(source, ())),
        ],
    )


async def _refresh(run: SourceRun, config: IngestConfig) -> "SyncReport | EnrichReport":
    """Refreshes one source. Raises dg.Failure when it gave no usable answer."""
    source = run.settings.source(run.source)
    if isinstance(source, ReferenceSiteSettings):
        if config.reference_mode is not ReferenceMode.AS_CONFIGURED:
            source = source.model_copy(update={"reference_mode": config.reference_mode.value})
        report: SyncReport | EnrichReport = await _enrich(run, source)
    else:
        report = await _sync(run, config)
    if not report.outcome.is_answer:
        raise source_failure(run.source, report.outcome, report.message)
    return report


async def _sync(run: SourceRun, config: IngestConfig) -> "SyncReport":
    from stash_sense_pipeline.sources.stash_boxes.refresh import refresh_source

    async with open_connector(run.settings, run.environment, run.source) as connector:
        return await refresh_source(
            replace(_ingest_context(run), max_records=config.max_performers),
            run.settings.source(run.source),
            connector,
            config.sync.value,
        )


def _ingest_context(run: SourceRun) -> "IngestContext":
    """What the run shares with its source. Imports the operator's suppression list."""
    from stash_sense_pipeline.identity.relatives import IdentityRelatives
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.sources.ingest_context import IngestContext
    from stash_sense_pipeline.sources.sync_rules import SyncRules

    limits = run.settings.global_.mass_disappearance
    return IngestContext(
        run.catalog.engine,
        current_suppressions(run.catalog.engine, run.environment, run.settings.names),
        SyncRules(missing_count=limits.records, missing_share=limits.share, missing_always=limits.always),
        run.progress,
        data_dir=run.environment.data_dir,
        relatives=IdentityRelatives.for_settings(run.settings, run.environment),
    )


async def _enrich(run: SourceRun, site: ReferenceSiteSettings) -> "EnrichReport":
    """Reads profiles that any stash-box of sources.yaml lists, including one that this run does not refresh."""
    from stash_sense_pipeline.sources.reference_sites.enrich import enrich_source

    ranked = sorted(run.settings.stash_boxes.values(), key=lambda box: box.priority)
    boxes = {box.name: box.host for box in ranked}
    async with open_site_connector(run.settings, run.environment, site) as connector:
        return await enrich_source(_ingest_context(run), site, boxes, connector)
