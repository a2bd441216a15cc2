"""Faults injected into answers, and the log of requests."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTROL_PREFIX = "/_control"
_LOG_LENGTH = 200_000
_PAYLOAD_KEPT = 2000  # characters


class FaultKind(StrEnum):
    """What goes wrong with the answer to a request."""

    STATUS = "status"  # another status with an HTML body: 429 with Retry-After, 5xx of a proxy
    HANG = (
        "hang"  # no answer until `seconds` are over, the client disconnects or the server stops; then a 504
    )
    SLOW = "slow"  # the true answer, `seconds` late
    HOLD = "hold"  # the true answer, once the rules are cleared
    CUT = "cut"  # the connection ends after `share` of the promised body
    BODY = (
        "body"  # `body` with `content_type` and status 200: a page in place of JSON, bytes that are no image
    )
    CORRUPT = "corrupt"  # the true body with its second half overwritten
    SHORT = "short"  # the first `share` of the true body as a complete answer
    HALF_PAGE = "half_page"  # valid JSON in which every list of rows lacks its second half
    WRONG_TYPES = "wrong_types"  # valid JSON with numbers in place of texts and texts in place of lists
    REWRITE = "rewrite"  # the true JSON after the function `rewrite`


_HTML = b"<html><head><title>%d</title></head><body><center><h1>%d</h1></center><hr>proxy</body></html>"
_CHALLENGE = b"<!DOCTYPE html><html><body>Attention required</body></html>"


@dataclass
class Fault:
    """A rule: which requests go wrong, and how.

    It applies to requests to `box` (None: any) with a path that begins with `path` and a body or query string that
    contains `containing`. The first `skip` of them pass. Of the rest every `every`-th goes wrong, up to `times` (None:
    without limit). `retry_after` (seconds or an HTTP date) and the `location` of a redirect are sent unchanged. `held`
    counts the requests that wait for an answer now.
    """

    kind: FaultKind
    box: str | None = None
    path: str = "/"
    containing: str = ""
    skip: int = 0
    times: int | None = 1
    every: int = 1
    status: int = 503
    retry_after: str | None = None
    location: str | None = None
    seconds: float = 30.0
    share: float = 0.5
    body: bytes | None = None
    content_type: str = "text/html; charset=utf-8"
    rewrite: Callable[[Any], Any] | None = None
    seen: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    held: int = field(default=0, init=False)
    cleared: bool = field(default=False, init=False)


@dataclass(slots=True)
class RequestRecord:
    """A request that a server received. Times are `time.monotonic()` seconds; `payload` is the start of its body.

    `status`, `sent` (bytes of the body) and `finished` are updated while the answer is sent.
    """

    box: str
    method: str
    path: str
    query: str
    user_agent: str
    payload: str
    arrived: float
    fault: FaultKind | None
    status: int | None = None
    sent: int = 0
    finished: float | None = None


class Traffic:
    """The rules for faults and the log of requests of all servers of a world. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._log: deque[RequestRecord] = deque(maxlen=_LOG_LENGTH)
        self.stopping = threading.Event()

    def inject(self, fault: Fault) -> Fault:
        """Adds a rule, and returns it; its `done` counts. Of several rules that apply to a request the oldest acts."""
        if fault.every < 1:
            raise ValueError("every must be at least 1")
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        """Removes all rules. What they hold is answered."""
        with self._lock:
            for fault in self._faults:
                fault.cleared = True
            self._faults.clear()

    def requests(self, box: str | None = None, path: str = "/") -> list[RequestRecord]:
        """The requests so far, in the order of arrival."""
        with self._lock:
            return [entry for entry in self._log if entry.path.startswith(path) and box in (None, entry.box)]

    def clear_requests(self) -> None:
        """Empties the log."""
        with self._lock:
            self._log.clear()

    def record(self, entry: RequestRecord) -> None:
        """Adds a request to the log."""
        with self._lock:
            self._log.append(entry)

    def choose(self, box: str, path: str, text: str) -> Fault | None:
        """The rule that acts on a request; None when none applies. Every rule that applies counts the request."""
        with self._lock:
            chosen: Fault | None = None
            for fault in self._faults:
                if (
                    fault.box not in (None, box)
                    or not path.startswith(fault.path)
                    or fault.containing not in text
                ):
                    continue
                fault.seen += 1
                position = fault.seen - fault.skip - 1
                acts = position >= 0 and position % fault.every == 0
                if acts and chosen is None and (fault.times is None or fault.done < fault.times):
                    fault.done += 1
                    chosen = fault
            return chosen


class FaultyServer:
    """ASGI middleware of one server: logs every request and applies the rules of `Traffic`."""

    def __init__(self, app: ASGIApp, box: str, traffic: Traffic) -> None:
        self._app = app
        self._box = box
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PREFIX):
            await self._app(scope, receive, send)
            return
        arrived = time.monotonic()
        body = await _read(receive)
        query = scope["query_string"].decode("latin-1")
        text = body.decode("utf-8", "replace")
        fault = self._traffic.choose(self._box, scope["path"], f"{query}\n{text}")
        record = RequestRecord(
            box=self._box,
            method=scope["method"],
            path=scope["path"],
            query=query,
            user_agent=dict(scope["headers"]).get(b"user-agent", b"").decode("latin-1"),
            payload=text[:_PAYLOAD_KEPT],
            arrived=arrived,
            fault=fault.kind if fault else None,
        )
        self._traffic.record(record)
        reply = _Reply(send, record)
        if fault is None:
            await self._app(scope, _replay(body, receive), reply)
        else:
            await self._act(fault, scope, body, receive, reply)

    async def _act(self, fault: Fault, scope: Scope, body: bytes, receive: Receive, reply: _Reply) -> None:
        if fault.kind in (FaultKind.HANG, FaultKind.HOLD):
            if not await self._wait(fault, receive):
                return
            if fault.kind is FaultKind.HOLD:
                await self._app(scope, _replay(body, receive), reply)
            else:
                await reply.whole(504, _page(504))
            return
        if fault.kind is FaultKind.STATUS:
            told = {"retry-after": fault.retry_after, "location": fault.location}
            extra = {name: value for name, value in told.items() if value is not None}
            page = _page(fault.status) if fault.body is None else fault.body
            await reply.whole(fault.status, page, {"content-type": fault.content_type, **extra})
            return
        if fault.kind is FaultKind.BODY:
            page = _CHALLENGE if fault.body is None else fault.body
            await reply.whole(200, page, {"content-type": fault.content_type})
            return
        if fault.kind is FaultKind.SLOW:
            await asyncio.sleep(fault.seconds)
            await self._app(scope, _replay(body, receive), reply)
            return
        true = _Captured()
        await self._app(scope, _replay(body, receive), true)
        if fault.kind is FaultKind.CUT:
            # Returning before the promised length is reached makes uvicorn close the connection.
            await reply.start(true.status, {**true.headers, "content-length": str(len(true.body))})
            await reply.part(true.body[: int(len(true.body) * fault.share)], more=True)
            return
        await reply.whole(true.status, _altered(fault, true), true.headers)

    async def _wait(self, fault: Fault, receive: Receive) -> bool:
        """Waits as long as a rule says. True when the wait is over and the client is still connected."""
        left = asyncio.ensure_future(_disconnected(receive))
        holds, deadline = fault.kind is FaultKind.HOLD, time.monotonic() + fault.seconds
        fault.held += 1
        try:
            while not self._traffic.stopping.is_set():
                if fault.cleared if holds else time.monotonic() >= deadline:
                    return True
                await asyncio.wait([left], timeout=min(0.05, fault.seconds))
                if left.done():
                    return False
        finally:
            fault.held -= 1
            left.cancel()
        return False


class _Reply:
    """Passes on the application's answer, and notes it before it is sent."""

    def __init__(self, send: Send, record: RequestRecord) -> None:
        self._send = send
        self._record = record

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._record.status = message["status"]
        else:
            self._record.sent += len(message.get("body", b""))
            self._record.finished = time.monotonic()
        await self._send(message)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        raw = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
        await self({"type": "http.response.start", "status": status, "headers": raw})

    async def part(self, body: bytes, *, more: bool) -> None:
        await self({"type": "http.response.body", "body": body, "more_body": more})

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        base = {
            "content-type": "text/html; charset=utf-8",
            **(headers or {}),
            "content-length": str(len(body)),
        }
        await self.start(status, base)
        await self.part(body, more=False)


class _Captured:
    """Captures the application's answer."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: dict[str, str] = {}
        self.body: bytes = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                key.decode("latin-1"): value.decode("latin-1") for key, value in message["headers"]
            }
        else:
            self.body += message.get("body", b"")


def _page(status: int) -> bytes:
    return _HTML % (status, status)


def _altered(fault: Fault, true: _Captured) -> bytes:
    """The body after the fault. A compressed body is decompressed, changed, and compressed again."""
    packed = true.headers.get("content-encoding") == "gzip"
    body: bytes = gzip.decompress(true.body) if packed else true.body
    if fault.kind is FaultKind.CORRUPT:
        body = body[: len(body) // 2] + bytes(len(body) - len(body) // 2)
    elif fault.kind is FaultKind.SHORT:
        body = body[: int(len(body) * fault.share)]
    else:
        body = json.dumps(_rewritten(fault, json.loads(body))).encode()
    return gzip.compress(body) if packed else body


def _rewritten(fault: Fault, value: Any) -> Any:
    if fault.kind is FaultKind.HALF_PAGE:
        return _half_rows(value)
    if fault.kind is FaultKind.WRONG_TYPES:
        return _wrong_types(value)
    if fault.rewrite is None:
        raise ValueError("a rewrite fault needs the function rewrite")
    return fault.rewrite(value)


def _half_rows(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _half_rows(item) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict) and "id" in value[0]:
        return value[: len(value) // 2]
    return value


def _wrong_types(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _wrong_types(item, name) for name, item in value.items()}
    if isinstance(value, list):
        inner = [_wrong_types(item) for item in value]
        return "none" if key in ("images", "urls", "aliases", "posters") else inner
    if key in ("id", "updated", "name"):
        return 7
    return value


async def _read(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
