"""Group release: performers.db, and the verified release made of it and the indices."""

from datetime import UTC, datetime

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import (
    contract_check,
    enough_faces_check,
    numbers,
    one_line_failures,
    preview,
)
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import IndexConfig
from stash_sense_pipeline.settings import Environment, Settings

# One name for all runs: a step that is materialized by itself finds what the others staged.
STAGING = "next"


def release_assets(index_keys: list[dg.AssetKey]) -> list[dg.AssetsDefinition]:
    """performers_db and release."""

    @dg.asset(
        key=names.PERFORMERS_DB,
        deps=[names.IDENTITY_GRAPH, names.TRUSTED_FACES],
        group_name=names.Group.RELEASE.value,
        kinds={"sqlite"},
        owners=names.OWNERS,
        code_version="1",
    )
    def performers_db(
        settings: dg.ResourceParam[Settings],
        environment: dg.ResourceParam[Environment],
        catalog: dg.ResourceParam[Catalog],
    ) -> dg.MaterializeResult:
        """The performers of the release with their stash-box ids, aliases and faces, as the sidecar's SQLite file."""
        from stash_sense_pipeline.release.database import stage_performers_db
        from stash_sense_pipeline.release.staging import open_staging

        hosts = {name: box.host for name, box in settings.stash_boxes.items()}
        with one_line_failures():
            staging = open_staging(environment.data_dir, STAGING)
            report = stage_performers_db(catalog.engine, staging, hosts)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.content_digest),
            metadata={
                **numbers(report),
                "dagster/row_count": report.performers,
                "path": dg.MetadataValue.path(str(staging.release / "performers.db")),
                "sha256": report.sha256,
            },
        )

    @dg.asset(
        key=names.RELEASE,
        deps=[*index_keys, names.PERFORMERS_DB],
        group_name=names.Group.RELEASE.value,
        kinds={"zip"},
        owners=names.OWNERS,
        code_version="1",
        check_specs=[
            dg.AssetCheckSpec(
                "contract", asset=names.RELEASE, description="Every line of the sidecar's contract holds."
            ),
            dg.AssetCheckSpec(
                "enough_faces",
                asset=names.RELEASE,
                description="Each index has the 100 faces that the sidecar asks for in a query.",
            ),
        ],
    )
    def release(
        context: dg.AssetExecutionContext,
        config: IndexConfig,
        settings: dg.ResourceParam[Settings],
        environment: dg.ResourceParam[Environment],
        catalog: dg.ResourceParam[Catalog],
    ) -> dg.MaterializeResult:
        """A release that the Stash Sense sidecar loads: files, manifest and zip, verified before it is published.

        Published by renames, `latest` last; when nothing changed since the last release, that one stays the newest.
        """
        from stash_sense_pipeline.faces.packs import load_pack
        from stash_sense_pipeline.privacy.current import current_suppressions
        from stash_sense_pipeline.release.data_card import write_data_card
        from stash_sense_pipeline.release.publish import publish_staged
        from stash_sense_pipeline.release.spec import release_spec
        from stash_sense_pipeline.release.staging import open_staging

        with one_line_failures():
            pack = load_pack(environment.model_pack, environment.models_dir)
            suppressions = current_suppressions(catalog.engine, environment, settings.names)
            report = publish_staged(
                catalog.engine,
                environment.data_dir,
                open_staging(environment.data_dir, STAGING),
                release_spec(settings, pack, config.params(settings.export.index), suppressions),
                datetime.now(UTC).date(),
            )
            if report.changed:
                models = [index.model for index in report.indices]
                write_data_card(catalog.engine, report.path, models, report.checks)
        context.log.info(
            "release %s: %s",
            report.version,
            "published" if report.changed else "nothing changed since it was made",
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.input_digest),
            metadata={
                **numbers(report),
                "version": report.version,
                "checks": len(report.checks),
                "checks_failed": sum(not check.passed for check in report.checks),
                "path": dg.MetadataValue.path(str(report.path)),
                "zip": dg.MetadataValue.path(str(report.archive)),
                "preview": preview([{"file": name, "bytes": size} for name, size in report.sizes.items()]),
                "manifest": dg.MetadataValue.json(dict(report.manifest)),
            },
            check_results=[contract_check(report.checks), enough_faces_check(report.faces)],
        )

    return [performers_db, release]
