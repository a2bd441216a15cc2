"""Group release: performers.db, the release, its upload."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.asset_checks import release_check_results, release_check_specs
from stash_sense_pipeline.orchestration.metadata import (
    described_columns,
    file_columns,
    numbers,
    one_line_failures,
    preview,
)
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import ReleaseConfig
from stash_sense_pipeline.orchestration.step_progress import ProgressFactory
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

if TYPE_CHECKING:
    from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
    from stash_sense_pipeline.release.build.face_order import ReleaseVectors
    from stash_sense_pipeline.release.build.tattoos.tattoo_rows import TattooSpec
    from stash_sense_pipeline.release.checks.accuracy.measurement import Accuracy
    from stash_sense_pipeline.release.distribution.cadence import Decision
    from stash_sense_pipeline.release.distribution.upload import UploadReport
    from stash_sense_pipeline.release.promotion import ReleaseReport

_PERFORMERS_JSON = {
    "universal id": ("string", "host:record of the performer; faces.json names it once for each face"),
    "name": ("string", "stage name"),
    "country": ("string", "ISO 3166 alpha-2, or empty"),
    "image_url": ("string", "address of an image of the performer at a source"),
    "face_count": ("integer", "faces in the indices"),
}
_PERFORMERS_DB = {
    "id": "the performer's number in this file",
    "canonical_name": "stage name",
    "disambiguation": "tells people of one name apart",
    "gender": "as the source says",
    "country": "ISO 3166 alpha-2",
    "ethnicity": "as the source says",
    "birth_date": "as the source says, as far as known",
    "death_date": "as the source says, as far as known",
    "height_cm": "height in centimetres",
    "eye_color": "as the source says",
    "hair_color": "as the source says",
    "career_start_year": "first year of the career",
    "career_end_year": "last year of the career",
    "scene_count": "empty: no source is asked for scenes",
    "stashdb_updated_at": "when the record was last changed at its stash-box",
    "face_count": "faces in the indices",
    "image_url": "address of an image of the performer at a source",
    "created_at": "when a source made the first record of the performer, by its own clock",
    "updated_at": "when a source last changed a record of the performer, by its own clock",
}
# One name for all runs: a step that is materialized alone finds the files that the others staged.
STAGING = "next"


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
    from stash_sense_pipeline.release.build.performers_db import DatabaseSpec, stage_performers_db
    from stash_sense_pipeline.release.build.staging import open_staging

    hosts = {name: box.host for name, box in settings.stash_boxes.items()}
    with one_line_failures():
        staging = open_staging(environment.data_dir, STAGING)
        tattoos = _tattoo_spec(settings, environment)
        spec = DatabaseSpec(hosts, priority=settings.export.endpoint_priority, tattoos=tattoos)
        report = stage_performers_db(catalog.engine, staging, spec)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.content_digest),
        metadata={
            **numbers(report),
            "dagster/row_count": report.performers,
            "dagster/column_schema": file_columns(
                staging.release / "performers.db", "performers", _PERFORMERS_DB
            ),
            "path": dg.MetadataValue.path(str(staging.release / "performers.db")),
            "sha256": report.sha256,
        },
    )


def _tattoo_spec(settings: Settings, environment: Environment) -> "TattooSpec | None":
    """The spec of tattoos. The model pack is not needed without them."""
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.release.spec import tattoo_spec

    if not settings.faces.tattoos:
        return None
    return tattoo_spec(settings, load_pack(environment.model_pack, environment.models_dir))


@dg.asset(
    key=names.RELEASE,
    # `release_assets` adds the indices.
    deps=[names.PERFORMERS_DB],
    group_name=names.Group.RELEASE.value,
    kinds={"zip"},
    owners=names.OWNERS,
    metadata={"dagster/column_schema": described_columns(_PERFORMERS_JSON)},
    code_version="1",
    check_specs=release_check_specs(),
)
def release(
    context: dg.AssetExecutionContext,
    config: ReleaseConfig,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """A release that the Stash Sense sidecar loads: files, manifest and zip, proven before it is published.

    It is published by renames, `latest` last. When nothing changed since the last release, that one stays the newest.
    The checks are recorded even when one of them forbids publishing.
    """
    from stash_sense_pipeline.release.checks.check_result import ReleaseRefusedError
    from stash_sense_pipeline.release.checks.threshold_check import recommended_distance
    from stash_sense_pipeline.release.reports.data_card import data_card_path, write_data_card
    from stash_sense_pipeline.release.reports.quality_report import PAGE, read_quality
    from stash_sense_pipeline.release.versions import report_directory

    with one_line_failures():
        try:
            report = _publish(catalog, environment, settings, config)
        except ReleaseRefusedError as refused:
            yield from release_check_results(refused.checks)
            raise
        # A run that was stopped after publishing may have left the data card to this one.
        wanted = report.changed or not data_card_path(report.path).exists()
        if wanted and report.vectors is not None:
            accuracy = _accuracy(report, report.vectors)
            write_data_card(catalog.engine, report.path, accuracy, report.checks)
        beside = report_directory(environment.releases_dir, report.version)
        quality, page = read_quality(beside), beside / PAGE
    context.log.info(
        "release %s: %s",
        report.version,
        "published" if report.changed else "nothing changed since it was made",
    )
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(report.input_digest),
        metadata={
            **numbers(report),
            "version": report.version,
            "recommended_distance": recommended_distance(report.checks),
            "checks": len(report.checks),
            "checks_failed": sum(not check.passed for check in report.checks),
            "path": dg.MetadataValue.path(str(report.path)),
            "zip": dg.MetadataValue.path(str(report.archive)),
            # A path, which the UI shows with a button to copy it: browsers do not follow a link from a page to a file.
            **({"report": dg.MetadataValue.path(str(page))} if page.is_file() else {}),
            "preview": preview([{"file": name, "bytes": size} for name, size in report.sizes.items()]),
            "manifest": dg.MetadataValue.json(dict(report.manifest)),
            **({"quality": dg.MetadataValue.md(quality)} if quality is not None else {}),
        },
        check_results=list(release_check_results(report.checks)),
    )


def _accuracy(report: "ReleaseReport", vectors: "ReleaseVectors") -> "Accuracy":
    """The accuracy that the checks measured, or measured again for a release that an earlier run published."""
    from stash_sense_pipeline.release.checks.accuracy.measurement import measure_accuracy
    from stash_sense_pipeline.release.checks.accuracy.released_people import read_released_people

    if report.figures is not None:
        return report.figures.accuracy
    return measure_accuracy(vectors, read_released_people(report.path))


def _publish(
    catalog: Catalog, environment: Environment, settings: Settings, config: ReleaseConfig
) -> "ReleaseReport":
    """Publishes what the other steps staged. Raises ReleaseRefusedError when a check forbids it."""
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.build.face_order import face_order
    from stash_sense_pipeline.release.build.staging import open_staging
    from stash_sense_pipeline.release.index_choice import staged_params
    from stash_sense_pipeline.release.publish import publish_staged
    from stash_sense_pipeline.release.spec import index_models, release_spec
    from stash_sense_pipeline.release.versions import latest_release

    pack = load_pack(environment.model_pack, environment.models_dir)
    staging = open_staging(environment.data_dir, STAGING)
    latest = latest_release(environment.releases_dir)
    faces = len(face_order(catalog.engine))
    plan = config.plan(index_models(settings, pack), settings.export, latest, faces)
    spec = release_spec(
        settings,
        pack,
        staged_params(plan, staging),
        current_suppressions(catalog.engine, environment, settings.names),
        accept_shrink=config.accept_shrink,
    )
    return publish_staged(catalog.engine, environment.data_dir, staging, spec, datetime.now(UTC).date())


@dg.asset(
    key=names.GITHUB_RELEASE,
    deps=[names.RELEASE],
    group_name=names.Group.RELEASE.value,
    kinds={"github"},
    owners=names.OWNERS,
    code_version="1",
)
def github_release(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
    progress: dg.ResourceParam[ProgressFactory],
) -> dg.MaterializeResult:
    """The newest release on GitHub, where the sidecar's updater finds it: a draft until its zip is uploaded completely.

    Each flavour with a repository goes there when export.cadence allows it. A suppression does not wait.
    """
    from stash_sense_pipeline.foundation.errors import ReleaseError
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.checks.suppression_check import held_keys, refuse_suppressed
    from stash_sense_pipeline.release.distribution.cadence import AutomaticUpload
    from stash_sense_pipeline.release.distribution.upload import upload_destinations
    from stash_sense_pipeline.release.distribution.uploads import read_uploads
    from stash_sense_pipeline.release.versions import latest_release

    hosts = {name: box.host for name, box in settings.stash_boxes.items()}

    def listed() -> "Suppressions":
        return current_suppressions(catalog.engine, environment, settings.names)

    uploads = AutomaticUpload(
        environment.releases_dir,
        settings.export.cadence,
        refuse=lambda directory: refuse_suppressed(directory, listed(), hosts),
        holds_suppressed=lambda directory: held_keys(directory, listed(), hosts).any,
    )
    metadata: dict[str, Any] = {}
    with one_line_failures():
        latest = latest_release(environment.releases_dir)
        if latest is None:
            raise ReleaseError(f"there is no release in {environment.releases_dir} yet; publish one first")
        for flavour, destination in upload_destinations(settings, environment).items():
            shown = progress(context, names.GITHUB_RELEASE.to_user_string())
            decision, report = uploads.run(latest.name, destination, shown)
            context.log.info("%s (%s): %s", destination.repository, flavour, decision.reason)
            metadata |= _upload_metadata(flavour, decision, report)
        sent = sorted(upload.version for upload in read_uploads(environment.releases_dir).values())
    return dg.MaterializeResult(data_version=dg.DataVersion(", ".join(sent)), metadata=metadata)


def _upload_metadata(flavour: str, decision: "Decision", report: "UploadReport | None") -> dict[str, Any]:
    """The result of one upload; the names of values of another flavour than full begin with it."""
    own: dict[str, Any] = {"due": decision.due, "reason": decision.reason}
    if decision.on is not None:
        own["due_on"] = str(decision.on)
    if report is not None:
        url = dg.MetadataValue.url(report.url)
        own |= {**numbers(report), "version": report.version, "url": url}
    return {name if flavour == "full" else f"{flavour}_{name}": value for name, value in own.items()}


def uploads_release(settings: Settings) -> bool:
    """Whether releases for the sidecar are uploaded automatically: not where the only repository is for sense2 releases."""
    github = settings.export.github
    return github.upload and bool(
        github.repository or github.small_repository or not github.sense2_repository
    )


def release_assets(
    index_keys: Sequence[dg.AssetKey], *, upload: bool, tattoos: bool = False
) -> list[dg.AssetsDefinition]:
    """The assets of the group: `release` depends on these indices, and github_release exists only with `upload`.

    With `tattoos` both files with tattoos depend on their embeddings.
    """
    of_tattoos = [names.TATTOO_EMBEDDINGS] if tattoos else []
    needed = {
        names.PERFORMERS_DB: [names.IDENTITY_GRAPH, names.TRUSTED_FACES, *of_tattoos],
        names.RELEASE: [*index_keys, names.PERFORMERS_DB, *of_tattoos],
    }
    made = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(deps=needed[spec.key]), [performers_db, release]
    )
    return [*made, *([github_release] if upload else [])]
