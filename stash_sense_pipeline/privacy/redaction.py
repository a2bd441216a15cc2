"""Keeping secrets out of logs: whatever is logged in this process, by us or by a library, passes here first."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
# A shorter value would blank ordinary words.
_SHORTEST_SECRET = 6
_NAMED = re.compile(
    r"""(?ix)
    ((?:\b|_)(?:api[-_]?key|apikey|authorization|access[-_]?token|token|password|passwd|secret)\b["']?\s*[:=]\s*["']?)
    (?:(?:bearer|basic|digest|token)\s+)?[^\s"',;&}]+
    """
)
_IN_ADDRESS = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://(?:[^\s/:@]*:)?)[^\s/:@][^\s/@]*(?=@)")
_BEARER = re.compile(r"(?i)(\bbearer\s+)[a-z0-9._~+/=-]{8,}")


class Redaction:
    """Makes log records without secrets: those that it was told of, and what is written like one."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._secrets: set[str] = set()

    def learn(self, secrets: Iterable[str]) -> None:
        """Adds values that must not be shown, as they are and as they are written in a URL."""
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                self._secrets.update((secret, quote(secret), quote(secret, safe=""), quote_plus(secret)))

    def redact(self, text: str) -> str:
        """The text with every secret replaced by ***."""
        # One may begin another, and the rest of that would stay.
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        text = _NAMED.sub(rf"\1{HIDDEN}", text)
        text = _BEARER.sub(rf"\1{HIDDEN}", text)
        return _IN_ADDRESS.sub(rf"\1{HIDDEN}", text)

    def __call__(self, *args: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*args, **named)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, LookupError):
            # A wrong call of the logger: logging itself reports it.
            return record
        clean = self.redact(text)
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            # A formatter takes the text that is there already.
            record.exc_text = self.redact(logging.Formatter().formatException(record.exc_info))
        return record


def keep_secrets_out_of_logs(secrets: Iterable[str]) -> Redaction:
    """From now on no log record of this process holds one of `secrets`, a key, a token or a password.

    At the making of the record, so that no handler and no child logger is missed. May be called again with more.
    """
    current = logging.getLogRecordFactory()
    if not isinstance(current, Redaction):
        current = Redaction(current)
        logging.setLogRecordFactory(current)
    current.learn(secrets)
    return current
