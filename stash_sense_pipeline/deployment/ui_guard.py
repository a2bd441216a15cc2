"""ASGI middleware around Dagster's UI: refuses what other web pages, other host names and strangers send it.

Dagster's webserver accepts every request: mutations by GET, any Host header, any Origin, websockets from any page.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stash_sense_pipeline.deployment.ui_access import HOSTS_VARIABLE, UiAccess, same_origin
from stash_sense_pipeline.foundation.json_file import JsonLimits, parse_json
from stash_sense_pipeline.foundation.visible_text import visible_line

# The largest request of the UI has a few hundred kilobytes: a backfill with its partitions and run configuration.
_BODY = JsonLimits(size=16 * 1024 * 1024, values=1_000_000)
_SAFE_METHODS = ("GET", "HEAD")
# Dagster serves any file with a name that ends in .ipynb here, and no asset has a notebook.
_CLOSED_PATHS = ("/notebook", "/dagit/notebook")
_GRAPHQL = "/graphql"
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Stash Sense", charset="UTF-8"'}
_ADDED_HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Added to the policy of the page itself: a browser applies all policies that it receives.
_FRAMES = "frame-ancestors 'self'"


@dataclass(frozen=True)
class Refusal:
    """The response to a request that does not reach the UI."""

    status: HTTPStatus
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)


class UiGuard:
    """Passes on requests that `refusal_of` accepts, with a bounded body, and adds security headers to responses."""

    def __init__(self, app: ASGIApp, access: UiAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = refusal_of(scope, self._access)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                # Closing a websocket that was not accepted sends status 403.
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        send = _with_headers(send)
        if refusal is None and scope["method"] == "POST":
            body = await _json_body(receive)
            if isinstance(body, Refusal):
                refusal = body
            else:
                receive = _replayed(body, receive)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        answer = PlainTextResponse(f"{refusal.reason}\n", refusal.status, dict(refusal.headers))
        await answer(scope, receive, send)


def refusal_of(scope: Scope, access: UiAccess) -> Refusal | None:
    """The refusal of a request or websocket by all but its body; None when it may reach the UI.

    Checked in this order: host, password, origin, then method, path and content type.
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if len(headers.getlist("host")) != 1 or not access.answers_to(host):
        return Refusal(
            HTTPStatus.FORBIDDEN,
            f"the UI does not answer to this host name; if it is yours, add it to {HOSTS_VARIABLE}",
        )
    if access.password is not None and not _knows_password(headers, access):
        return Refusal(HTTPStatus.UNAUTHORIZED, "the UI requires its password", _CHALLENGE)
    if _is_foreign(scope, headers, host):
        return Refusal(HTTPStatus.FORBIDDEN, "the UI does not take requests from other web pages")
    if scope["type"] == "websocket":
        return None
    return _unsuitable(scope, headers, access.path_prefix)


def _knows_password(headers: Headers, access: UiAccess) -> bool:
    """Basic authentication (RFC 7617) with any user name."""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    return access.is_password(decoded.partition(":")[2])


def _is_foreign(scope: Scope, headers: Headers, host: str) -> bool:
    """True when a page of another origin sent the request.

    Browsers send Origin with every POST and websocket, and Sec-Fetch-Site with every request to a loopback or TLS address.
    No page can change either. A request without both comes from another program, or is a GET of a browser, which changes
    nothing. A link on another page may open the UI in a tab: that changes nothing either.
    """
    origins = headers.getlist("origin")
    if any(not same_origin(origin, host) for origin in origins) or len(origins) > 1:
        return True
    sites = set(headers.getlist("sec-fetch-site"))
    if scope["type"] == "websocket":
        # Only browsers open websockets here, and they always send Origin.
        return not origins or not sites <= {"same-origin"}
    if sites <= {"same-origin", "none"}:
        return False
    opened = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return not (opened and scope["method"] == "GET")


def _unsuitable(scope: Scope, headers: Headers, prefix: str) -> Refusal | None:
    """Refuses requests that the UI never sends: other methods, control characters in the path, GraphQL by GET, no JSON."""
    method, path = scope["method"], scope["path"]
    # The regular expressions of the routes ignore a line break at the end.
    if not path.isprintable():
        return Refusal(HTTPStatus.BAD_REQUEST, "the path holds a control character")
    route = path.removeprefix(prefix)
    if route in _CLOSED_PATHS:
        return Refusal(HTTPStatus.NOT_FOUND, "there are no notebooks here")
    if method in _SAFE_METHODS:
        if path.rstrip("/").lower().endswith(_GRAPHQL) and scope["query_string"]:
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "GraphQL is taken by POST only", {"Allow": "POST"})
        return None
    if method != "POST":
        return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "unknown method", {"Allow": "GET, HEAD, POST"})
    if not _is_json(headers.getlist("content-type")):
        return Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a POST must have the Content-Type application/json"
        )
    return None


def _is_json(content_types: Sequence[str]) -> bool:
    """True for exactly application/json. A form cannot send it, and a script of another page needs a CORS preflight."""
    if len(content_types) != 1:
        return False
    essence, _, parameters = content_types[0].lower().partition(";")
    return essence.strip() == "application/json" and parameters.strip().replace('"', "") in (
        "",
        "charset=utf-8",
    )


async def _json_body(receive: Receive) -> bytes | Refusal:
    """The whole body if it is a JSON object within the limits, else the refusal. A list of requests is refused."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return Refusal(HTTPStatus.BAD_REQUEST, "the request broke off")
        body += message.get("body", b"")
        if len(body) > _BODY.size:
            return Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {_BODY.size} bytes at most"
            )
        if not message.get("more_body", False):
            break
    try:
        request = parse_json(bytes(body), _BODY)
    except ValueError as error:
        return Refusal(HTTPStatus.BAD_REQUEST, visible_line(f"the body cannot be read: {error}"))
    if not isinstance(request, dict):
        return Refusal(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body once, and then the messages of the connection."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _ADDED_HEADERS.items():
                headers[name] = value
            headers.append("Content-Security-Policy", _FRAMES)
        await send(message)

    return sent
