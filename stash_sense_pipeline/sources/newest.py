"""A cheap look at whether a source has news: a token that moves when the source's list of latest changes does."""

from __future__ import annotations

import hashlib
from contextlib import aclosing

from stash_sense_pipeline.sources.connectors import Connector
from stash_sense_pipeline.sources.theporndb import ThePornDbConnector


async def newest_change(connector: Connector) -> str:
    """One request. A stash-box: the time of its latest change, without the id, since rows of one time have no order;
    ThePornDB, which tells no times: a digest of the first page of its latest changes. Removals need not move it.
    Raises SourceError."""
    if isinstance(connector, ThePornDbConnector):
        async with aclosing(connector.recently_updated()) as pages:
            async for records in pages:
                text = "\n".join(f"{record.source_id} {record.content_hash}" for record in records)
                return hashlib.sha256(text.encode()).hexdigest()
        return ""
    rows = (await connector.head(1)).rows
    return rows[0].updated.isoformat() if rows and rows[0].updated else ""
