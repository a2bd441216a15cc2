"""Evenly spaced rate limiter for each host."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from stash_sense_pipeline.foundation.clock import Clock

_SECONDS_A_MINUTE = 60.0
# Timers wake up about a millisecond late, which at 40 requests a second would be every 25th of them.
_MOST_MADE_UP = 0.002
_SHARE_MADE_UP = 0.1


class RateLimiter:
    """Lets one request go every `60 / rate` seconds, first come first served.

    Time that nobody used is not saved up, so there are no bursts. Only half of what a timer was late is made up for, up
    to two milliseconds or a tenth of the interval, the smaller of both (`slack`): in any window of t seconds at most
    `(t + slack) * rate / 60 + 1` go, and over time never more than the rate.
    """

    def __init__(self, rate: float, clock: Clock) -> None:
        """`rate` is in requests a minute, above 0."""
        if not rate > 0:
            raise ValueError(f"a rate of {rate} requests a minute lets nothing go")
        self._interval = _SECONDS_A_MINUTE / rate
        self._clock = clock
        self._next = clock.monotonic()
        self._last: float | None = None
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Returns when the caller may send one request."""
        async with self._turn:
            while (delay := self._next - self._clock.monotonic()) > 0:
                await self._clock.sleep(delay)
            self._last = self._clock.monotonic()
            made_up = min(self.slack, (self._last - self._next) / 2)
            self._next = self._last + self._interval - made_up

    def pause(self, seconds: float) -> None:
        """Lets nothing go for at least so long from now, also those who wait already."""
        self._next = max(self._next, self._clock.monotonic() + seconds)

    def widen(self, seconds: float) -> None:
        """From now on leaves at least so long between two requests."""
        self._interval = max(self._interval, seconds)
        if self._last is not None:
            self._next = max(self._next, self._last + self._interval)

    @property
    def slack(self) -> float:
        """Seconds by which two requests may be closer than the interval."""
        return min(_MOST_MADE_UP, _SHARE_MADE_UP * self._interval)

    @property
    def next_in(self) -> float:
        """Seconds until the next request may go."""
        return max(0.0, self._next - self._clock.monotonic())


class HostLimiters:
    """One EvenLimiter for each `host:port`, made at first use with that host's rate."""

    def __init__(self, rate: float, clock: Clock, rates: Mapping[str, float] | None = None) -> None:
        """`rate` in requests a minute for hosts that `rates` does not name."""
        self._rate = rate
        self._rates = dict(rates or {})
        self._clock = clock
        self._limiters: dict[str, RateLimiter] = {}

    def of(self, host: str) -> RateLimiter:
        """The limiter of that host."""
        if host not in self._limiters:
            self._limiters[host] = RateLimiter(self._rates.get(host, self._rate), self._clock)
        return self._limiters[host]
