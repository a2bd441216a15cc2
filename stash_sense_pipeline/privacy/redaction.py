"""Hides keys, tokens and passwords in every log record of the process, and in texts of servers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import quote, quote_plus

from stash_sense_pipeline.visible_text import visible

HIDDEN = "***"
# A shorter value would blank ordinary words.
_SHORTEST_SECRET = 6
_NAMED = re.compile(
    r"""(?ix)
    ((?:\b|_)(?:api[-_]?key|apikey|authorization|access[-_]?token|token|password|passwd|secret)\b["']?\s*[:=]\s*["']?)
    (?:(?:bearer|basic|digest|token)\s+)?[^\s"',;&}]+
    """
)
_IN_ADDRESS = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]{0,30}://(?:[^\s/:@]*:)?)[^\s/:@][^\s/@]*(?=@)")
_BEARER = re.compile(r"(?i)(\bbearer\s+)[a-z0-9._~+/=-]{8,}")


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text with `secrets`, and whatever is written like a secret, replaced by ***.

    For text of a server that is stored or shown: some servers repeat the key that they refuse.
    """
    return _without({form for secret in secrets for form in _forms(secret)}, text)


def _forms(secret: str) -> set[str]:
    """The ways to write a secret: as it is, in a URL, and in JSON; none for a value that is too short."""
    if len(secret) < _SHORTEST_SECRET:
        return set()
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}


def _without(secrets: Collection[str], text: str) -> str:
    # One may begin another, and the rest of that would stay.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _NAMED.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _IN_ADDRESS.sub(rf"\1{HIDDEN}", text)


class Redaction:
    """Makes log records without secrets: those that it was told of, and what is written like one."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._secrets: set[str] = set()

    def learn(self, secrets: Iterable[str]) -> None:
        """Adds values that must not be shown, as they are and as they are written in a URL."""
        for secret in secrets:
            self._secrets.update(_forms(secret))

    def redact(self, text: str) -> str:
        """The text with every secret replaced by ***."""
        return _without(self._secrets, text)

    def __call__(self, *args: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*args, **named)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, LookupError):
            # A wrong call of the logger: logging itself reports it.
            return record
        clean = visible(self.redact(text))
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            # A formatter takes the text that is there already.
            record.exc_text = visible(self.redact(logging.Formatter().formatException(record.exc_info)))
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
