"""Retries: how often a request is sent, which failures are retried, and how long to wait before each retry."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.sources.http.response import Response

# 520 to 524 are Cloudflare's statuses for an origin server that failed.
_TRANSIENT_STATUSES = frozenset({408, 429, 502, 503, 504, 520, 521, 522, 523, 524})

# Returns True when a request may be sent again.
MayRetry = Callable[[], bool]


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of the requests of a client. Times are in seconds.

    `attempts`: of one request, the first included. `connect`, `read`, `total`: timeouts of one attempt. `first_delay`
    (`first_delay_when_limited` after a rate limit) doubles with each attempt, up to `max_delay`. A Retry-After above
    `max_retry_after` is not waited for. After `circuit_after` consecutive failures of a host no request goes to it for
    `circuit_open`.
    """

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


# For reference sites, which are read without a key: fewer attempts. The cooldown of sources.cooldown pauses them longer.
# The circuit opens only after more failures than end an enrichment run: see sources.reference_sites.enrich.
SITE_RETRY_POLICY = RetryPolicy(attempts=3, total=60.0, circuit_after=30)


class Backoff:
    """Delays between the attempts of a request: Retry-After, or an exponential delay with jitter."""

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._jitter = random.Random()

    def delay(self, attempt: int, failure: SourceError, response: Response | None) -> float:
        """Seconds to pause the host before the next attempt. `attempt` counts from 1."""
        asked = self.retry_after(response)
        if asked is not None:
            return asked
        limited = failure.outcome is Outcome.RATE_LIMITED
        first = self._policy.first_delay_when_limited if limited else self._policy.first_delay
        longest = min(self._policy.max_delay, first * 2.0 ** (attempt - 1))
        return longest * self._jitter.uniform(0.5, 1.0)

    def retry_after(self, response: Response | None) -> float | None:
        """Retry-After in seconds (RFC 9110 10.2.3); None without a readable one.

        A date is compared with the Date header of the server, or with the local clock when there is none.
        """
        if response is None:
            return None
        text = response.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            until = parsedate_to_datetime(text)
            date = response.headers.get("date")
            now = parsedate_to_datetime(date) if date else self._clock.now()
            return max(0.0, (until - now).total_seconds())
        except (TypeError, ValueError):
            return None


def is_transient(failure: SourceError) -> bool:
    """True for a failure that may not happen again: no response, or a transient status."""
    if failure.outcome is Outcome.BLOCKED:
        return False
    return not isinstance(failure, HttpStatusError) or failure.status in _TRANSIENT_STATUSES


def may_try_again(failure: SourceError, may_retry: MayRetry | None) -> bool:
    """True when `may_retry` permits another attempt. A rate limit is of the host, so it is always waited for."""
    return failure.outcome is Outcome.RATE_LIMITED or may_retry is None or may_retry()
