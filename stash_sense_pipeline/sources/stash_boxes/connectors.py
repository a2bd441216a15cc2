"""Chooses the connector of a source."""

from __future__ import annotations

from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.stash_boxes.stash_box_connector import StashBoxConnector
from stash_sense_pipeline.sources.stash_boxes.theporndb_connector import ThePornDbConnector

Connector = StashBoxConnector | ThePornDbConnector


def make_connector(source: StashBoxSettings, api_key: str, client: PoliteClient) -> Connector:
    """Returns the connector that `source.connector` names."""
    kind = ThePornDbConnector if source.connector == "theporndb" else StashBoxConnector
    return kind(source.url, api_key, client, source.name)
