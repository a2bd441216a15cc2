"""Sends one HTTP request once, within limits of time and size, and turns each failure into a SourceError."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import httpx

from stash_sense_pipeline.foundation.errors import (
    BodyTooLargeError,
    Outcome,
    SourceError,
    UnreachableError,
)
from stash_sense_pipeline.privacy.redaction.log_redaction import redacted
from stash_sense_pipeline.sources.http.address_guard import AddressGuard, RefusedAddressError, Resolver
from stash_sense_pipeline.sources.http.response import Response, origin_of
from stash_sense_pipeline.sources.http.response_body import (
    ACCEPT_ENCODING,
    LongBodyError,
    body_pieces,
    read_body,
)
from stash_sense_pipeline.sources.http.response_status import ERROR_BODY_BYTES
from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy

_CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})
_FAILURES = (httpx.TransportError, httpx.DecodingError, httpx.InvalidURL, RefusedAddressError, OSError)
# Request headers that hold a key.
_SECRET_HEADERS = frozenset({"apikey", "authorization"})


@dataclass(frozen=True)
class Request:
    """A request to send. At most `max_bytes` of the decoded response body are read."""

    method: str
    url: str
    max_bytes: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    @property
    def is_conditional(self) -> bool:
        """True when the server may answer 304 Not Modified."""
        return not self.headers.keys().isdisjoint(_CONDITIONS)


class Exchange:
    """Sends requests over an httpx client with the AddressGuard as its transport. Nothing is retried."""

    def __init__(
        self, source: str, user_agent: str, policy: RetryPolicy, trusted: Collection[str], resolver: Resolver
    ) -> None:
        """`trusted` (`host:port`) may have addresses that are not public."""
        self._source = source
        self._total = policy.total
        self._secrets: set[str] = set()
        self._http = httpx.AsyncClient(
            headers={"User-Agent": user_agent, "Accept-Encoding": ACCEPT_ENCODING},
            timeout=httpx.Timeout(policy.read, connect=policy.connect, pool=None),
            transport=_guarded_transport(trusted, resolver),
            follow_redirects=False,
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    def redact(self, text: str) -> str:
        """A text of a server, without the keys that were sent to it."""
        return redacted(text, self._secrets)

    async def send(self, request: Request) -> Response:
        """The response, whatever its status. Raises SourceError when no complete response arrived."""
        self._secrets.update(_secrets_in(request.headers))
        try:
            async with (
                asyncio.timeout(self._total),
                self._http.stream(
                    request.method, request.url, headers=dict(request.headers), content=request.body
                ) as answer,
            ):
                content = await self._read(request, answer)
                return Response(
                    url=str(answer.url),
                    status=answer.status_code,
                    headers={name.lower(): value for name, value in answer.headers.items()},
                    content=content,
                    source=self._source,
                )
        except _FAILURES as error:
            raise self._failure(origin_of(request.url), error) from error

    async def _read(self, request: Request, answer: httpx.Response) -> bytes:
        if answer.status_code not in range(200, 300):
            return await _read_beginning(answer)
        try:
            return await read_body(answer, request.max_bytes)
        except LongBodyError as error:
            raise BodyTooLargeError(
                self._source,
                Outcome.DISALLOWED,
                f"{origin_of(request.url)} is larger than {request.max_bytes} bytes",
            ) from error

    def _failure(self, origin: str, error: Exception) -> SourceError:
        """The typed failure for an error of httpx, of the address guard or of the socket layer."""
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return SourceError(self._source, Outcome.DISALLOWED, "not a web address")
        if isinstance(error, RefusedAddressError):
            return SourceError(self._source, Outcome.DISALLOWED, f"{origin} {error}")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | socket.gaierror):
            return UnreachableError(self._source, Outcome.TIMEOUT, f"{origin} could not be reached: {reason}")
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return SourceError(self._source, Outcome.TIMEOUT, f"{origin} did not answer in time")
        if isinstance(error, httpx.DecodingError):
            return SourceError(
                self._source, Outcome.PARSE_ERROR, f"{origin} sent a body that cannot be decoded"
            )
        # The text of a protocol error quotes what the server sent.
        quoted = self.redact(reason)[:200]
        return SourceError(self._source, Outcome.TIMEOUT, f"{origin} could not be reached or read: {quoted}")


def _guarded_transport(trusted: Collection[str], resolver: Resolver) -> AddressGuard:
    """A transport that connects only to checked addresses, with at most 16 connections to each host."""
    context = httpx.create_ssl_context(trust_env=False)
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)

    def make_transport() -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)

    return AddressGuard(trusted, make_transport, resolver)


async def _read_beginning(answer: httpx.Response) -> bytes:
    """The beginning of the body of a failed request. Empty when it cannot be decoded: the status still counts."""
    beginning = b""
    try:
        async for piece in body_pieces(answer, ERROR_BODY_BYTES):
            beginning += piece
            if len(beginning) > ERROR_BODY_BYTES:
                break
    except LongBodyError:
        return beginning
    except httpx.DecodingError:
        return b""
    return beginning


def _secrets_in(headers: Mapping[str, str]) -> set[str]:
    """The keys in request headers, without the name of the authentication scheme."""
    return {value.rpartition(" ")[2] for name, value in headers.items() if name.lower() in _SECRET_HEADERS}
