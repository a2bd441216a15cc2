"""The partitions: one for each source."""

from __future__ import annotations

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
    """The assets with these partitions, which are known only when sources.yaml has been read."""
    return dg.map_asset_specs(lambda spec: spec.replace_attributes(partitions_def=partitions), assets)
