"""The interface of page fetchers, and the plain one."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from stash_sense_pipeline.sources.http.polite_client import PoliteClient

# A profile page has some 100 kB.
MAX_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Fetched:
    """A page: `url` after redirects. `rendered` by a browser, which hides the status. `not_modified`: no body, the page
    is as the validators of the request described it."""

    url: str
    body: bytes
    content_type: str
    rendered: bool = False
    not_modified: bool = False
    etag: str | None = None
    last_modified: str | None = None


class Fetcher(Protocol):
    """Gets pages within the pace, robots.txt and circuit of a PoliteClient. Raises SourceError."""

    async def get(self, url: str, headers: Mapping[str, str]) -> Fetched:
        """One page."""
        ...

    def image_headers(self) -> Mapping[str, str]:
        """What the plain client needs to be let through to images, after pages were fetched."""
        ...

    async def close(self) -> None:
        """Gives back what it holds."""
        ...


class PlainFetcher:
    """The polite client itself."""

    def __init__(self, client: PoliteClient) -> None:
        self._client = client

    async def get(self, url: str, headers: Mapping[str, str]) -> Fetched:
        """One page; a conditional request may be answered with `not_modified`."""
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
        """Nothing."""
        return {}

    async def close(self) -> None:
        """Nothing is held."""


def is_loopback(url: str) -> bool:
    """Is the address on this machine? An open DevTools port is remote control of a browser, with its cookies."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
