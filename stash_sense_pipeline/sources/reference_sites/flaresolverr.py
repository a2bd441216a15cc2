"""Page fetcher that uses a FlareSolverr server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx

from stash_sense_pipeline.foundation.errors import BodyTooLargeError, Outcome, SourceError
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.response_body import LongBodyError, read_body
from stash_sense_pipeline.sources.reference_sites.page_fetcher import MAX_PAGE_BYTES, Fetched

_MAX_TIMEOUT_MS = 60_000
# The server answers shortly after its own limit.
_MARGIN_SECONDS = 10.0
# A page as a JSON string, in which a character can take six bytes, with cookies and headers.
_MAX_ANSWER_BYTES = 4 * MAX_PAGE_BYTES
_SESSION = "stash-sense"
_TIMEOUT_WORDS = ("timeout", "timed out")
_BLOCK_WORDS = ("captcha", "challenge not solved", "blocked", "access denied")


class FlareSolverrFetcher:
    """Fetches pages as a browser renders them, all in one session. The status is unknown: FlareSolverr always says 200.

    Images are fetched by the plain client with the browser's cookies and User-Agent, which must be sent together.
    """

    def __init__(self, client: PoliteClient, url: str, max_timeout_ms: int = _MAX_TIMEOUT_MS) -> None:
        """`url` is FLARESOLVERR_URL, with or without `/v1`."""
        self._client = client
        self._endpoint = f"{url.removesuffix('/v1').rstrip('/')}/v1"
        self._max_timeout_ms = max_timeout_ms
        self._session = f"{_SESSION}-{client.source}"
        self._has_session = False
        self._cookies: dict[str, str] = {}
        self._user_agent: str | None = None
        seconds = max_timeout_ms / 1000 + _MARGIN_SECONDS
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(seconds, connect=10.0), trust_env=False)

    async def get(self, url: str, headers: Mapping[str, str]) -> Fetched:
        """Fetches one page. Of `headers` only cookies are sent; conditional requests are not supported."""
        async with self._client.request_slot(url):
            if not self._has_session:
                await self._command({"cmd": "sessions.create", "session": self._session})
                self._has_session = True
            cookies = [
                {"name": name, "value": value}
                for name, _, value in (
                    part.strip().partition("=") for part in headers.get("Cookie", "").split(";")
                )
                if name
            ]
            answer = await self._command(
                {
                    "cmd": "request.get",
                    "url": url,
                    "session": self._session,
                    "maxTimeout": self._max_timeout_ms,
                    **({"cookies": cookies} if cookies else {}),
                }
            )
            return self._fetched(answer)

    def image_headers(self) -> Mapping[str, str]:
        """Cookies and User-Agent of the browser; empty before the first page."""
        if self._user_agent is None or not self._cookies:
            return {}
        return {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items()),
            "User-Agent": self._user_agent,
        }

    async def close(self) -> None:
        """Destroys the session."""
        try:
            if self._has_session:
                async with asyncio.timeout(_MARGIN_SECONDS):
                    await self._command({"cmd": "sessions.destroy", "session": self._session})
        except (SourceError, TimeoutError):
            # FlareSolverr may have lost the session, or may not run: nothing is left to destroy then.
            pass
        finally:
            await self._http.aclose()

    def _fetched(self, answer: Mapping[str, Any]) -> Fetched:
        solution = answer.get("solution")
        if not isinstance(solution, dict) or not isinstance(solution.get("response"), str):
            raise self._error(Outcome.PARSE_ERROR, "FlareSolverr gave no page")
        url, text = str(solution.get("url") or ""), solution["response"]
        if not url.startswith(("http://", "https://")):
            # Chrome's error page for an unreachable address is reported as a success too.
            raise self._error(Outcome.TIMEOUT, "the browser could not reach the site")
        body = text.encode(errors="replace")
        if len(body) > MAX_PAGE_BYTES:
            raise BodyTooLargeError(
                self._client.source, Outcome.DISALLOWED, f"a page is larger than {MAX_PAGE_BYTES} bytes"
            )
        cookies = solution.get("cookies")
        for cookie in cookies if isinstance(cookies, list) else ():
            if isinstance(cookie, dict) and "name" in cookie:
                self._cookies[str(cookie["name"])] = str(cookie.get("value", ""))
        agent = solution.get("userAgent")
        self._user_agent = agent if isinstance(agent, str) and agent else self._user_agent
        return Fetched(url=url, body=body, content_type="text/html; charset=utf-8", rendered=True)

    async def _command(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sends one command. Errors have status 500 and a JSON body, so the body is read whatever the status is."""
        try:
            request = self._http.build_request("POST", self._endpoint, json=payload)
            response = await self._http.send(request, stream=True)
            try:
                answer = json.loads(await read_body(response, _MAX_ANSWER_BYTES))
            finally:
                await response.aclose()
        except httpx.TimeoutException as error:
            raise self._error(Outcome.TIMEOUT, "FlareSolverr did not answer in time") from error
        except httpx.HTTPError as error:
            raise self._error(
                Outcome.TIMEOUT, "FlareSolverr cannot be reached; is it running at FLARESOLVERR_URL?"
            ) from error
        except LongBodyError as error:
            raise BodyTooLargeError(
                self._client.source,
                Outcome.DISALLOWED,
                f"FlareSolverr sent more than {_MAX_ANSWER_BYTES} bytes",
            ) from error
        except (ValueError, RecursionError) as error:
            raise self._error(
                Outcome.PARSE_ERROR, "FLARESOLVERR_URL did not answer as FlareSolverr does"
            ) from error
        if not isinstance(answer, dict) or answer.get("status") != "ok":
            said = str(answer.get("message") if isinstance(answer, dict) else "").casefold()
            if any(word in said for word in _TIMEOUT_WORDS):
                raise self._error(Outcome.TIMEOUT, "FlareSolverr ran into its time limit")
            if any(word in said for word in _BLOCK_WORDS):
                raise self._error(Outcome.BLOCKED, "FlareSolverr could not pass the site's challenge")
            if "session" in said:
                self._has_session = False
            raise self._error(Outcome.TIMEOUT, "FlareSolverr reported an error")
        return answer

    def _error(self, outcome: Outcome, message: str) -> SourceError:
        return SourceError(self._client.source, outcome, message)
