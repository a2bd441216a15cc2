"""The HTTP client of a source: pacing, retries, circuit breaker, limits, typed failures."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import httpx

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import (
    LEFT_ALONE,
    BodyTooLargeError,
    CircuitOpenError,
    HttpStatusError,
    Outcome,
    SourceError,
    UnreachableError,
)
from stash_sense_pipeline.privacy.redaction.log_redaction import redacted
from stash_sense_pipeline.sources.http.address_guard import (
    AddressGuard,
    RefusedAddressError,
    Resolver,
    host_of,
    resolve,
)
from stash_sense_pipeline.sources.http.rate_limiter import HostLimiters
from stash_sense_pipeline.sources.http.response_body import (
    ACCEPT_ENCODING,
    LongBodyError,
    body_pieces,
    read_body,
)

MIB = 1024 * 1024
# A page of 2,000 listed performers has 2 MB, a page of 100 whole records less. Parsed JSON takes up to 30 times its size.
API_MAX_BYTES = 8 * MIB

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 3
# 520 to 524 are Cloudflare's words for an origin in trouble.
_MAY_PASS = frozenset({408, 429, 502, 503, 504, 520, 521, 522, 523, 524})
_NOT_MODIFIED = 304
_CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})
_CHALLENGED = frozenset({403, 503})
_CHALLENGE_MARK = b"/cdn-cgi/challenge-platform/"
_BODY_SHOWN = 2000
_NAMED_TYPES = frozenset(
    {"application/json", "application/xml", "application/xhtml+xml", "application/octet-stream"}
    | {"application/graphql-response+json", "application/problem+json", "text/html", "text/plain", "text/xml"}
)
# Headers of a request that hold a key.
_SECRET_HEADERS = frozenset({"apikey", "authorization"})
_OUTCOMES = {
    401: Outcome.BLOCKED,
    403: Outcome.BLOCKED,
    404: Outcome.NOT_FOUND,
    407: Outcome.BLOCKED,
    408: Outcome.TIMEOUT,
    410: Outcome.GONE,
    429: Outcome.RATE_LIMITED,
    451: Outcome.BLOCKED,
}

# Whether a request may be sent once more.
MayRetry = Callable[[], bool]
# Asked before every address, also of a redirect; raises SourceError where it may not be fetched.
Gate = Callable[["PoliteClient", str], Awaitable[None]]
# Python refuses to read a number of more than 4,300 digits.
_MAX_DIGITS = 4000


@dataclass(frozen=True)
class Response:
    """A successful answer (2xx, or 304 to a conditional request). `headers` have lower-case names; `content` is
    decoded."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    source: str

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, empty when the server names none."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON. SourceError (parse_error) when it is something else, say a proxy's HTML page."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            pass
        try:
            return _tolerant_json(self.content)
        except (ValueError, RecursionError) as error:
            # Other words of a server may be anything, also the key that was sent to it.
            what = self.content_type if self.content_type in _NAMED_TYPES else "unknown content"
            raise SourceError(
                self.source,
                Outcome.PARSE_ERROR,
                f"{_shown(self.url)} did not answer with JSON but with {len(self.content)} bytes of {what}",
            ) from error


def _tolerant_json(content: bytes) -> Any:
    """JSON in which one value is written wrongly, which is no reason to lose the others of an answer.

    Bytes that are no UTF-8 become lone surrogates, control characters stay, and a number of more digits than Python
    reads becomes infinity. What cleans the fields knows all three.
    """
    text = content.decode(json.detect_encoding(content), "surrogateescape")
    return json.loads(text, strict=False, parse_int=_whole_number)


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often to try: seconds; `attempts` a request; `circuit_after` failures in a row."""

    attempts: int = 5
    connect: float = 10.0
    read: float = 30.0
    total: float = 120.0
    first_delay: float = 1.0
    first_delay_when_limited: float = 5.0
    max_delay: float = 60.0
    max_retry_after: float = 600.0
    circuit_after: int = 10
    circuit_open: float = 60.0


# A site that no key admits us to: fewer tries. Longer pauses are the breaker's, which lasts across runs.
# The circuit opens later than the runs of sites judge by the pages that failed: see sources.enrich.
SITE_RETRY_POLICY = RetryPolicy(attempts=3, total=60.0, circuit_after=30)


def user_agent(contact: str) -> str:
    """`stash-sense-pipeline/<version> (+contact)`, without the bracket when there is no contact."""
    name = f"stash-sense-pipeline/{version('stash-sense-pipeline')}"
    return f"{name} (+{contact})" if contact else name


def outcome_of_status(status: int) -> Outcome:
    """What a status that is no success means."""
    return _OUTCOMES.get(status, Outcome.TIMEOUT if status >= 500 else Outcome.PARSE_ERROR)


class _Circuit:
    """Counts failed tries in a row of one host and opens when they are too many."""

    def __init__(self, retry_policy: RetryPolicy, clock: Clock) -> None:
        self._retry_policy = retry_policy
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._outcome = Outcome.TIMEOUT

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, outcome: Outcome) -> None:
        self._failures += 1
        self._outcome = outcome
        if self._failures >= self._retry_policy.circuit_after:
            self._open_until = self._clock.monotonic() + self._retry_policy.circuit_open
            # One more failure after the pause opens it again.
            self._failures = self._retry_policy.circuit_after - 1

    @property
    def outcome_if_open(self) -> Outcome | None:
        return self._outcome if self._clock.monotonic() < self._open_until else None


class PoliteClient:
    """HTTP for one source, to be used inside one event loop as an async context manager.

    Every request waits for its host's limiter, API and images of a host alike. What may pass (429, gateway
    errors, connection failures, cut bodies, timeouts) is tried again with jitter and Retry-After; the rest is
    not. A host that fails `circuit_after` times in a row is left alone for a while (CircuitOpenError).
    `gate` is asked about every address before it is fetched; with `one_at_a_time` a host never has two requests
    under way.
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
        """`rate` in requests a minute for each host, but for the `host:port` that `rates` names.

        `trusted_hosts` (`host:port`) may be private, as the host of `own_url` may.
        """
        self.source = source
        self.requests = 0
        self._secrets: set[str] = set()
        self._clock = clock or Clock()
        self._retry_policy = retry_policy or RetryPolicy()
        self._limiters = HostLimiters(rate, self._clock, rates)
        self._circuits: dict[str, _Circuit] = {}
        self._gate = gate
        self._under_way: dict[str, asyncio.Lock] | None = {} if one_at_a_time else None
        self._jitter = random.Random()
        self._http = httpx.AsyncClient(
            headers={"User-Agent": user_agent(contact), "Accept-Encoding": ACCEPT_ENCODING},
            timeout=httpx.Timeout(self._retry_policy.read, connect=self._retry_policy.connect, pool=None),
            transport=_guarded_transport({host_of(own_url), *trusted_hosts}, resolver),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

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
        """GETs a URL; at most `max_bytes` of decoded body are read, a longer one is refused (disallowed).

        Only the gate itself asks without being `gated`. With `may_retry` the URL is one of many items of its host: its
        failures do not open the circuit (a rate limit does), and each further try needs the consent of `may_retry`.
        """
        try:
            target = httpx.URL(url)
            request = httpx.Request("GET", target.copy_merge_params(params) if params else target)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise SourceError(self.source, Outcome.DISALLOWED, "not a web address") from error
        for _ in range(_MAX_REDIRECTS + 1):
            if gated and self._gate is not None:
                await self._gate(self, str(request.url))
            response = await self._send(
                "GET", str(request.url), dict(headers or {}), None, max_bytes, may_retry
            )
            if response.status not in _REDIRECTS:
                return response
            request = httpx.Request("GET", self._redirected(response))
        raise SourceError(self.source, Outcome.DISALLOWED, f"{_shown(url)} redirects in a circle")

    async def post_json(
        self,
        url: str,
        payload: Any,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = API_MAX_BYTES,
        may_retry: MayRetry | None = None,
    ) -> Response:
        """POSTs JSON. It must be a read, as it may be sent twice. Redirects are refused (disallowed). `may_retry` as in
        `get`.
        """
        body = json.dumps(payload, separators=(",", ":")).encode()
        sent = {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})}
        response = await self._send("POST", url, sent, body, max_bytes, may_retry)
        if response.status in _REDIRECTS:
            try:
                target = self._quoted(str(httpx.URL(url).join(response.headers.get("location", ""))))
            except (httpx.InvalidURL, ValueError):
                target = "no address"
            raise SourceError(
                self.source,
                Outcome.DISALLOWED,
                f"{_endpoint(url)} redirects to {_endpoint(target)}; if that is right, make it the url of this source",
            )
        return response

    def slow_down(self, url: str, seconds: float) -> None:
        """From now on at most one request every `seconds` goes to the URL's host, if it is not slower already."""
        self._limiters.of(host_of(url)).widen(seconds)

    @asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """The URL's turn at its host for a request that somebody else sends, say a browser: gate, circuit and pace.

        The block's SourceErrors count for the circuit as those of own requests.
        """
        if self._gate is not None:
            await self._gate(self, url)
        host = self._host(url)
        circuit = self._circuits.setdefault(host, _Circuit(self._retry_policy, self._clock))
        async with self._slot(host):
            self._check_open(host, circuit)
            await self._limiters.of(host).wait()
            self.requests += 1
            try:
                yield
            except SourceError as error:
                if not error.outcome.is_answer and error.outcome is not Outcome.DISALLOWED:
                    circuit.failed(error.outcome)
                raise
            circuit.succeeded()

    def _slot(self, host: str) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._under_way is None else self._under_way.setdefault(host, asyncio.Lock())

    def _host(self, url: str) -> str:
        try:
            return host_of(url)
        except ValueError as error:
            raise SourceError(self.source, Outcome.DISALLOWED, "not a web address") from error

    async def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        max_bytes: int,
        may_retry: MayRetry | None = None,
    ) -> Response:
        """One request with its retries. Returns 2xx and redirects, raises SourceError for the rest."""
        host = self._host(url)
        circuit = self._circuits.setdefault(host, _Circuit(self._retry_policy, self._clock))
        limiter = self._limiters.of(host)
        conditional = not headers.keys().isdisjoint(_CONDITIONS)
        failure: SourceError | None = None
        for attempt in range(1, self._retry_policy.attempts + 1):
            self._check_open(host, circuit)
            if limiter.next_in > self._retry_policy.max_retry_after:
                raise SourceError(
                    self.source,
                    Outcome.RATE_LIMITED,
                    f"{host} asked to be left alone for another {limiter.next_in:.0f} s",
                )
            try:
                async with self._slot(host):
                    await limiter.wait()
                    self._check_open(host, circuit)
                    # Asked once more: other items may have failed while this one waited.
                    if failure is not None and not _may_try_again(failure, may_retry):
                        raise failure
                    response = await self._exchange(method, url, headers, body, max_bytes)
                failure = self._failure(method, response, conditional)
            except CircuitOpenError:
                raise
            except SourceError as error:
                if error.outcome is Outcome.DISALLOWED:
                    raise
                failure, response = error, None
            if failure is None:
                circuit.succeeded()
                assert response is not None
                return response
            if failure.outcome.is_answer:
                circuit.succeeded()
                raise failure
            if isinstance(failure, HttpStatusError) and failure.outcome is Outcome.PARSE_ERROR:
                raise failure
            if may_retry is None or failure.outcome is Outcome.RATE_LIMITED:
                circuit.failed(failure.outcome)
            passing = not isinstance(failure, HttpStatusError) or failure.status in _MAY_PASS
            if failure.outcome is Outcome.BLOCKED or not passing or attempt == self._retry_policy.attempts:
                raise failure
            if not _may_try_again(failure, may_retry):
                limiter.pause(self._retry_after(response) or 0.0)
                raise failure
            limiter.pause(self._delay(attempt, failure, response))
        raise AssertionError("unreachable")

    def _check_open(self, host: str, circuit: _Circuit) -> None:
        outcome = circuit.outcome_if_open
        if outcome is not None:
            raise CircuitOpenError(
                self.source,
                outcome,
                f"{host} failed {self._retry_policy.circuit_after} times in a row and {LEFT_ALONE}",
            )

    async def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, max_bytes: int
    ) -> Response:
        """Sends one request once; raises SourceError when no whole answer came."""
        self._secrets.update(_secrets_in(headers))
        try:
            self.requests += 1
            async with (
                asyncio.timeout(self._retry_policy.total),
                self._http.stream(method, url, headers=headers, content=body) as answer,
            ):
                content = await self._read(url, answer, max_bytes)
                return Response(
                    url=str(answer.url),
                    status=answer.status_code,
                    headers={name.lower(): value for name, value in answer.headers.items()},
                    content=content,
                    source=self.source,
                )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise SourceError(self.source, Outcome.DISALLOWED, "not a web address") from error
        except RefusedAddressError as error:
            raise SourceError(self.source, Outcome.DISALLOWED, f"{_shown(url)} {error}") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, socket.gaierror) as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(
                self.source, Outcome.TIMEOUT, f"{_shown(url)} could not be reached: {reason}"
            ) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise SourceError(
                self.source, Outcome.TIMEOUT, f"{_shown(url)} did not answer in time"
            ) from error
        except httpx.DecodingError as error:
            raise SourceError(
                self.source, Outcome.PARSE_ERROR, f"{_shown(url)} sent a broken body"
            ) from error
        except (httpx.TransportError, OSError) as error:
            reason = str(error) or type(error).__name__
            # The text of a protocol error quotes what the server sent.
            raise SourceError(
                self.source,
                Outcome.TIMEOUT,
                f"{_shown(url)} could not be reached or read: {self._quoted(reason)[:200]}",
            ) from error

    async def _read(self, url: str, answer: httpx.Response, max_bytes: int) -> bytes:
        if answer.status_code not in range(200, 300):
            return await _beginning(answer)
        try:
            return await read_body(answer, max_bytes)
        except LongBodyError as error:
            raise BodyTooLargeError(
                self.source, Outcome.DISALLOWED, f"{_shown(url)} is larger than {max_bytes} bytes"
            ) from error

    def _quoted(self, text: str) -> str:
        """A text of a server, without the keys that were sent to it."""
        return redacted(text, self._secrets)

    def _redirected(self, response: Response) -> httpx.URL:
        old = httpx.URL(response.url)
        try:
            new = old.join(response.headers.get("location", ""))
            host_of(str(new))
        except (httpx.InvalidURL, ValueError) as error:
            raise SourceError(
                self.source, Outcome.PARSE_ERROR, f"{_shown(response.url)} redirects to no address"
            ) from error
        if (old.scheme, new.scheme) == ("https", "http"):
            # The key of the source would go over the network in the clear.
            raise SourceError(
                self.source, Outcome.DISALLOWED, f"{_shown(response.url)} redirects from https to http"
            )
        upgraded = (old.scheme, new.scheme) == ("http", "https") and old.port is None and new.port is None
        if new.host != old.host or not (host_of(str(new)) == host_of(str(old)) or upgraded):
            raise SourceError(
                self.source,
                Outcome.DISALLOWED,
                f"{_shown(response.url)} redirects to another host, {_shown(self._quoted(str(new)))}",
            )
        return new

    def _failure(self, method: str, response: Response, conditional: bool) -> SourceError | None:
        status = response.status
        if 200 <= status < 300 or status in _REDIRECTS or (conditional and status == _NOT_MODIFIED):
            return None
        outcome = outcome_of_status(status)
        challenged = status in _CHALLENGED and _CHALLENGE_MARK in response.content
        if challenged or response.headers.get("cf-mitigated") == "challenge":
            outcome = Outcome.BLOCKED
        asked = _endpoint(response.url) if method == "POST" else _shown(response.url)
        message = f"{method} {asked} answered {status}"
        return HttpStatusError(self.source, outcome, message, status, response.content[:_BODY_SHOWN])

    def _delay(self, attempt: int, failure: SourceError, response: Response | None) -> float:
        """Seconds to leave the host alone before the next try."""
        asked = self._retry_after(response)
        if asked is not None:
            return asked
        limited = failure.outcome is Outcome.RATE_LIMITED
        first = self._retry_policy.first_delay_when_limited if limited else self._retry_policy.first_delay
        longest = min(self._retry_policy.max_delay, first * 2.0 ** (attempt - 1))
        return longest * self._jitter.uniform(0.5, 1.0)

    def _retry_after(self, response: Response | None) -> float | None:
        """Retry-After in seconds (RFC 9110 10.2.3), measured on the server's own clock where it tells it."""
        text = response.headers.get("retry-after", "").strip() if response is not None else ""
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            until = parsedate_to_datetime(text)
            assert response is not None
            date = response.headers.get("date")
            now = parsedate_to_datetime(date) if date else self._clock.now()
            return max(0.0, (until - now).total_seconds())
        except (TypeError, ValueError):
            return None


def _guarded_transport(trusted: Collection[str], resolver: Resolver) -> AddressGuard:
    """The transport of a source: only checked addresses, at most 16 connections to each host."""
    context = httpx.create_ssl_context(trust_env=False)
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)

    def make_transport() -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)

    return AddressGuard(trusted, make_transport, resolver)


async def _beginning(answer: httpx.Response) -> bytes:
    """The beginning of an answer that is no success, for its message. Its status counts, even with a broken body."""
    beginning = b""
    try:
        async for piece in body_pieces(answer, _BODY_SHOWN):
            beginning += piece
            if len(beginning) > _BODY_SHOWN:
                break
    except LongBodyError:
        return beginning
    except httpx.DecodingError:
        return b""
    return beginning


def _may_try_again(failure: SourceError, may_retry: MayRetry | None) -> bool:
    """A rate limit is the host's word to all of its items: it is waited for, whatever `may_retry` says."""
    return failure.outcome is Outcome.RATE_LIMITED or may_retry is None or may_retry()


def _secrets_in(headers: Mapping[str, str]) -> set[str]:
    """The keys in the headers of a request, without the word for their kind."""
    return {value.rpartition(" ")[2] for name, value in headers.items() if name.lower() in _SECRET_HEADERS}


def _shown(url: str) -> str:
    """Scheme and host: paths name people, and messages go into logs and the run history."""
    return "/".join(url.split("?")[0].split("/")[:3])[:200]


def _endpoint(url: str) -> str:
    """The address of an interface that takes its questions in the body, without its query."""
    return url.split("?")[0][:200]
