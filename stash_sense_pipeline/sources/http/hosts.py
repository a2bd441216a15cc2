"""The state of each host: rate limiter, circuit breaker, and the lock for one request at a time."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import CIRCUIT_OPEN, CircuitOpenError, Outcome, SourceError
from stash_sense_pipeline.sources.http.address_guard import host_of
from stash_sense_pipeline.sources.http.rate_limiter import HostLimiters, RateLimiter
from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy


class CircuitBreaker:
    """Opens after `circuit_after` consecutive failures of a host, for `circuit_open` seconds."""

    def __init__(self, source: str, host: str, policy: RetryPolicy, clock: Clock) -> None:
        self._source = source
        self._host = host
        self._policy = policy
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._outcome = Outcome.TIMEOUT

    def check(self) -> None:
        """Raises CircuitOpenError, with the outcome of the last failure, while the circuit is open."""
        if self._clock.monotonic() < self._open_until:
            raise CircuitOpenError(
                self._source,
                self._outcome,
                f"{self._host} failed {self._policy.circuit_after} times in a row and {CIRCUIT_OPEN}",
            )

    def succeeded(self) -> None:
        """Counts an answer: the failures before it do not count."""
        self._failures = 0

    def failed(self, outcome: Outcome) -> None:
        """Counts a failure."""
        self._failures += 1
        self._outcome = outcome
        if self._failures >= self._policy.circuit_after:
            self._open_until = self._clock.monotonic() + self._policy.circuit_open
            # One more failure after the pause opens it again.
            self._failures = self._policy.circuit_after - 1


@dataclass(frozen=True)
class Host:
    """One `host:port`. `slot` is held while a request is in flight, where only one may be."""

    name: str
    limiter: RateLimiter
    circuit: CircuitBreaker
    slot: AbstractAsyncContextManager[None]

    def check_pause(self, source: str, longest: float) -> None:
        """Raises SourceError (rate_limited) when the host asked for a pause of more than `longest` seconds."""
        if self.limiter.next_in > longest:
            raise SourceError(
                source,
                Outcome.RATE_LIMITED,
                f"{self.name} asked for a pause of another {self.limiter.next_in:.0f} s",
            )


class Hosts:
    """The hosts of one client, each created at its first request."""

    def __init__(
        self,
        source: str,
        limiters: HostLimiters,
        policy: RetryPolicy,
        clock: Clock,
        *,
        one_at_a_time: bool,
    ) -> None:
        self._source = source
        self._limiters = limiters
        self._policy = policy
        self._clock = clock
        self._one_at_a_time = one_at_a_time
        self._hosts: dict[str, Host] = {}

    def of(self, url: str) -> Host:
        """The host of a URL. Raises SourceError (disallowed) when it is not a web address."""
        try:
            name = host_of(url)
        except ValueError as error:
            raise SourceError(self._source, Outcome.DISALLOWED, "not a web address") from error
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(
                name,
                self._limiters.of(name),
                CircuitBreaker(self._source, name, self._policy, self._clock),
                asyncio.Lock() if self._one_at_a_time else nullcontext(),
            )
        return host
