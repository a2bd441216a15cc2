"""Fetches the bytes of images; an address that several images have is requested once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stash_sense_pipeline.faces.collection.image_hosts import ImageHost, ImageHosts
from stash_sense_pipeline.faces.collection.verdicts import ImageVerdict
from stash_sense_pipeline.foundation.clock import BusyTime
from stash_sense_pipeline.foundation.errors import SourceError

# Maps the URL of an image to the URL and the headers of its request.
ImageRequest = Callable[[str], tuple[str, Mapping[str, str]]]


class ImageResponse(Protocol):
    """A successful answer with its body."""

    @property
    def content(self) -> bytes: ...


class ImageClient(Protocol):
    """An HTTP client for images: sources.http.PoliteClient. Raises SourceError."""

    async def get(
        self, url: str, *, headers: Mapping[str, str], max_bytes: int, may_retry: Callable[[], bool]
    ) -> ImageResponse: ...


@dataclass(frozen=True)
class ImageTarget:
    """The request for one image. `host` is None when the address names no host."""

    address: str
    headers: Mapping[str, str]
    host: ImageHost | None


@dataclass
class SharedAddress:
    """The result of one address for all images that have it: an `error`, or a `verdict` without its face."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    error: SourceError | None = None
    verdict: ImageVerdict | None = None

    @property
    def is_known(self) -> bool:
        """True when the address was requested."""
        return self.error is not None or self.verdict is not None

    @property
    def is_taken(self) -> bool:
        """True when the address was requested, or its request is in flight."""
        return self.is_known or self.lock.locked()


class ImageFetcher:
    """Sends the image requests of a run.

    `hosts` are the hosts that answer them; `shared` has the addresses that several images have, by URL. `busy` is the
    time with a request in flight.
    """

    def __init__(
        self,
        client: ImageClient,
        image_request: ImageRequest,
        hosts: ImageHosts,
        shared: Mapping[str, SharedAddress],
        max_bytes: int,
    ) -> None:
        self.busy = BusyTime()
        self.hosts = hosts
        self.shared = shared
        self._client = client
        self._image_request = image_request
        self._max_bytes = max_bytes
        self._fetches: set[asyncio.Task[bytes]] = set()
        self._closed = False

    def target(self, url: str, host: ImageHost | None = None) -> ImageTarget:
        """The request for the image at `url`, with its host where the caller does not know it."""
        address, headers = self._image_request(url)
        return ImageTarget(address, headers, host or self.hosts.of(address, url))

    async def fetch(self, target: ImageTarget) -> bytes | None:
        """The bytes of an image; None when the run ends before they are complete. Raises SourceError."""
        if self._closed:
            return None

        async def fetch() -> bytes:
            may_retry = target.host.may_retry if target.host is not None else _never
            answer = await self._client.get(
                target.address, headers=target.headers, max_bytes=self._max_bytes, may_retry=may_retry
            )
            return answer.content

        task = asyncio.create_task(fetch())
        self._fetches.add(task)
        try:
            with self.busy:
                await asyncio.wait({task})
        finally:
            self._fetches.discard(task)
            task.cancel()
        return None if task.cancelled() else task.result()

    def close(self) -> None:
        """Cancels the requests in flight, and sends no more."""
        self._closed = True
        for fetch in self._fetches:
            fetch.cancel()


def _never() -> bool:
    return False
