"""Image hosts of one run: how each answers, and the evidence by which one is called down for the rest of the run.

A failure is the image's until different images of a host fail in a row. Then the host is suspected: nothing but evidence
is asked of it until images from elsewhere have told whether the host or only those images fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum, auto

from stash_sense_pipeline.foundation.errors import LEFT_ALONE, SourceError, UnreachableError
from stash_sense_pipeline.sources.http.address_guard import host_of

# Different images that fail in a row before evidence is asked for; doubled each time that the host was found well.
_FAILURES_IN_A_ROW = 3
# Refusals (404 and the like) are answers. So many in a row, without a picture between, are worth a look all the same.
_REFUSALS_IN_A_ROW = 50
# A cache may answer for a dead host: after so many failures in a row its other images wait for the next day.
_MOST_IN_A_ROW = 100


class Suspicion(Enum):
    """Why a host is suspected."""

    FAILURES = auto()
    REFUSALS = auto()


class ImageHost:
    """One host and what its images gave in this run. For one event loop."""

    def __init__(self, source: str, name: str) -> None:
        """`name` is `host:port`."""
        self.name = name
        self.suspicion: Suspicion | None = None
        self.is_verified = False
        self.is_down = False
        # Why it is down; None when other evidence says that it answers, only not for what waits.
        self.error: SourceError | None = None
        self.has_answered = False
        self.origins: set[str] = set()
        self.postponed = 0
        self._source = source
        self._failing: dict[str, SourceError] = {}
        self._refused: set[str] = set()
        self._patience = {
            Suspicion.FAILURES: _FAILURES_IN_A_ROW,
            Suspicion.REFUSALS: _REFUSALS_IN_A_ROW,
        }
        self._in_flight = 0
        self._run_ends = False
        self._changed = asyncio.Event()

    # --- asking ---

    async def admit(self) -> bool:
        """Waits until an image may be asked for; False when the host is down or the run ends.

        `leave` must follow a True.
        """
        while not (self.is_down or self._run_ends):
            if self.suspicion is None and (
                self.has_answered or self._open < self._patience[Suspicion.FAILURES]
            ):
                self._in_flight += 1
                return True
            self._changed.clear()
            await self._changed.wait()
        return False

    @property
    def _open(self) -> int:
        """Images that failed or may fail yet. A host that has not answered gets no more of them than decide about it."""
        return self._in_flight + len(self._failing)

    def leave(self) -> None:
        """The image that was admitted has its answer."""
        self._in_flight -= 1
        self._changed.set()

    def may_retry(self) -> bool:
        """May one image be tried once more at once? Not while several fail: then it is not about that image."""
        return not self.is_down and self.suspicion is None and len(self._failing) < _FAILURES_IN_A_ROW

    def has_failed(self, url: str) -> bool:
        """Does a failure of this address count against the host now?"""
        return url in self._failing

    def has_refused(self, url: str) -> bool:
        """Does a refusal of this address count against the host now?"""
        return url in self._refused

    # --- what came ---

    def gave_picture(self) -> None:
        """A whole picture came: whatever failed before it failed for itself."""
        self.has_answered = True
        self._failing.clear()
        self._refused.clear()
        self.suspicion = None
        self._changed.set()

    def gave_refusal(self, url: str) -> None:
        """The host answered that it has no such image, or sends us elsewhere."""
        self.has_answered = True
        self._refused.add(url)
        if len(self._refused) >= self._patience[Suspicion.REFUSALS]:
            self._suspect(Suspicion.REFUSALS)
        self._changed.set()

    def gave_failure(self, url: str, error: SourceError) -> None:
        """No usable answer for this address. The same address counts once."""
        self._failing[url] = error
        if len(self._failing) >= self._patience[Suspicion.FAILURES]:
            self._suspect(Suspicion.FAILURES)
        self._changed.set()

    def _suspect(self, suspicion: Suspicion) -> None:
        if self.suspicion is None and not self.is_down:
            self.suspicion, self.is_verified = suspicion, False

    # --- evidence ---

    @property
    def is_unreachable(self) -> bool:
        """Did no connection come about for any of the failing images? That is about the host, not the images."""
        return bool(self._failing) and all(
            isinstance(error, UnreachableError) for error in self._failing.values()
        )

    def acquit(self) -> None:
        """Evidence shows that the host is well, or nothing shows that it is not. The next suspicion takes twice as much."""
        suspicion = self.suspicion
        if suspicion is None:
            return
        self.suspicion = None
        if suspicion is Suspicion.REFUSALS:
            self._refused.clear()
        else:
            self._failing.clear()
        self._patience[suspicion] *= 2
        if self._patience[Suspicion.FAILURES] > _MOST_IN_A_ROW:
            self.is_down = True
        self._changed.set()

    @property
    def last_error(self) -> SourceError:
        """The last of the failures in a row; there must be one."""
        return list(self._failing.values())[-1]

    @property
    def verdict(self) -> SourceError | None:
        """What is to be told of a host whose evidence failed as well; None when it answers, but refuses its images."""
        if self.suspicion is not Suspicion.FAILURES:
            return None
        outcome = self.last_error.outcome
        text = f"{self.name} gave none of {len(self._failing)} different images in a row and {LEFT_ALONE}"
        return SourceError(self._source, outcome, text)

    def hold(self) -> None:
        """Nothing is asked of the host while it is decided what becomes of the run."""
        self.suspicion, self.is_verified = self.suspicion or Suspicion.FAILURES, True

    def close(self, error: SourceError | None) -> None:
        """Nothing more is asked of the host in this run, because of `error`."""
        self.is_down, self.suspicion, self.error = True, None, error
        self._changed.set()

    def end_run(self) -> None:
        """Nothing more is asked of any host."""
        self._run_ends = True
        self._changed.set()


class ImageHosts:
    """The hosts of one run by name."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._hosts: dict[str, ImageHost] = {}
        self._names: dict[str, str] = {}

    def of(self, address: str, url: str) -> ImageHost | None:
        """The host of an address that is asked for the image at `url`; None when it names no host."""
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
        """The run ends: whoever waits for a host goes on."""
        for host in self._hosts.values():
            host.end_run()

    @property
    def suspected(self) -> ImageHost | None:
        """A suspected host that nothing verifies yet."""
        return next((host for host in self._hosts.values() if host.suspicion and not host.is_verified), None)

    @property
    def down(self) -> list[ImageHost]:
        """The hosts that are down, with the error or without."""
        return [host for host in self._hosts.values() if host.is_down]

    @property
    def unreachable(self) -> list[SourceError]:
        """An error of each host that no connection came about with."""
        return [host.last_error for host in self._hosts.values() if host.is_unreachable]

    @property
    def origins_down(self) -> set[str]:
        """How the URLs of images at hosts that are down begin."""
        return {origin for host in self.down for origin in host.origins}

    @property
    def has_answered(self) -> bool:
        """Did any host answer for any image?"""
        return any(host.has_answered for host in self._hosts.values())

    @property
    def postponed(self) -> Mapping[str, int]:
        """How many images each host that is down was not asked for."""
        return {host.name: host.postponed for host in self._hosts.values() if host.postponed}


def origin_of(url: str) -> str:
    """The beginning of a URL up to its path, as it is written."""
    return "/".join(url.split("/", 3)[:3]) + "/"
