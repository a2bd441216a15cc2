"""The base address of a site: the public one, or `url` of sources.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True)
class Base:
    """`real` and `configured` are addresses without a trailing slash; `hosts` are the site's, with all below them.

    Pages, profiles and images are known by their real addresses, whichever server gives them.
    """

    real: str
    configured: str
    hosts: tuple[str, ...]

    def public(self, url: str) -> str:
        """An address at the configured place as the site's real one; any other as it is."""
        if not self.is_elsewhere:
            return url
        place, parts = urlsplit(self.configured), urlsplit(url)
        if (parts.scheme, parts.netloc.lower()) != (place.scheme, place.netloc.lower()):
            return url
        path = parts.path.removeprefix(place.path.rstrip("/")) or "/"
        return _moved(parts, urlsplit(self.real), path)

    def fetchable(self, url: str) -> str:
        """The address to ask for: one of the site's hosts is replaced by the configured place, if that is another."""
        if not self.is_elsewhere or not self._is_own(url):
            return url
        place, parts = urlsplit(self.configured), urlsplit(url)
        return _moved(parts, place, place.path.rstrip("/") + (parts.path or "/"))

    def may_have_images(self, url: str) -> bool:
        """Is the address on a host where the site keeps its images?"""
        return self._is_own(url) or urlsplit(url).hostname == urlsplit(self.configured).hostname

    @property
    def is_elsewhere(self) -> bool:
        """Is the configured place none of the site's own hosts?"""
        return not self._is_own(self.configured)

    def _is_own(self, url: str) -> bool:
        host = (urlsplit(url).hostname or "").lower()
        return any(host == known or host.endswith(f".{known}") for known in self.hosts)


def _moved(parts: SplitResult, to: SplitResult, path: str) -> str:
    return parts._replace(scheme=to.scheme, netloc=to.netloc, path=path).geturl()
