"""The base address of a site: the public one, or `url` of sources.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True)
class Base:
    """`real` and `configured` are addresses without a trailing slash; `hosts` are the site's, with all hosts below them.

    Pages, profiles and images are stored by their real addresses, whichever server they come from.
    """

    real: str
    configured: str
    hosts: tuple[str, ...]

    def public(self, url: str) -> str:
        """The site's real address for an address at the configured place; other addresses are returned unchanged."""
        if not self.is_elsewhere:
            return url
        place, parts = urlsplit(self.configured), urlsplit(url)
        if (parts.scheme, parts.netloc.lower()) != (place.scheme, place.netloc.lower()):
            return url
        path = parts.path.removeprefix(place.path.rstrip("/")) or "/"
        return _moved(parts, urlsplit(self.real), path)

    def fetchable(self, url: str) -> str:
        """The address to fetch: the configured place replaces the site's host, if `is_elsewhere`."""
        if not self.is_elsewhere or not self.is_own(url):
            return url
        place, parts = urlsplit(self.configured), urlsplit(url)
        return _moved(parts, place, place.path.rstrip("/") + (parts.path or "/"))

    def may_have_images(self, url: str) -> bool:
        """True when the address is on a host that may have the site's images."""
        return self.is_own(url) or urlsplit(url).hostname == urlsplit(self.configured).hostname

    @property
    def is_elsewhere(self) -> bool:
        """True when the configured place is on none of the site's own hosts."""
        return not self.is_own(self.configured)

    def is_own(self, url: str) -> bool:
        """True when the address is on one of the site's hosts, or below one."""
        host = (urlsplit(url).hostname or "").lower()
        return any(host == known or host.endswith(f".{known}") for known in self.hosts)


def _moved(parts: SplitResult, to: SplitResult, path: str) -> str:
    return parts._replace(scheme=to.scheme, netloc=to.netloc, path=path).geturl()
