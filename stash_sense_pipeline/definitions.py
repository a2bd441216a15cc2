"""The Dagster code location: all assets, jobs, schedules, sensors and resources."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from stash_sense_pipeline.deployment.executors import chosen_executor
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.assets.faces import aligned_faces, face_embeddings_asset
from stash_sense_pipeline.orchestration.assets.identity import identity_graph, trusted_faces
from stash_sense_pipeline.orchestration.assets.index import indices_asset
from stash_sense_pipeline.orchestration.assets.ingest import performer_table
from stash_sense_pipeline.orchestration.assets.release import release_assets, uploads_release
from stash_sense_pipeline.orchestration.assets.sense2 import sense2_assets
from stash_sense_pipeline.orchestration.assets.tattoos import tattoo_embeddings_asset
from stash_sense_pipeline.orchestration.automation import alerts, build_job, jobs, schedules, sensors
from stash_sense_pipeline.orchestration.partitions import partitioned, source_partitions
from stash_sense_pipeline.orchestration.resources import build_resources
from stash_sense_pipeline.orchestration.source_freshness import sources_fresh
from stash_sense_pipeline.orchestration.table_metadata import with_settings
from stash_sense_pipeline.privacy.redaction.log_redaction import keep_secrets_out_of_logs
from stash_sense_pipeline.release.contract import ADAFACE, REQUIRED_MODELS
from stash_sense_pipeline.settings.effective import effective_settings
from stash_sense_pipeline.settings.environment import Environment, read_environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.settings.sources_file import load_settings


def build_defs(
    *,
    settings: Settings | None = None,
    environment: Environment | None = None,
    resources: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """The definitions for these settings and this environment, each by default that of this process.

    `resources` replaces resources by name. Raises ConfigurationError when sources.yaml or the environment is wrong.
    """
    environment = environment or read_environment(os.environ, Path.cwd())
    keep_secrets_out_of_logs(environment.secrets)
    settings = settings or load_settings(environment.sources_file)
    tattoos = settings.faces.tattoos
    embedders = (*REQUIRED_MODELS, ADAFACE) if settings.export.adaface else REQUIRED_MODELS
    sense2 = sense2_assets(settings)
    index_keys = [names.index_key(embedder) for embedder in embedders]
    return dg.Definitions(
        assets=[
            *partitioned(_by_source(settings, environment), source_partitions(settings)),
            identity_graph,
            trusted_faces,
            indices_asset(embedders),
            *release_assets(index_keys, upload=uploads_release(settings), tattoos=tattoos),
            *sense2,
        ],
        asset_checks=[sources_fresh],
        jobs=[
            jobs.refresh_source_job(),
            jobs.embed_faces_job(tattoos=tattoos),
            jobs.publish_job(
                index_keys,
                upload=uploads_release(settings),
                sense2=[asset.key for asset in sense2],
            ),
            jobs.check_freshness_job(),
            *build_job.build_jobs(),
        ],
        schedules=[
            schedules.nightly_enrichment(settings, environment),
            schedules.weekly_sweep(settings, environment),
            schedules.nightly_publish(environment),
            schedules.freshness_check(environment),
        ],
        sensors=[
            sensors.stash_box_updates(settings, environment),
            sensors.embed_when_refreshed(environment),
            sensors.publish_when_changed(environment),
            alerts.alert_on_failures(environment),
            alerts.alert_on_stale_sources(settings, environment),
            alerts.alert_on_failed_checks(environment),
        ],
        resources={**build_resources(settings, environment), **(resources or {})},
        executor=chosen_executor(environment.executor),
    )


def _by_source(settings: Settings, environment: Environment) -> list[dg.AssetsDefinition]:
    """The assets that are partitioned by source."""
    gpu = environment.device == "cuda"
    return [
        with_settings(performer_table, effective_settings(settings, environment, os.environ)),
        aligned_faces,
        face_embeddings_asset(gpu=gpu),
        *([tattoo_embeddings_asset(gpu=gpu)] if settings.faces.tattoos else []),
    ]


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of the code location `stash_sense`."""
    return build_defs()
