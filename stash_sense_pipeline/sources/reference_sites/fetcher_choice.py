"""Chooses the page fetcher of a site, or says why it has none."""

from __future__ import annotations

from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.reference_sites.page_fetcher import Fetcher, PlainFetcher, is_loopback

# IAFD asks robots not to disguise themselves.
_PLAIN_ONLY = frozenset({"iafd"})


def why_no_fetcher(
    site: ReferenceSiteSettings, flaresolverr_url: str | None, chrome_cdp_url: str | None
) -> str | None:
    """Why the site cannot be fetched with the settings of sources.yaml, in one line; None when it can."""
    if site.name in _PLAIN_ONLY and (site.needs_flaresolverr or site.needs_chrome_cdp):
        return f"{site.name}: it refuses disguised robots, so neither a solver nor a browser is used for it"
    if site.needs_flaresolverr and flaresolverr_url is None:
        return f"{site.name}: needs_flaresolverr is set, and FLARESOLVERR_URL is not"
    if site.needs_chrome_cdp and chrome_cdp_url is None:
        return f"{site.name}: needs_chrome_cdp is set, and CHROME_CDP_URL is not"
    if site.needs_chrome_cdp and chrome_cdp_url is not None and not is_loopback(chrome_cdp_url):
        return (
            f"{site.name}: CHROME_CDP_URL is not on this machine; a DevTools port must not be open to others"
        )
    return None


def make_fetcher(
    site: ReferenceSiteSettings,
    client: PoliteClient,
    flaresolverr_url: str | None,
    chrome_cdp_url: str | None,
) -> Fetcher:
    """The fetcher that the settings of the site ask for. Call why_no_fetcher first."""
    # Imported here, because most runs use neither a browser nor a solver.
    from stash_sense_pipeline.sources.reference_sites.chrome import ChromeFetcher
    from stash_sense_pipeline.sources.reference_sites.flaresolverr import FlareSolverrFetcher

    if site.needs_chrome_cdp and chrome_cdp_url is not None:
        return ChromeFetcher(client, chrome_cdp_url)
    if site.needs_flaresolverr and flaresolverr_url is not None:
        return FlareSolverrFetcher(client, flaresolverr_url)
    return PlainFetcher(client)
