"""ASGI middleware of the review page: only the browser of this machine, with the secret path, reaches it."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The largest form has a reason and the names of an entry.
_BODY_BYTES = 64 * 1024
_FORM = "application/x-www-form-urlencoded"
_HEADERS = {
    "Cache-Control": "no-store, max-age=0",
    "Pragma": "no-cache",
    # Everything comes from this page's own address. A link opens another site without an address of this one.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
    # With no-referrer, browsers would send `Origin: null` with the forms of the page itself.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class PageAccess:
    """The port of the page, and the secret first part of each path."""

    port: int
    token: str = field(repr=False)

    @property
    def hosts(self) -> frozenset[str]:
        """The Host headers that the page answers to."""
        return frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})

    def is_token(self, given: str) -> bool:
        """True for the secret. The comparison takes constant time."""
        return hmac.compare_digest(given.encode(), self.token.encode())


class PageGuard:
    """Passes on the requests that `refusal_of` accepts, with a bounded form as body, and adds headers to all answers."""

    def __init__(self, app: ASGIApp, access: PageAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        send = _with_headers(send)
        refusal = refusal_of(scope, self._access)
        if refusal is None and scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                refusal = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            else:
                receive = _replayed(body)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(f"{refusal.phrase.lower()}\n", refusal)(scope, receive, send)


def refusal_of(scope: Scope, access: PageAccess) -> HTTPStatus | None:
    """The refusal of a request by all but its body; None when it may pass. A wrong path says no more than that."""
    headers = Headers(scope=scope)
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or hosts[0] not in access.hosts:
        return HTTPStatus.FORBIDDEN
    # Browsers send Origin with each form, and a page cannot change it.
    if len(origins) > 1 or any(origin != f"http://{hosts[0]}" for origin in origins):
        return HTTPStatus.FORBIDDEN
    if not set(headers.getlist("sec-fetch-site")) <= {"same-origin", "none"}:
        return HTTPStatus.FORBIDDEN
    if not access.is_token(scope["path"].lstrip("/").partition("/")[0]):
        return HTTPStatus.NOT_FOUND
    if scope["method"] in ("GET", "HEAD"):
        return None
    if scope["method"] != "POST":
        return HTTPStatus.METHOD_NOT_ALLOWED
    if not origins:
        return HTTPStatus.FORBIDDEN
    kinds = [kind.partition(";")[0].strip().lower() for kind in headers.getlist("content-type")]
    return None if kinds == [_FORM] else HTTPStatus.UNSUPPORTED_MEDIA_TYPE


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None when it is too long or broke off."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > _BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    return replayed


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return sent
