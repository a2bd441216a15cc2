"""A cheap look at whether a source has news: a token that moves when the source's list of latest changes does."""

from __future__ import annotations

import hashlib
from contextlib import aclosing

from stash_sense_pipeline.sources.stash_boxes.connectors import Connector
from stash_sense_pipeline.sources.stash_boxes.theporndb_connector import ThePornDbConnector


async def newest_change(connector: Connector) -> str:
    """One request. A stash-box: the time of its latest change, without the id, since rows of one time have no order;
    ThePornDB, which tells no times: a digest of the first page of its latest changes. Removals need not move it.
    Raises SourceError."""
    if isinstance(connector, ThePornDbConnector):
        async with aclosing(connector.recently_updated()) as pages:
            async for page in pages:
                known = [f"{record.source_id} {record.content_hash}" for record in page.rows]
                text = "\n".join([*known, *(f"{each.label} unread" for each in page.unread)])
                return hashlib.sha256(text.encode()).hexdigest()
        return ""
    head = await connector.head(1)
    if head.unread:
        return f"unread {head.unread[0].label}"
    return head.rows[0].updated.isoformat() if head.rows and head.rows[0].updated else ""
