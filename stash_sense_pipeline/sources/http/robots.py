"""robots.txt: fetched before the first request to a host, cached, and obeyed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from protego import Protego

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import (
    HttpStatusError,
    Outcome,
    RobotsRefusalError,
    RobotsUnreadableError,
    SourceError,
)
from stash_sense_pipeline.sources.http.address_guard import host_of
from stash_sense_pipeline.sources.http.polite_client import MIB, PoliteClient
from stash_sense_pipeline.sources.http.response import Response

# The user agent that rules of a robots.txt can name.
AGENT = "stash-sense-pipeline"
# RFC 9309 allows 24 hours. One request an hour costs a slow crawl little and notices changes.
_KEPT_SECONDS = 3600.0
_MAX_BYTES = MIB


@dataclass(frozen=True)
class _Rules:
    """The rules of a host until a time of the monotonic clock. `parsed` is None for a host without a robots.txt."""

    parsed: Protego | None
    until: float


class Robots:
    """The gate of a PoliteClient: fetches each host's robots.txt once an hour and refuses disallowed addresses.

    A host without a robots.txt (404, 410) has no rules. A robots.txt that cannot be read (an error, a refusal, a web
    page in its place) allows nothing. Crawl-delay and Request-rate slow the client down.
    """

    def __init__(self, source: str, clock: Clock | None = None) -> None:
        self._source = source
        self._clock = clock or Clock()
        self._rules: dict[str, _Rules] = {}
        self._reading: dict[str, asyncio.Lock] = {}

    async def __call__(self, client: PoliteClient, url: str) -> None:
        """Raises RobotsRefusalError for a disallowed address, RobotsUnreadableError when robots.txt cannot be read."""
        try:
            host = host_of(url)
        except ValueError as error:
            raise SourceError(self._source, Outcome.DISALLOWED, "not a web address") from error
        async with self._reading.setdefault(host, asyncio.Lock()):
            rules = self._rules.get(host)
            if rules is None or rules.until <= self._clock.monotonic():
                rules = self._rules[host] = await self._read(client, url, host)
        if rules.parsed is not None and not rules.parsed.can_fetch(url, AGENT):
            raise RobotsRefusalError(
                self._source, Outcome.DISALLOWED, f"robots.txt of {host} disallows this URL"
            )

    async def _read(self, client: PoliteClient, url: str, host: str) -> _Rules:
        scheme = urlsplit(url).scheme
        address = f"{scheme}://{host}/robots.txt"
        until = self._clock.monotonic() + _KEPT_SECONDS
        try:
            answer = await client.get(address, max_bytes=_MAX_BYTES, gated=False)
        except HttpStatusError as error:
            if error.outcome in (Outcome.NOT_FOUND, Outcome.GONE):
                return _Rules(None, until)
            raise self._unreadable(host, f"status {error.status}", error.outcome) from error
        except SourceError as error:
            raise self._unreadable(host, "no answer", error.outcome) from error
        rules = _Rules(Protego.parse(self._text(answer, host)), until)
        client.slow_down(url, _seconds_between(rules.parsed))
        return rules

    def _text(self, answer: Response, host: str) -> str:
        # A web page in its place, such as a login or a challenge, would parse as "everything is allowed".
        if answer.content_type in ("text/html", "application/xhtml+xml"):
            raise self._unreadable(host, "it is a web page", Outcome.PARSE_ERROR)
        try:
            text = answer.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self._unreadable(host, "it is not UTF-8", Outcome.PARSE_ERROR) from error
        if text.lstrip().startswith("<"):
            raise self._unreadable(host, "it is a web page", Outcome.PARSE_ERROR)
        return text

    def _unreadable(self, host: str, why: str, outcome: Outcome) -> RobotsUnreadableError:
        text = f"robots.txt of {host} cannot be read ({why}), so no address of it is fetched"
        return RobotsUnreadableError(
            self._source, outcome if not outcome.is_answer else Outcome.BLOCKED, text
        )


def _seconds_between(rules: Protego | None) -> float:
    """The seconds between requests that the rules require; 0 without such a rule."""
    if rules is None:
        return 0.0
    delay = rules.crawl_delay(AGENT) or 0.0
    rate = rules.request_rate(AGENT)
    return max(float(delay), rate.seconds / rate.requests if rate is not None and rate.requests else 0.0)
