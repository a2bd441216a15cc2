"""Stand-ins for FlareSolverr and Chrome."""

from __future__ import annotations

import asyncio
import html
import itertools
import json
import threading
from abc import ABC, abstractmethod
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request as WebSocketRequest
from websockets.http11 import Response as WebSocketResponse

from stash_sense_pipeline.sandbox.sites.model import CLEARANCE

AGENT = "Mozilla/5.0 (X11; Linux x86_64) Sandbox/1.0"


class _InThread(ABC):
    """A server in its own thread. Use it as a context manager."""

    def __init__(self) -> None:
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(120):
            raise RuntimeError("the stand-in did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(120)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    @abstractmethod
    async def _serve(self) -> None:
        """Serves until `_stop`; sets `port` and `_ready`."""


class FlareSolverr(_InThread):
    """Answers like FlareSolverr 3.5: a solution has status 200 and no headers, whatever the site answered; JSON is wrapped
    in an HTML page; errors have status 500 and a JSON body.

    `fails`: the message of the next errors. With `hangs` it answers nothing until it stops.
    """

    def __init__(self, fails: str | None = None, hangs: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.hangs = hangs
        self.commands: list[dict[str, Any]] = []
        self.sessions: set[str] = set()

    async def _serve(self) -> None:
        app = Starlette(
            routes=[
                Route(
                    "/", lambda request: JSONResponse({"msg": "FlareSolverr is ready!", "userAgent": AGENT})
                ),
                Route("/health", lambda request: JSONResponse({"status": "ok"})),
                Route("/v1", self._command, methods=["POST"]),
            ]
        )
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.should_exit = True
        await serving

    async def _command(self, request: Request) -> Response:
        payload = await request.json()
        self.commands.append(payload)
        if self.hangs:
            await self._stop.wait()
        command, session = payload.get("cmd"), payload.get("session", "")
        if self.fails is not None and command == "request.get":
            return _failed(self.fails)
        if command == "sessions.create":
            told = "Session already exists." if session in self.sessions else "Session created successfully."
            self.sessions.add(session)
            return _ok(told, session=session)
        if command == "sessions.list":
            return _ok("", sessions=sorted(self.sessions))
        if command == "sessions.destroy":
            if session not in self.sessions:
                return _failed("Error: The session doesn't exist.")
            self.sessions.discard(session)
            return _ok("The session has been removed.")
        if command != "request.get":
            return _failed(f"Error: Request parameter 'cmd' = '{command}' is invalid.")
        return _ok("Challenge solved!", solution=await _solution(payload))


class Chrome(_InThread):
    """The DevTools commands that read a page, with real answers and events. `commands`: their methods."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[str] = []
        self._numbers = itertools.count(1)

    async def _serve(self) -> None:
        async with serve(self._talk, "127.0.0.1", 0, process_request=self._version) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    def _version(self, connection: ServerConnection, request: WebSocketRequest) -> WebSocketResponse | None:
        if request.path != "/json/version":
            return None
        told = {
            "Browser": "Sandbox/1.0",
            "webSocketDebuggerUrl": f"ws://127.0.0.1:{self.port}/devtools/browser/1",
        }
        body = json.dumps(told).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        return WebSocketResponse(HTTPStatus.OK, "OK", headers, body)

    async def _talk(self, connection: ServerConnection) -> None:
        page = "<html></html>"
        async for text in connection:
            asked = json.loads(text)
            method, given, session = asked["method"], asked.get("params", {}), asked.get("sessionId")
            self.commands.append(method)
            events: list[tuple[str, dict[str, Any]]] = []
            result: dict[str, Any] = {}
            if method == "Target.createTarget":
                result = {"targetId": f"T{next(self._numbers)}"}
            elif method == "Target.attachToTarget":
                result = {"sessionId": f"S{next(self._numbers)}"}
            elif method == "Page.navigate":
                page, result, events = await _navigated(given["url"])
            elif method == "Runtime.evaluate":
                result = {"result": {"type": "string", "value": page}}
            elif method == "Target.closeTarget":
                result = {"success": True}
            await connection.send(json.dumps({"id": asked["id"], "result": result, "sessionId": session}))
            for name, params in events:
                await connection.send(json.dumps({"method": name, "params": params, "sessionId": session}))


def _ok(message: str, **more: Any) -> Response:
    return JSONResponse({"status": "ok", "message": message, "version": "3.5.0", **more})


def _failed(message: str) -> Response:
    return JSONResponse({"status": "error", "message": message, "version": "3.5.0"}, 500)


async def _browse(url: str) -> httpx.Response | None:
    """The page that a browser gets after the challenge; None when no server answers."""
    headers = {"User-Agent": AGENT, "Cookie": f"cf_clearance={CLEARANCE}; ageVerified=true"}
    async with httpx.AsyncClient(
        trust_env=False, follow_redirects=True, headers=headers, timeout=120
    ) as http:
        try:
            return await http.get(url)
        except httpx.HTTPError:
            return None


async def _solution(payload: dict[str, Any]) -> dict[str, Any]:
    answer = await _browse(payload["url"])
    if answer is None:
        return {
            "url": "chrome-error://chromewebdata/",
            "status": 200,
            "headers": {},
            "response": "<html></html>",
        }
    text = answer.text
    if "json" in answer.headers.get("content-type", ""):
        text = f"<html><head></head><body><pre>{html.escape(text)}</pre></body></html>"
    host = urlsplit(payload["url"]).hostname
    return {
        "url": str(answer.url),
        "status": 200,
        "headers": {},
        "response": text,
        "userAgent": AGENT,
        "cookies": [
            {"name": "cf_clearance", "value": CLEARANCE, "domain": host, "expiry": 2_000_000_000},
            {"name": "visit", "value": "1", "domain": host},
        ],
    }


async def _navigated(url: str) -> tuple[str, dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    answer = await _browse(url)
    if answer is None:
        return "<html></html>", {"frameId": "F", "errorText": "net::ERR_CONNECTION_REFUSED"}, []
    told = {"url": str(answer.url), "status": answer.status_code, "mimeType": "text/html"}
    return (
        answer.text,
        {"frameId": "F", "loaderId": "L"},
        [
            (
                "Network.responseReceived",
                {"type": "Image", "frameId": "F", "response": {**told, "status": 404}},
            ),
            ("Network.responseReceived", {"type": "Document", "frameId": "F", "response": told}),
            ("Page.domContentEventFired", {"timestamp": 1.0}),
        ],
    )
