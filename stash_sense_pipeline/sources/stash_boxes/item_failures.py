"""Tells failures of single items from failures of a source: one record can break the answer for its whole page."""

from __future__ import annotations

from stash_sense_pipeline.foundation.errors import (
    BodyTooLargeError,
    CircuitOpenError,
    HttpStatusError,
    Outcome,
    SourceError,
    UnreachableError,
)

_SERVER_ERROR = 500
# From this many consecutive failures of single items on, the source is taken to fail, and not the items.
MOST_BROKEN_IN_A_ROW = 3


def may_be_item_failure(error: SourceError) -> bool:
    """True for a server error, and for an answer that is truncated, late, too long or not JSON.

    False for failures of all requests to a source: a refused key, a block, a rate limit, no connection.
    """
    if isinstance(error, BodyTooLargeError):
        return True
    if isinstance(error, CircuitOpenError | UnreachableError):
        return False
    if isinstance(error, HttpStatusError):
        return error.status >= _SERVER_ERROR and error.outcome is not Outcome.BLOCKED
    return error.outcome in (Outcome.TIMEOUT, Outcome.PARSE_ERROR)


def never() -> bool:
    """The `may_retry` of a request that is sent only once: see PoliteClient.get."""
    return False
