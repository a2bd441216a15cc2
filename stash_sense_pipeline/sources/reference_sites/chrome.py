"""Page fetcher that drives a local Chrome over DevTools."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from stash_sense_pipeline.foundation.errors import BodyTooLargeError, HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.response_status import outcome_of_status
from stash_sense_pipeline.sources.reference_sites.page_fetcher import MAX_PAGE_BYTES, Fetched, is_loopback

_PAGE_SECONDS = 60.0
_ANSWER_SECONDS = 15.0


class ChromeFetcher:
    """Loads pages in one tab of the browser that the operator opened, in its own session: consent given there applies.

    DevTools reports the status of an answer, which FlareSolverr does not.
    """

    def __init__(self, client: PoliteClient, url: str, page_seconds: float = _PAGE_SECONDS) -> None:
        """`url` is CHROME_CDP_URL: the http(s) address that `--remote-debugging-port` opens, or the browser's ws address."""
        self._client = client
        self._url = url.rstrip("/")
        self._page_seconds = page_seconds
        self._socket: ClientConnection | None = None
        self._target: str | None = None
        self._session: str | None = None
        self._numbers = itertools.count(1)

    async def get(self, url: str, headers: Mapping[str, str]) -> Fetched:
        """Fetches one page. The browser sends its own headers and cookies."""
        async with self._client.request_slot(url):
            try:
                async with asyncio.timeout(self._page_seconds):
                    await self._open()
                    return await self._visit(url)
            except TimeoutError as error:
                await self._drop()
                raise self._error(Outcome.TIMEOUT, "the browser did not load the page in time") from error
            except (WebSocketException, OSError, httpx.HTTPError) as error:
                await self._drop()
                raise self._error(
                    Outcome.TIMEOUT, "Chrome cannot be reached; is it open with the port of CHROME_CDP_URL?"
                ) from error
            except (KeyError, TypeError, ValueError) as error:
                await self._drop()
                raise self._error(
                    Outcome.PARSE_ERROR, "CHROME_CDP_URL did not answer as Chrome's DevTools do"
                ) from error

    def image_headers(self) -> Mapping[str, str]:
        """No headers are needed: images are fetched plainly, or not at all."""
        return {}

    async def close(self) -> None:
        """Closes the tab; the browser stays open."""
        if self._socket is not None and self._target is not None:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._call("Target.closeTarget", {"targetId": self._target}, of_tab=False)
            except (TimeoutError, WebSocketException, OSError, SourceError):
                # The browser has closed, and the tab with it.
                pass
        await self._drop()

    async def _open(self) -> None:
        """Opens the tab, unless it is open."""
        if self._socket is not None:
            return
        self._socket = await connect(await self._browser(), max_size=4 * MAX_PAGE_BYTES, proxy=None)
        self._target = (await self._call("Target.createTarget", {"url": "about:blank"}, of_tab=False))[
            "targetId"
        ]
        attached = await self._call(
            "Target.attachToTarget", {"targetId": self._target, "flatten": True}, of_tab=False
        )
        self._session = attached["sessionId"]
        await self._call("Page.enable")
        await self._call("Network.enable")

    async def _browser(self) -> str:
        """The ws address of the browser."""
        if self._url.startswith(("ws://", "wss://")):
            return self._url
        async with httpx.AsyncClient(timeout=_ANSWER_SECONDS, trust_env=False) as http:
            answer = await http.get(f"{self._url}/json/version")
            address = str(answer.json()["webSocketDebuggerUrl"])
        if not is_loopback(address):
            raise self._error(Outcome.DISALLOWED, "Chrome reports an address that is not on this machine")
        return address

    async def _visit(self, url: str) -> Fetched:
        """Navigates, waits for the document, and returns it. Raises HttpStatusError when the status is 400 or more."""
        number = await self._send("Page.navigate", {"url": url})
        frame: str | None = None
        status, final, kind, loader = 0, url, "text/html", ""
        async for message in self._messages():
            if message.get("id") == number:
                result = self._result(message)
                if result.get("errorText"):
                    raise self._error(Outcome.TIMEOUT, "the browser could not reach the site")
                frame, loader = result["frameId"], result.get("loaderId", "")
            method, given = message.get("method"), message.get("params", {})
            is_document = method == "Network.responseReceived" and given.get("type") == "Document"
            if is_document and frame in (None, given.get("frameId")):
                answer = given["response"]
                status, final = int(answer["status"]), str(answer["url"])
                kind = str(answer.get("mimeType") or kind)
            if method == "Page.domContentEventFired" and frame is not None and loader:
                break
        if status >= 400:
            raise HttpStatusError(
                self._client.source, outcome_of_status(status), f"the site answered {status}", status, b""
            )
        answer = await self._call(
            "Runtime.evaluate",
            {"expression": "document.documentElement.outerHTML", "returnByValue": True},
        )
        body = str(answer["result"]["value"]).encode(errors="replace")
        if len(body) > MAX_PAGE_BYTES:
            raise BodyTooLargeError(
                self._client.source, Outcome.DISALLOWED, f"a page is larger than {MAX_PAGE_BYTES} bytes"
            )
        return Fetched(url=final, body=body, content_type=f"{kind}; charset=utf-8", rendered=True)

    async def _send(self, method: str, params: Mapping[str, Any], *, of_tab: bool = True) -> int:
        assert self._socket is not None
        number = next(self._numbers)
        session = {"sessionId": self._session} if of_tab else {}
        await self._socket.send(
            json.dumps({"id": number, "method": method, "params": dict(params), **session})
        )
        return number

    async def _call(
        self, method: str, params: Mapping[str, Any] | None = None, *, of_tab: bool = True
    ) -> Mapping[str, Any]:
        number = await self._send(method, params or {}, of_tab=of_tab)
        async for message in self._messages():
            if message.get("id") == number:
                return self._result(message)
        raise self._error(Outcome.TIMEOUT, "the browser closed the connection")

    async def _messages(self) -> Any:
        assert self._socket is not None
        async for text in self._socket:
            message = json.loads(text)
            if isinstance(message, dict):
                yield message

    def _result(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if "error" in message:
            raise self._error(Outcome.PARSE_ERROR, "the browser refused a command")
        result = message["result"]
        if not isinstance(result, dict):
            raise TypeError("no result")
        return result

    async def _drop(self) -> None:
        socket, self._socket = self._socket, None
        self._target = self._session = None
        if socket is not None:
            await socket.close()

    def _error(self, outcome: Outcome, message: str) -> SourceError:
        return SourceError(self._client.source, outcome, message)
