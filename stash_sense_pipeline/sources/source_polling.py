"""Polls stash-boxes for a change token: one cheap request each, in parallel."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stash_sense_pipeline.foundation.errors import ConfigurationError, SourceError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.connections import open_connector

if TYPE_CHECKING:
    from stash_sense_pipeline.sources.stash_boxes.connectors import Connector

_SECONDS_A_SOURCE = 5.0


@dataclass(frozen=True)
class Poll:
    """The answer of one source: a token that changes with its data, or the problem why there is none."""

    source: str
    token: str | None
    problem: str | None


async def poll_sources(
    settings: Settings, environment: Environment, names: Sequence[str], seconds: float = _SECONDS_A_SOURCE
) -> list[Poll]:
    """Polls all sources concurrently, each for at most `seconds`. The Poll of a source that fails has its problem."""
    return await asyncio.gather(*(_poll(settings, environment, name, seconds) for name in names))


async def _poll(settings: Settings, environment: Environment, name: str, seconds: float) -> Poll:
    from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy

    hurried = RetryPolicy(attempts=1, connect=seconds, read=seconds, total=seconds)
    try:
        async with (
            asyncio.timeout(seconds),
            open_connector(settings, environment, name, hurried) as connector,
        ):
            return Poll(name, await change_token(connector), None)
    except TimeoutError:
        return Poll(name, None, f"{name}: no answer within {seconds:g} s")
    except (SourceError, ConfigurationError) as error:
        return Poll(name, None, str(error))


async def change_token(connector: Connector) -> str:
    """A token that changes with the source's list of latest changes, from one request. Raises SourceError.

    For a stash-box it is the time of the latest change, without the id, since rows with equal times have no order. For
    ThePornDB, which has no times, it is a digest of the first page of latest changes. A removal may leave it unchanged.
    """
    from stash_sense_pipeline.sources.stash_boxes.theporndb_connector import ThePornDbConnector

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
