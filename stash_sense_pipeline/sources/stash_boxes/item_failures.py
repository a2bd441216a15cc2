"""Failures that may be of the item and not of the source: one record can break the answer to its page."""

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
# Fewer items that fail alone, one after the other, may be odd items; so many are the source.
MOST_BROKEN_IN_A_ROW = 3


def may_be_of_the_item(error: SourceError) -> bool:
    """True for a server error, an answer that breaks off, comes too late, is too long or is no JSON.

    False for what a source says about all requests: a refused key, a block, a rate limit, no connection.
    """
    if isinstance(error, BodyTooLargeError):
        return True
    if isinstance(error, CircuitOpenError | UnreachableError):
        return False
    if isinstance(error, HttpStatusError):
        return error.status >= _SERVER_ERROR and error.outcome is not Outcome.BLOCKED
    return error.outcome in (Outcome.TIMEOUT, Outcome.PARSE_ERROR)


def never() -> bool:
    """The consent to further tries of a request that is asked once: see PoliteClient.get."""
    return False
