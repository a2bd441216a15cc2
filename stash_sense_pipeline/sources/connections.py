"""Opens the connector of a source from settings and keys, or says why it cannot be used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import (
    ReferenceSiteSettings,
    Settings,
    SourceSettings,
    StashBoxSettings,
)

if TYPE_CHECKING:
    from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy
    from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector
    from stash_sense_pipeline.sources.stash_boxes.connectors import Connector


_NO_CONTACT = "no contact address; set global.user_agent_contact in sources.yaml"


def unusable(settings: Settings, environment: Environment, name: str) -> str | None:
    """The reason why a source cannot be used, in one line; None when it can. ConfigurationError for an unknown name."""
    source = settings.source(name)
    if not source.enabled:
        return f"{name} is not enabled in sources.yaml"
    if lacks_contact(settings, source):
        return f"{name}: {_NO_CONTACT}"
    return lacking_access(environment, source)


def lacks_contact(settings: Settings, source: SourceSettings) -> bool:
    """True for a source that is not asked, because requests to it must carry a contact address and there is none."""
    return source.needs_contact and not settings.has_contact


def lacking_access(environment: Environment, source: SourceSettings) -> str | None:
    """The key or page solver that a source lacks, in one line; None when it lacks nothing."""
    if isinstance(source, ReferenceSiteSettings):
        return _unusable_site(environment, source)
    if environment.api_key(source.name) is None:
        key = f"{source.name.upper()}_API_KEY"
        return f"{source.name}: no key; set {key} or {key}_FILE"
    return None


def _unusable_site(environment: Environment, site: ReferenceSiteSettings) -> str | None:
    from stash_sense_pipeline.sources.reference_sites.fetcher_choice import why_no_fetcher
    from stash_sense_pipeline.sources.reference_sites.registry import SITES

    if site.name not in SITES:
        return f"{site.name}: no module reads this site; there are {', '.join(SITES)}"
    if not site.fetch:
        return None
    if site.reference_mode == "name" and not SITES[site.name].by_name:
        return f"{site.name}: the site has no search by name; set reference_mode: url"
    return why_no_fetcher(site, environment.flaresolverr_url, environment.chrome_cdp_url)


@asynccontextmanager
async def open_connector(
    settings: Settings, environment: Environment, name: str, retry_policy: RetryPolicy | None = None
) -> AsyncIterator[Connector]:
    """Opens the connector of a stash-box, with a rate-limited client, for the block.

    Raises ConfigurationError with the reason of `unusable`.
    """
    from stash_sense_pipeline.sources.http.polite_client import PoliteClient
    from stash_sense_pipeline.sources.stash_boxes.connectors import make_connector

    problem = unusable(settings, environment, name)
    source, key = settings.source(name), environment.api_key(name)
    if problem is not None or key is None or not isinstance(source, StashBoxSettings):
        raise ConfigurationError(problem or f"{name}: no key")
    contact = settings.global_.user_agent_contact
    async with PoliteClient(
        name,
        source.url,
        rate=source.rate_limit,
        contact=contact,
        retry_policy=retry_policy,
        trusted_hosts=source.picture_hosts,
    ) as client:
        yield make_connector(source, key, client)


@asynccontextmanager
async def open_site_connector(
    settings: Settings,
    environment: Environment,
    site: ReferenceSiteSettings,
    retry_policy: RetryPolicy | None = None,
) -> AsyncIterator[SiteConnector]:
    """Opens the connector of a reference site, with a client that obeys robots.txt, for the block.

    `site` may have overrides of one run that `settings` does not have. Raises ConfigurationError with the reason of
    `unusable`.
    """
    from stash_sense_pipeline.sources.http.polite_client import PoliteClient
    from stash_sense_pipeline.sources.http.retry_policy import SITE_RETRY_POLICY
    from stash_sense_pipeline.sources.http.robots import Robots
    from stash_sense_pipeline.sources.reference_sites.fetcher_choice import make_fetcher
    from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector

    off = None if settings.source(site.name).enabled else f"{site.name} is not enabled in sources.yaml"
    if off is None and lacks_contact(settings, site):
        off = f"{site.name}: {_NO_CONTACT}"
    problem = off or _unusable_site(environment, site)
    if problem is not None:
        raise ConfigurationError(problem)
    async with PoliteClient(
        site.name,
        site.url,
        rate=site.rate_limit,
        contact=settings.global_.user_agent_contact,
        retry_policy=retry_policy or SITE_RETRY_POLICY,
        gate=Robots(site.name),
        one_at_a_time=True,
    ) as client:
        fetcher = make_fetcher(site, client, environment.flaresolverr_url, environment.chrome_cdp_url)
        try:
            yield SiteConnector(site, client, fetcher)
        finally:
            await fetcher.close()
