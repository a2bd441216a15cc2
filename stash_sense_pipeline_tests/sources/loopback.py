"""A scripted HTTP server on loopback that answers with raw bytes, so that tests can break every rule of HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Request:
    """A received request. Header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    arrived: float


@dataclass
class Raw:
    """A raw response: bytes, then the connection is closed; by the client when the server stays `silent`."""

    content: bytes
    silent: bool = False


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Raw:
    """A well-formed response. Underscores in header names stand for dashes."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Raw("\r\n".join(lines).encode() + b"\r\nConnection: close\r\n\r\n" + body)


@dataclass
class LoopbackServer:
    """A server that calls `handler` for each request, in its own thread."""

    handler: Callable[[Request], Raw]
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        ready = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
                self.port = server.sockets[0].getsockname()[1]
                ready.set()
                await self._stop.wait()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        assert ready.wait(120)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(120)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {}
            for line in head[1:]:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, target, _ = head[0].split(" ")
            request = Request(method, target, headers, body, time.monotonic())
            self.requests.append(request)
            raw = self.handler(request)
            writer.write(raw.content)
            await writer.drain()
            if raw.silent:
                waits = [asyncio.ensure_future(each) for each in (reader.read(), self._stop.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in waits:
                    each.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
