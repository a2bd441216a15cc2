"""Maps the status of a response to a typed failure."""

from __future__ import annotations

from stash_sense_pipeline.foundation.errors import HttpStatusError, Outcome
from stash_sense_pipeline.sources.http.response import Response, endpoint_of, origin_of

REDIRECTS = frozenset({301, 302, 303, 307, 308})
# How much of the body of a failed request is read and kept.
ERROR_BODY_BYTES = 2000

_NOT_MODIFIED = 304
_CHALLENGED = frozenset({403, 503})
_CHALLENGE_MARK = b"/cdn-cgi/challenge-platform/"
_OUTCOMES = {
    401: Outcome.BLOCKED,
    403: Outcome.BLOCKED,
    404: Outcome.NOT_FOUND,
    407: Outcome.BLOCKED,
    408: Outcome.TIMEOUT,
    410: Outcome.GONE,
    429: Outcome.RATE_LIMITED,
    451: Outcome.BLOCKED,
}


def outcome_of_status(status: int) -> Outcome:
    """The outcome of a status that is not a success."""
    return _OUTCOMES.get(status, Outcome.TIMEOUT if status >= 500 else Outcome.PARSE_ERROR)


def status_failure(method: str, response: Response, *, conditional: bool) -> HttpStatusError | None:
    """The failure that a response reports; None for 2xx, a redirect, and 304 to a `conditional` request.

    A challenge page of Cloudflare is `blocked`, whatever its status.
    """
    status = response.status
    if 200 <= status < 300 or status in REDIRECTS or (conditional and status == _NOT_MODIFIED):
        return None
    outcome = outcome_of_status(status)
    challenged = status in _CHALLENGED and _CHALLENGE_MARK in response.content
    if challenged or response.headers.get("cf-mitigated") == "challenge":
        outcome = Outcome.BLOCKED
    asked = endpoint_of(response.url) if method == "POST" else origin_of(response.url)
    message = f"{method} {asked} answered {status}"
    return HttpStatusError(response.source, outcome, message, status, response.content[:ERROR_BODY_BYTES])
