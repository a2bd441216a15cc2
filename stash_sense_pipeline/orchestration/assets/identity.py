"""Group identity: identities and trusted faces."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import (
    column_schema,
    match_weights,
    numbers,
    one_line_failures,
    preview,
    review_preview,
    thresholds,
)
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import TrustConfig
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

if TYPE_CHECKING:
    from stash_sense_pipeline.identity.linkage.overrides import Overrides
    from stash_sense_pipeline.privacy.enforcement import Enforcement
    from stash_sense_pipeline.privacy.recheck import RecheckReport

# The numbers of the second pack's trusted faces that the metadata show.
_OF_SECOND = ("performers", "faces", "added", "removed")


@dg.asset(
    key=names.IDENTITY_GRAPH,
    deps=[
        # It merges all sources in the catalog; the catalog, not Dagster, records which of them were read.
        dg.AssetDep(names.PERFORMER_TABLE, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(names.FACE_EMBEDDINGS, partition_mapping=dg.AllPartitionMapping()),
    ],
    group_name=names.Group.IDENTITY.value,
    kinds={"python", "table"},
    owners=names.OWNERS,
    code_version="1",
)
def identity_graph(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
) -> dg.MaterializeResult:
    """Evidence between the records of all sources, and the identities that follow from it: one for each person.

    Performer ids are permanent. Suppressed people are erased from the catalog first.
    """
    from stash_sense_pipeline.catalog import schema
    from stash_sense_pipeline.catalog.bounded_reads import ShortReads
    from stash_sense_pipeline.catalog.queries import previews
    from stash_sense_pipeline.faces.models.model_packs import embedder_digests
    from stash_sense_pipeline.identity.override_resolution import refused_overrides
    from stash_sense_pipeline.identity.rebuild import rebuild_identities
    from stash_sense_pipeline.identity.relatives import IdentityRelatives
    from stash_sense_pipeline.identity.review import write_review
    from stash_sense_pipeline.privacy.enforcement import enforce_suppressions, recheck
    from stash_sense_pipeline.privacy.erasure import ErasureScope

    now = datetime.now(UTC)
    hosts = {name: box.host for name, box in settings.stash_boxes.items()}
    relatives = IdentityRelatives.for_settings(settings, environment)
    with one_line_failures():
        enforced = enforce_suppressions(
            catalog.engine, environment, settings.names, now, ErasureScope(relatives=relatives)
        )
        for problem in filter(None, (enforced.overrides.problem, enforced.erased.bytes_left)):
            context.log.warning("suppressed people: %s", problem)
        overrides = _overrides(catalog, settings, environment)
        refused = refused_overrides(ShortReads(catalog.engine), overrides)
        if refused:
            # Without the lines themselves: they name records, and the run history keeps them.
            context.log.warning(
                "%d lines of the overrides have no effect; see stash-sense review settled", len(refused)
            )
        report = rebuild_identities(
            catalog.engine,
            hosts,
            overrides,
            now,
            models=embedder_digests(environment.model_pack, environment.models_dir),
        )
        rechecked = recheck(catalog.engine, environment, settings.names, now, relatives)
        to_review = write_review(catalog.engine, environment.review_dir, now, overrides)
    return dg.MaterializeResult(
        metadata={
            **numbers(report),
            **_erasure_numbers(enforced, rechecked),
            "face_thresholds": thresholds(report.calibration),
            "match_weights": match_weights(report.learned),
            "review": review_preview(to_review),
            "refused_overrides": len(refused),
            "created": report.created,
            "merged": report.merged,
            "split": report.split,
            "retired": report.retired,
            "dagster/row_count": report.identities,
            "dagster/column_schema": column_schema(schema.identity_members),
            "preview": preview(previews.largest_identities(catalog.engine)),
        }
    )


def _suggest(
    catalog: Catalog,
    environment: Environment,
    settings: Settings,
    models: Mapping[str, str],
    overrides: "Overrides",
) -> dict[str, int]:
    """Writes the suggestions to the sources."""
    from stash_sense_pipeline.identity.source_suggestions.finding import find_suggestions
    from stash_sense_pipeline.identity.source_suggestions.identity_state import SuggestionRules
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.reports.source_suggestions import write_suggestions

    listed = current_suppressions(catalog.engine, environment, settings.names)
    hosts = {name: box.host for name, box in settings.stash_boxes.items()}
    found = find_suggestions(catalog.engine, SuggestionRules(hosts, models, overrides), listed)
    return write_suggestions(catalog.engine, environment.review_dir, found)


def _overrides(catalog: Catalog, settings: Settings, environment: Environment) -> "Overrides":
    """The operator's overrides without the pairs and verdicts on suppressed people."""
    from stash_sense_pipeline.identity.linkage.overrides import load_overrides, without_suppressed
    from stash_sense_pipeline.privacy.enforcement import current_suppressions

    overrides = load_overrides(environment.overrides_file)
    if overrides:
        listed = current_suppressions(catalog.engine, environment, settings.names)
        overrides = without_suppressed(overrides, listed)
    return overrides


def _erasure_numbers(enforced: "Enforcement", rechecked: "RecheckReport") -> dict[str, int]:
    return {
        "erased_records": enforced.erased.records + rechecked.erased,
        "held_records": enforced.erased.held + rechecked.held,
        "erased_images": enforced.erased.images,
        "erased_faces": enforced.erased.faces,
        "erased_report_lines": enforced.traces.lines,
        "namesakes_of_erased": len(enforced.erased.namesakes),
    }


@dg.asset(
    key=names.TRUSTED_FACES,
    deps=[
        names.IDENTITY_GRAPH,
        dg.AssetDep(names.FACE_EMBEDDINGS, partition_mapping=dg.AllPartitionMapping()),
    ],
    group_name=names.Group.IDENTITY.value,
    kinds={"numpy", "table"},
    owners=names.OWNERS,
    code_version="1",
)
def trusted_faces(
    config: TrustConfig,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
) -> dg.MaterializeResult:
    """The faces that represent each performer: no outliers, no near-duplicates, best and most different first.

    Their number is limited for each performer, and for each performer and source. A second pack has trusted faces of its
    own.
    """
    from stash_sense_pipeline.catalog import schema
    from stash_sense_pipeline.catalog.queries import previews
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.faces.requeue import load_second_pack
    from stash_sense_pipeline.identity.face_matching.trusted_faces import choose_trusted_faces
    from stash_sense_pipeline.identity.review import SUGGESTIONS, write_review

    with one_line_failures():
        pack = load_pack(environment.model_pack, environment.models_dir)
        overrides = _overrides(catalog, settings, environment)
        second = load_second_pack(settings.global_.second_pack, environment.models_dir, pack)
        chosen = [
            choose_trusted_faces(
                catalog.engine,
                max_faces_per_performer=config.max_faces_total or settings.global_.max_faces_per_performer,
                source_caps={source.name: source.max_faces for source in settings.sources}
                | config.source_max_faces,
                trust={source.name: source.trust_level.value for source in settings.sources},
                models=each.digests,
                sites=settings.reference_sites,
                overrides=overrides,
                second_detector=each.detector.finding_digest if each is second else None,
            )
            for each in (pack, second)
            if each is not None
        ]
        to_review = write_review(catalog.engine, environment.review_dir, datetime.now(UTC), overrides)
        suggested = _suggest(catalog, environment, settings, pack.digests, overrides)
    return dg.MaterializeResult(
        metadata={
            **numbers(chosen[0]),
            **{f"second_{name}": getattr(each, name) for each in chosen[1:] for name in _OF_SECOND},
            "review": review_preview(to_review),
            "source_suggestions": review_preview(
                suggested, "suggestions to sources", f"review/{SUGGESTIONS}"
            ),
            "dagster/row_count": chosen[0].faces,
            "dagster/column_schema": column_schema(schema.trusted_faces),
            "preview": preview(previews.first_trusted_faces(catalog.engine)),
        }
    )
