"""The partitions: one for each source."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import dagster as dg

from stash_sense_pipeline.settings.schema import Settings


def source_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """One partition for each source of sources.yaml, stash-boxes first.

    Static: the list is under version control, and keys can be checked without a Dagster instance.
    """
    return dg.StaticPartitionsDefinition([source.name for source in settings.sources])


def partitioned(
    assets: Iterable[dg.AssetsDefinition], partitions: dg.PartitionsDefinition[str]
) -> Sequence[dg.AssetsDefinition]:
    """The assets and their checks with these partitions, which are known only when sources.yaml has been read.

    A check with partitions keeps the result of each source: the next source does not replace it.
    """
    return [_partitioned(asset, partitions) for asset in assets]


def _partitioned(asset: dg.AssetsDefinition, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    with warnings.catch_warnings():
        # Partitions of a check are a preview in this version of Dagster; each load would print that.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        checks = {
            output: _partitioned_check(spec, partitions)
            for output, spec in asset.check_specs_by_output_name.items()
        }
    return dg.AssetsDefinition(
        keys_by_input_name=asset.keys_by_input_name,
        keys_by_output_name=asset.keys_by_output_name,
        node_def=asset.node_def,
        specs=[spec.replace_attributes(partitions_def=partitions) for spec in asset.specs],
        check_specs_by_output_name=checks,
        resource_defs=asset.resource_defs,
    )


def _partitioned_check(
    spec: dg.AssetCheckSpec, partitions: dg.PartitionsDefinition[str]
) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        spec.name,
        asset=spec.asset_key,
        description=spec.description,
        additional_deps=spec.additional_deps,
        blocking=spec.blocking,
        metadata=spec.metadata,
        partitions_def=partitions,
    )
