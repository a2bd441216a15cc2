"""Image hosts of one run: how each answers, and the evidence by which one is called down for the rest of the run.

A failure counts against its image. When different images of one host fail in a row, the host is suspected: then only
requests for evidence are sent to it, until other images show whether the host fails or only those images.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum, auto

from stash_sense_pipeline.foundation.errors import CIRCUIT_OPEN, SourceError, UnreachableError
from stash_sense_pipeline.sources.http.address_guard import host_of

# So many different images that fail in a row make a host suspected; doubled each time that the host is cleared.
_FAILURES_IN_A_ROW = 3
# Refusals (404 and the like) are answers. So many in a row without a picture between them make a host suspected too.
_REFUSALS_IN_A_ROW = 50
# A cache may answer for a dead host, so that evidence always clears it. With this limit exceeded the host is down.
_MOST_IN_A_ROW = 100


class Suspicion(Enum):
    """The reason for a suspicion: failures, or refusals, in a row."""

    FAILURES = auto()
    REFUSALS = auto()


class ImageHost:
    """One host, and the results of its images in this run. For one event loop."""

    def __init__(self, source: str, name: str) -> None:
        """`name` is `host:port`."""
        self.name = name
        self.suspicion: Suspicion | None = None
        self.is_verified = False
        self.is_down = False
        # The reason why it is down; None when it answers, but not for the waiting images.
        self.error: SourceError | None = None
        self.has_answered = False
        self.origins: set[str] = set()
        self.postponed = 0
        self._source = source
        self._failing: dict[str, SourceError] = {}
        self._refused: set[str] = set()
        self._limits = {
            Suspicion.FAILURES: _FAILURES_IN_A_ROW,
            Suspicion.REFUSALS: _REFUSALS_IN_A_ROW,
        }
        self._in_flight = 0
        self._run_ends = False
        self._changed = asyncio.Event()

    # --- asking ---

    async def admit(self) -> bool:
        """Waits until an image may be requested. Returns False when the host is down or the run ends.

        After True the caller must call `leave`.
        """
        while not (self.is_down or self._run_ends):
            if self.suspicion is None and (
                self.has_answered or self._undecided < self._limits[Suspicion.FAILURES]
            ):
                self._in_flight += 1
                return True
            self._changed.clear()
            await self._changed.wait()
        return False

    @property
    def _undecided(self) -> int:
        """Images that failed or are in flight. A host without any answer gets at most the limit of failures."""
        return self._in_flight + len(self._failing)

    def leave(self) -> None:
        """Ends the request of an admitted image."""
        self._in_flight -= 1
        self._changed.set()

    def may_retry(self) -> bool:
        """True when a failed request may be repeated at once. While several images fail, a retry tells nothing new."""
        return not self.is_down and self.suspicion is None and len(self._failing) < _FAILURES_IN_A_ROW

    def has_failed(self, url: str) -> bool:
        """True when a failure of this address counts against the host now."""
        return url in self._failing

    def has_refused(self, url: str) -> bool:
        """True when a refusal of this address counts against the host now."""
        return url in self._refused

    # --- results ---

    def gave_picture(self) -> None:
        """A whole picture came: earlier failures count against their images only."""
        self.has_answered = True
        self._failing.clear()
        self._refused.clear()
        self.suspicion = None
        self._changed.set()

    def gave_refusal(self, url: str) -> None:
        """The host answered that it does not have the image, or redirected to another host."""
        self.has_answered = True
        self._refused.add(url)
        if len(self._refused) >= self._limits[Suspicion.REFUSALS]:
            self._suspect(Suspicion.REFUSALS)
        self._changed.set()

    def gave_failure(self, url: str, error: SourceError) -> None:
        """There was no usable answer for this address. An address counts once."""
        self._failing[url] = error
        if len(self._failing) >= self._limits[Suspicion.FAILURES]:
            self._suspect(Suspicion.FAILURES)
        self._changed.set()

    def _suspect(self, suspicion: Suspicion) -> None:
        if self.suspicion is None and not self.is_down:
            self.suspicion, self.is_verified = suspicion, False

    # --- evidence ---

    @property
    def is_unreachable(self) -> bool:
        """True when all failing images failed without a connection: this points at the host, not at the images."""
        return bool(self._failing) and all(
            isinstance(error, UnreachableError) for error in self._failing.values()
        )

    def clear(self) -> None:
        """Ends a suspicion: evidence speaks for the host, or there is none. The next one takes twice as many images."""
        suspicion = self.suspicion
        if suspicion is None:
            return
        self.suspicion = None
        if suspicion is Suspicion.REFUSALS:
            self._refused.clear()
        else:
            self._failing.clear()
        self._limits[suspicion] *= 2
        if self._limits[Suspicion.FAILURES] > _MOST_IN_A_ROW:
            self.is_down = True
        self._changed.set()

    @property
    def last_error(self) -> SourceError:
        """The latest of the failures in a row. Raises IndexError when there is none."""
        return list(self._failing.values())[-1]

    @property
    def verdict(self) -> SourceError | None:
        """The error for a host after evidence failed too; None when the host answers but refuses its images."""
        if self.suspicion is not Suspicion.FAILURES:
            return None
        outcome = self.last_error.outcome
        text = f"{self.name} gave none of {len(self._failing)} different images in a row and {CIRCUIT_OPEN}"
        return SourceError(self._source, outcome, text)

    def hold(self) -> None:
        """Admits no images while the run decides whether it goes on without this host."""
        self.suspicion, self.is_verified = self.suspicion or Suspicion.FAILURES, True

    def close(self, error: SourceError | None) -> None:
        """Marks the host as down for the rest of the run, because of `error`."""
        self.is_down, self.suspicion, self.error = True, None, error
        self._changed.set()

    def end_run(self) -> None:
        """Admits no more images: the run ends."""
        self._run_ends = True
        self._changed.set()


class ImageHosts:
    """The hosts of one run, by name."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._hosts: dict[str, ImageHost] = {}
        self._names: dict[str, str] = {}

    def of(self, address: str, url: str) -> ImageHost | None:
        """The host of `address`, the address of the request for the image at `url`; None when it names no host."""
        origin = origin_of(address)
        name = self._names.get(origin)
        if name is None:
            try:
                name = self._names[origin] = host_of(address)
            except ValueError:
                return None
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = ImageHost(self._source, name)
        host.origins.add(origin_of(url))
        return host

    def close(self) -> None:
        """Ends the run: all calls that wait in `admit` return False."""
        for host in self._hosts.values():
            host.end_run()

    @property
    def suspected(self) -> ImageHost | None:
        """A suspected host without a running verification."""
        return next((host for host in self._hosts.values() if host.suspicion and not host.is_verified), None)

    @property
    def down(self) -> list[ImageHost]:
        """The hosts that are down, with or without an error."""
        return [host for host in self._hosts.values() if host.is_down]

    @property
    def unreachable(self) -> list[SourceError]:
        """The latest error of each unreachable host."""
        return [host.last_error for host in self._hosts.values() if host.is_unreachable]

    @property
    def origins_down(self) -> set[str]:
        """The origins (`scheme://host/`) of the image URLs of hosts that are down."""
        return {origin for host in self.down for origin in host.origins}

    @property
    def has_answered(self) -> bool:
        """True when any host answered for any image."""
        return any(host.has_answered for host in self._hosts.values())

    @property
    def postponed(self) -> Mapping[str, int]:
        """The number of images that were not requested because their host is down, by host."""
        return {host.name: host.postponed for host in self._hosts.values() if host.postponed}


def origin_of(url: str) -> str:
    """The beginning of a URL up to its path, without normalisation."""
    return "/".join(url.split("/", 3)[:3]) + "/"
