"""From a source's name to a connector that can be asked: settings, key and polite client put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stash_sense_pipeline.errors import ConfigurationError
from stash_sense_pipeline.settings import Environment, Settings, StashBoxSettings

if TYPE_CHECKING:
    from stash_sense_pipeline.sources.connectors import Connector
    from stash_sense_pipeline.sources.http import Patience


def unusable(settings: Settings, environment: Environment, name: str) -> str | None:
    """Why a source cannot be asked, in one line; None when it can. ConfigurationError when there is no such source."""
    source = settings.source(name)
    if not source.enabled:
        return f"{name} is not enabled in sources.yaml"
    if not isinstance(source, StashBoxSettings):
        return f"{name}: this version has no connector for reference sites"
    if environment.api_key(name) is None:
        return f"{name}: no key; set {name.upper()}_API_KEY or {name.upper()}_API_KEY_FILE"
    return None


@asynccontextmanager
async def asking(
    settings: Settings, environment: Environment, name: str, patience: Patience | None = None
) -> AsyncIterator[Connector]:
    """The connector of a stash-box, with a client that keeps its pace, while the block runs.

    Raises ConfigurationError with the reason of `unusable`.
    """
    from stash_sense_pipeline.sources.connectors import make_connector
    from stash_sense_pipeline.sources.http import PoliteClient

    problem = unusable(settings, environment, name)
    source, key = settings.source(name), environment.api_key(name)
    if problem is not None or key is None or not isinstance(source, StashBoxSettings):
        raise ConfigurationError(problem or f"{name}: no key")
    contact = settings.global_.user_agent_contact
    async with PoliteClient(
        name, source.url, rate=source.rate_limit, contact=contact, patience=patience
    ) as client:
        yield make_connector(source, key, client)
