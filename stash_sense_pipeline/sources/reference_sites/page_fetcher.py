"""The interface of page fetchers, and the fetcher that uses only the HTTP client."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from stash_sense_pipeline.sources.http.polite_client import PoliteClient

# A profile page has about 100 kB.
MAX_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Fetched:
    """A page; `url` is its address after redirects. `rendered`: a browser rendered it, which hides the status.
    `not_modified`: the page matches the validators of the request, and has no body."""

    url: str
    body: bytes
    content_type: str
    rendered: bool = False
    not_modified: bool = False
    etag: str | None = None
    last_modified: str | None = None


class Fetcher(Protocol):
    """Fetches pages within the rate limit, robots.txt rules and circuit breaker of a PoliteClient. Raises SourceError."""

    async def get(self, url: str, headers: Mapping[str, str]) -> Fetched:
        """Fetches one page."""
        ...

    def image_headers(self) -> Mapping[str, str]:
        """The headers with which the plain client may fetch images, known once a page was fetched."""
        ...

    async def close(self) -> None:
        """Releases sessions and connections."""
        ...


class PlainFetcher:
    """Fetches pages with the polite client."""

    def __init__(self, client: PoliteClient) -> None:
        self._client = client

    async def get(self, url: str, headers: Mapping[str, str]) -> Fetched:
        """Fetches one page. The answer to a conditional request may be `not_modified`."""
        answer = await self._client.get(url, headers=headers, max_bytes=MAX_PAGE_BYTES)
        return Fetched(
            url=answer.url,
            body=answer.content,
            content_type=answer.headers.get("content-type", ""),
            not_modified=answer.status == 304,
            etag=answer.headers.get("etag"),
            last_modified=answer.headers.get("last-modified"),
        )

    def image_headers(self) -> Mapping[str, str]:
        """No headers are needed."""
        return {}

    async def close(self) -> None:
        """Does nothing: the client is closed by its owner."""


def is_loopback(url: str) -> bool:
    """True when the address is on this machine. A DevTools port that others can reach gives them the browser and its
    cookies."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
