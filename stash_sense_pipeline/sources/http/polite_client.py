"""The HTTP client of a source: pacing, retries, circuit breaker, limits, typed failures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import httpx

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import CircuitOpenError, HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.sources.http.address_guard import Resolver, host_of, resolve
from stash_sense_pipeline.sources.http.exchange import Exchange, Request
from stash_sense_pipeline.sources.http.hosts import Host, Hosts
from stash_sense_pipeline.sources.http.rate_limiter import HostLimiters
from stash_sense_pipeline.sources.http.redirects import MAX_REDIRECTS, redirect_target, refused_post_redirect
from stash_sense_pipeline.sources.http.response import Response, origin_of
from stash_sense_pipeline.sources.http.response_status import REDIRECTS, status_failure
from stash_sense_pipeline.sources.http.retry_policy import (
    Backoff,
    MayRetry,
    RetryPolicy,
    is_transient,
    may_try_again,
)

MIB = 1024 * 1024
# A page of 2,000 listed performers has 2 MB, a page of 100 whole records less. Parsed JSON takes up to 30 times its size.
API_MAX_BYTES = 8 * MIB

# Called before each address is fetched, redirects included; raises SourceError for one that may not be fetched.
Gate = Callable[["PoliteClient", str], Awaitable[None]]


def user_agent(contact: str) -> str:
    """`stash-sense-pipeline/<version> (+contact)`, without the parentheses when there is no contact."""
    name = f"stash-sense-pipeline/{version('stash-sense-pipeline')}"
    return f"{name} (+{contact})" if contact else name


class PoliteClient:
    """HTTP for one source. Use it as an async context manager, inside one event loop.

    All requests to a host, for its API and for its images, share one rate limiter. Transient failures (429, gateway
    errors, failed connections, truncated bodies, timeouts) are retried with jitter and Retry-After; other failures are
    not. A host that fails `circuit_after` times in a row gets no request for a while (CircuitOpenError).
    `gate` is called before each address is fetched. With `one_at_a_time` a host never has two requests in flight.
    Redirects are followed for GET on the same host only, and never from https to http. A host and port other
    than `own_url`'s and `trusted_hosts` is refused when one of its addresses is not public (see AddressGuard).
    All failures are SourceError with an Outcome.
    """

    def __init__(
        self,
        source: str,
        own_url: str,
        *,
        rate: float,
        contact: str = "",
        rates: Mapping[str, float] | None = None,
        retry_policy: RetryPolicy | None = None,
        clock: Clock | None = None,
        resolver: Resolver = resolve,
        gate: Gate | None = None,
        one_at_a_time: bool = False,
        trusted_hosts: Collection[str] = (),
    ) -> None:
        """`rate` is in requests a minute for each host; `rates` overrides it for a `host:port`.

        `trusted_hosts` (`host:port`) may have private addresses, as the host of `own_url` may.
        """
        self.source = source
        self.requests = 0
        # How far the clock of the server that answered last is ahead of ours; a Date header has whole seconds.
        self.server_ahead: timedelta | None = None
        clock = self._clock = clock or Clock()
        self._policy = retry_policy or RetryPolicy()
        self._limiters = HostLimiters(rate, clock, rates)
        self._hosts = Hosts(source, self._limiters, self._policy, clock, one_at_a_time=one_at_a_time)
        self._backoff = Backoff(self._policy, clock)
        self._gate = gate
        trusted = {host_of(own_url), *trusted_hosts}
        self._exchange = Exchange(source, user_agent(contact), self._policy, trusted, resolver)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.aclose()

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        max_bytes: int = API_MAX_BYTES,
        gated: bool = True,
        may_retry: MayRetry | None = None,
    ) -> Response:
        """GETs a URL. Returns a 2xx response, or a 304 to a conditional request.

        At most `max_bytes` of decoded body are read; a longer one is refused (disallowed). Only the gate itself makes
        requests that are not `gated`. Pass `may_retry` when the URL is one of many items of its host: its failures do
        not open the circuit (a rate limit does), and `may_retry` must return True before each further attempt.
        """
        try:
            target = httpx.URL(url)
            next_url = str(httpx.Request("GET", target.copy_merge_params(params) if params else target).url)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise SourceError(self.source, Outcome.DISALLOWED, "not a web address") from error
        for _ in range(MAX_REDIRECTS + 1):
            if gated and self._gate is not None:
                await self._gate(self, next_url)
            request = Request("GET", next_url, max_bytes, dict(headers or {}))
            response = await self._send(request, may_retry)
            if response.status not in REDIRECTS:
                return response
            following = redirect_target(response, self._exchange.redact)
            next_url = str(httpx.Request("GET", following).url)
        raise SourceError(self.source, Outcome.DISALLOWED, f"{origin_of(url)} redirects in a circle")

    async def post_json(
        self,
        url: str,
        payload: Any,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = API_MAX_BYTES,
        may_retry: MayRetry | None = None,
    ) -> Response:
        """POSTs JSON. The request must only read, as it may be sent twice. Redirects are refused (disallowed).

        `max_bytes` and `may_retry` as in `get`.
        """
        body = json.dumps(payload, separators=(",", ":")).encode()
        sent = {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})}
        response = await self._send(Request("POST", url, max_bytes, sent, body), may_retry)
        if response.status in REDIRECTS:
            raise refused_post_redirect(url, response, self._exchange.redact)
        return response

    async def check_allowed(self, url: str) -> None:
        """Asks the gate whether an address may be fetched, and does not fetch it. Raises SourceError when it may not."""
        if self._gate is not None:
            await self._gate(self, url)

    def slow_down(self, url: str, seconds: float) -> None:
        """Limits the URL's host to one request every `seconds`, unless its rate is lower already."""
        self._limiters.of(host_of(url)).widen(seconds)

    def seconds_until_next(self, url: str) -> float:
        """Seconds until the next request to the URL's host is permitted."""
        return self._limiters.of(host_of(url)).next_in

    @asynccontextmanager
    async def request_slot(self, url: str) -> AsyncIterator[None]:
        """Holds a request slot of the URL's host, for a request that another program sends, such as a browser.

        The gate, the circuit breaker and the rate limiter of the host apply. A SourceError that leaves the block counts
        for the circuit breaker as the failure of a request does.
        """
        if self._gate is not None:
            await self._gate(self, url)
        host = self._hosts.of(url)
        async with host.slot:
            host.circuit.check()
            await host.limiter.wait()
            self.requests += 1
            try:
                yield
            except SourceError as error:
                if not error.outcome.is_answer and error.outcome is not Outcome.DISALLOWED:
                    host.circuit.failed(error.outcome)
                raise
            host.circuit.succeeded()

    async def _send(self, request: Request, may_retry: MayRetry | None) -> Response:
        """Sends a request with its retries. Returns 2xx, 304 and redirects, raises SourceError for the rest."""
        host = self._hosts.of(request.url)
        failure: SourceError | None = None
        for attempt in range(1, self._policy.attempts + 1):
            host.circuit.check()
            host.check_pause(self.source, self._policy.max_retry_after)
            response: Response | None = None
            try:
                response = await self._attempt(host, request, failure, may_retry)
                failure = status_failure(request.method, response, conditional=request.is_conditional)
            except CircuitOpenError:
                raise
            except SourceError as error:
                if error.outcome is Outcome.DISALLOWED:
                    raise
                failure = error
            if response is not None and failure is None:
                host.circuit.succeeded()
                return response
            assert failure is not None
            self._count(host, failure, may_retry)
            if not is_transient(failure) or attempt == self._policy.attempts:
                raise failure
            if not may_try_again(failure, may_retry):
                host.limiter.pause(self._backoff.retry_after(response) or 0.0)
                raise failure
            host.limiter.pause(self._backoff.delay(attempt, failure, response))
        raise AssertionError("unreachable")

    async def _attempt(
        self, host: Host, request: Request, failure: SourceError | None, may_retry: MayRetry | None
    ) -> Response:
        """Sends a request once, when the host has a free slot. `failure` is that of the attempt before."""
        async with host.slot:
            await host.limiter.wait()
            host.circuit.check()
            # Consent is asked for once more: other items may have failed while this one waited.
            if failure is not None and not may_try_again(failure, may_retry):
                raise failure
            self.requests += 1
            response = await self._exchange.send(request)
            if response.date is not None:
                self.server_ahead = response.date - self._clock.now()
            return response

    @staticmethod
    def _count(host: Host, failure: SourceError, may_retry: MayRetry | None) -> None:
        """Counts a failed attempt for the circuit breaker. Raises a failure that is an answer, or an invalid request."""
        if failure.outcome.is_answer:
            host.circuit.succeeded()
            raise failure
        if isinstance(failure, HttpStatusError) and failure.outcome is Outcome.PARSE_ERROR:
            raise failure
        if may_retry is None or failure.outcome is Outcome.RATE_LIMITED:
            host.circuit.failed(failure.outcome)
