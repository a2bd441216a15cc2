"""The partitions: one for each source."""

from __future__ import annotations

import dagster as dg

from stash_sense_pipeline.settings.schema import Settings


def source_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """One partition for each source of sources.yaml, stash-boxes first.

    Static: the list is under version control, and keys can be checked without a Dagster instance.
    """
    return dg.StaticPartitionsDefinition([source.name for source in settings.sources])
