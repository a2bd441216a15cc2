"""A process that fills a catalog from a stash-box until it is killed."""

from __future__ import annotations

import asyncio

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources import catalog_writer
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.ingest_context import IngestContext
from stash_sense_pipeline.sources.stash_boxes.connectors import make_connector
from stash_sense_pipeline.sources.stash_boxes.refresh import refresh_source


def main(catalog_url: str, endpoint: str, api_key: str) -> None:
    """Refreshes with tiny pages, and stores while it reads further ones."""
    catalog_writer._LEAST_RECORDS, catalog_writer._BATCH_SECONDS = 20, 600.0
    engine = open_catalog(catalog_url)
    source = StashBoxSettings(name="stashdb", url=endpoint, host="stashdb.test", rate_limit=600_000.0)

    async def run() -> None:
        async with PoliteClient("stashdb", endpoint, rate=source.rate_limit) as client:
            connector = make_connector(source, api_key, client)
            connector.records_a_page = 8
            await refresh_source(IngestContext(engine, NO_SUPPRESSIONS), source, connector)

    asyncio.run(run())
