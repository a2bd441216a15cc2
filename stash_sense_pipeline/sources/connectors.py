"""Which connector speaks to which source."""

from __future__ import annotations

from stash_sense_pipeline.settings import StashBoxSettings
from stash_sense_pipeline.sources.http import PoliteClient
from stash_sense_pipeline.sources.stash_box import StashBoxConnector


def make_connector(source: StashBoxSettings, api_key: str, client: PoliteClient) -> StashBoxConnector:
    """The connector that `source.connector` names."""
    return StashBoxConnector(source.url, api_key, client, source.name)
