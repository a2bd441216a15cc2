"""Evenly spaced rate limiter for each host."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from stash_sense_pipeline.foundation.clock import Clock

_SECONDS_A_MINUTE = 60.0
# Timers fire about a millisecond late, which at 40 requests a second would cost every 25th request.
_MAX_CATCH_UP = 0.002
_CATCH_UP_SHARE = 0.1


class RateLimiter:
    """Permits one request every `60 / rate` seconds, first come first served.

    Unused time is not saved, so there are no bursts. Half of the delay of a late timer is caught up, at most `slack`: two
    milliseconds or a tenth of the interval, whichever is smaller. In any window of t seconds at most
    `(t + slack) * rate / 60 + 1` requests are sent, and over time never more than the rate.
    """

    def __init__(self, rate: float, clock: Clock) -> None:
        """`rate` is in requests a minute, above 0."""
        if not rate > 0:
            raise ValueError(f"the rate must be above 0 requests a minute, and is {rate}")
        self._interval = _SECONDS_A_MINUTE / rate
        self._clock = clock
        self._next = clock.monotonic()
        self._last: float | None = None
        self._queue = asyncio.Lock()

    async def wait(self) -> None:
        """Waits until the caller may send one request."""
        async with self._queue:
            while (delay := self._next - self._clock.monotonic()) > 0:
                await self._clock.sleep(delay)
            self._last = self._clock.monotonic()
            caught_up = min(self.slack, (self._last - self._next) / 2)
            self._next = self._last + self._interval - caught_up

    def pause(self, seconds: float) -> None:
        """Permits no request for at least `seconds` from now, waiting callers included."""
        self._next = max(self._next, self._clock.monotonic() + seconds)

    def widen(self, seconds: float) -> None:
        """Sets the interval between two requests to at least `seconds`."""
        self._interval = max(self._interval, seconds)
        if self._last is not None:
            self._next = max(self._next, self._last + self._interval)

    @property
    def slack(self) -> float:
        """Seconds by which two requests may follow each other faster than the interval."""
        return min(_MAX_CATCH_UP, _CATCH_UP_SHARE * self._interval)

    @property
    def next_in(self) -> float:
        """Seconds until the next request is permitted."""
        return max(0.0, self._next - self._clock.monotonic())


class HostLimiters:
    """One RateLimiter for each `host:port`, created at first use with the rate of the host."""

    def __init__(self, rate: float, clock: Clock, rates: Mapping[str, float] | None = None) -> None:
        """`rates` are in requests a minute by `host:port`; `rate` applies to all other hosts."""
        self._rate = rate
        self._rates = dict(rates or {})
        self._clock = clock
        self._limiters: dict[str, RateLimiter] = {}

    def of(self, host: str) -> RateLimiter:
        """The limiter of a host."""
        if host not in self._limiters:
            self._limiters[host] = RateLimiter(self._rates.get(host, self._rate), self._clock)
        return self._limiters[host]
