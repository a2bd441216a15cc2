"""Group release: the release for stash-sense2, and its upload."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import numbers, one_line_failures, preview
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.step_progress import ProgressFactory
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

if TYPE_CHECKING:
    from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
    from stash_sense_pipeline.release.checks.check_result import CheckResult
    from stash_sense_pipeline.release.distribution.cadence import Decision
    from stash_sense_pipeline.release.spec import Sense2Spec

_CHECK = "sense2_contract"


@dg.asset(
    key=names.SENSE2_RELEASE,
    deps=[names.IDENTITY_GRAPH, names.TRUSTED_FACES],
    group_name=names.Group.RELEASE.value,
    kinds={"zip"},
    owners=names.OWNERS,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            _CHECK,
            asset=names.SENSE2_RELEASE,
            description="Every line of the contract of sense2 releases holds, and no suppressed person is named.",
            blocking=True,
        )
    ],
)
def sense2_release(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """A release that stash-sense2 loads: a full zip, the delta from the release before it, and the links.

    It holds the faces of the second pack. With automatic uploads, a new version is made as often as export.cadence.days
    allows, because each version is a step of the chain of deltas. A suppression does not wait.
    """
    from stash_sense_pipeline.release.checks.check_result import ReleaseRefusedError
    from stash_sense_pipeline.release.sense2.publish import publish_sense2

    today = datetime.now(UTC).date()
    with one_line_failures():
        spec = _spec(settings, environment, catalog)
        decision = _due(settings, environment, catalog, spec)
        if not decision.due:
            context.log.info("sense2: %s", decision.reason)
            yield dg.MaterializeResult(metadata={"due": False, "reason": decision.reason})
            yield _check_result((), "not run: no release was made, " + decision.reason)
            return
        try:
            report = publish_sense2(catalog.engine, environment.data_dir, spec, today)
        except ReleaseRefusedError as refused:
            yield _check_result(refused.checks)
            raise
    context.log.info(
        "sense2 release %s: %s",
        report.version,
        "published" if report.changed else "nothing changed since it was made",
    )
    why_full = {} if report.why_full is None else {"why_full": report.why_full}
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(report.version),
        metadata={
            **numbers(report),
            "due": True,
            "version": report.version,
            "path": dg.MetadataValue.path(str(report.path)),
            "dagster/row_count": report.faces,
            "preview": preview([{"file": name, "bytes": size} for name, size in report.sizes.items()]),
            **{name.replace(" ", "_"): count for name, count in report.counts.items()},
            **why_full,
        },
    )
    yield _check_result(report.checks)


def _spec(settings: Settings, environment: Environment, catalog: Catalog) -> "Sense2Spec":
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.faces.requeue import load_second_pack
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.spec import sense2_spec

    first = load_pack(environment.model_pack, environment.models_dir)
    second = load_second_pack(settings.global_.second_pack, environment.models_dir, first)
    return sense2_spec(settings, second, current_suppressions(catalog.engine, environment, settings.names))


def _due(settings: Settings, environment: Environment, catalog: Catalog, spec: "Sense2Spec") -> "Decision":
    """Whether a new version may be made now. Without automatic uploads it may always."""
    from stash_sense_pipeline.catalog.queries.sense2.ledger import newest_publication
    from stash_sense_pipeline.catalog.transactions import reading
    from stash_sense_pipeline.release.distribution.cadence import Decision
    from stash_sense_pipeline.release.distribution.sense2_upload import sense2_due
    from stash_sense_pipeline.release.sense2.history import names_suppressed

    if not uploads_sense2(settings):
        return Decision(True, "uploads are not automatic")
    with reading(catalog.engine) as connection:
        newest = newest_publication(connection)
    if newest is None:
        return sense2_due(None, None, settings.export.cadence.days, datetime.now(UTC).date(), False)
    directory = environment.data_dir / "sense2" / newest.version
    suppressed = not directory.is_dir() or names_suppressed(directory, spec.suppressions, spec.hosts)
    return sense2_due(
        newest.version,
        newest.published_at.date(),
        settings.export.cadence.days,
        datetime.now(UTC).date(),
        suppressed,
    )


def _check_result(checks: "Sequence[CheckResult]", description: str | None = None) -> dg.AssetCheckResult:
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    errors = any(not check.passed and check.severity == "error" for check in checks)
    return dg.AssetCheckResult(
        asset_key=names.SENSE2_RELEASE,
        check_name=_CHECK,
        passed=not errors,
        severity=dg.AssetCheckSeverity.ERROR,
        description=description,
        metadata={"checks": len(checks), "failed": failed},
    )


@dg.asset(
    key=names.GITHUB_SENSE2_RELEASE,
    deps=[names.SENSE2_RELEASE],
    group_name=names.Group.RELEASE.value,
    kinds={"github"},
    owners=names.OWNERS,
    code_version="1",
)
def github_sense2_release(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
    progress: dg.ResourceParam[ProgressFactory],
) -> dg.MaterializeResult:
    """All sense2 releases here that are newer than those on GitHub, the oldest first, so that no delta is missing there."""
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.distribution.sense2_upload import (
        refuse_named,
        sense2_destination,
        upload_sense2,
        versions_to_upload,
    )
    from stash_sense_pipeline.release.sense2.history import names_suppressed

    with one_line_failures():
        destination = sense2_destination(settings, environment)
        hosts = {name: box.host for name, box in settings.stash_boxes.items()}
        shown = progress(context, names.GITHUB_SENSE2_RELEASE.to_user_string())

        def listed() -> "Suppressions":
            return current_suppressions(catalog.engine, environment, settings.names)

        waiting = versions_to_upload(
            environment.data_dir, destination, lambda directory: names_suppressed(directory, listed(), hosts)
        )
        urls = {}
        for version in waiting:
            report = upload_sense2(
                environment.data_dir,
                version,
                destination,
                check=lambda directory: refuse_named(directory, listed(), hosts),
                progress=shown,
            )
            urls[version] = report.url
            context.log.info("%s: %s uploaded", destination.repository, version)
    links = {version: dg.MetadataValue.url(url) for version, url in urls.items()}
    return dg.MaterializeResult(metadata={"uploaded": len(urls), **links})


def uploads_sense2(settings: Settings) -> bool:
    """Whether sense2 releases are uploaded automatically."""
    return settings.export.github.upload and bool(settings.export.github.sense2_repository)


def sense2_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """`sense2_release` where export.sense2 is true, and its upload where it is automatic."""
    if not settings.export.sense2:
        return []
    return [sense2_release, *([github_sense2_release] if uploads_sense2(settings) else [])]
