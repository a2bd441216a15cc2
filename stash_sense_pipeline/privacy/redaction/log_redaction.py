"""Hides keys, tokens and passwords in every log record of the process, and in texts of servers."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from stash_sense_pipeline.foundation.visible_text import visible

HIDDEN = "***"
# Replacing shorter values would blank ordinary words.
_SHORTEST_SECRET = 6
_NAMED = re.compile(
    r"""(?ix)
    ((?:\b|_)(?:api[-_]?key|apikey|authorization|access[-_]?token|token|password|passwd|secret)\b["']?\s*[:=]\s*["']?)
    (?:(?:bearer|basic|digest|token)\s+)?[^\s"',;&}]+
    """
)
_IN_ADDRESS = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]{0,30}://(?:[^\s/:@]*:)?)[^\s/:@][^\s/@]*(?=@)")
_BACKSLASHES = re.compile(r"\\+")
_BEARER = re.compile(r"(?i)(\bbearer\s+)[a-z0-9._~+/=-]{8,}")


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text with `secrets`, and values that look like secrets (`token=...`), replaced by ***.

    For texts of servers that are stored or shown: some servers repeat the key that they refuse.
    """
    return _without(map(_form, secrets), text)


@lru_cache(maxsize=256)
def _form(secret: str) -> re.Pattern[str] | None:
    """A pattern of a secret in any case, with characters escaped as in a URL, JSON, HTML or a shell, or in base64.

    None for a value that is too short.
    """
    if len(secret) < _SHORTEST_SECRET:
        return None
    in_base64 = base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode()
    in_characters = "".join(map(_character, _BACKSLASHES.sub(r"\\", secret)))
    return re.compile(f"{in_characters}|{re.escape(in_base64)}", re.IGNORECASE)


def _character(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    if character == "\\":
        # Possessive: otherwise a row of backslashes could be matched in exponentially many ways.
        return r"\\++"
    number = ord(character)
    in_url = "".join(f"%(?:25){{0,4}}{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    in_json = re.escape(json.dumps(character)[1:-1]).replace(r"\\", r"\\{1,8}")
    named = html.escape(character).replace("&", "&(?:amp;){0,4}") if character in "&<>\"'" else in_url
    forms = [rf"\\{{0,8}}{re.escape(character)}", in_url, in_json, named, rf"\\{{1,8}}u{number:04x}"]
    forms += [rf"&(?:amp;){{0,4}}#0{{0,5}}{number};", rf"&(?:amp;){{0,4}}#x0{{0,5}}{number:x};"]
    if character == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(dict.fromkeys(forms))})"


def _without(secrets: Iterable[re.Pattern[str] | None], text: str) -> str:
    # Longest first: a secret may be the beginning of another one, the rest of which would stay.
    for secret in sorted(filter(None, secrets), key=lambda form: len(form.pattern), reverse=True):
        text = secret.sub(HIDDEN, text)
    text = _NAMED.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _IN_ADDRESS.sub(rf"\1{HIDDEN}", text)


class Redaction:
    """A log record factory that removes known secrets, and values that look like secrets."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._secrets: set[re.Pattern[str] | None] = set()

    def learn(self, secrets: Iterable[str]) -> None:
        """Adds values that must not be shown, in any case and any escaping."""
        for secret in secrets:
            self._secrets.add(_form(secret))

    def redact(self, text: str) -> str:
        """The text with every secret replaced by ***."""
        return _without(self._secrets, text)

    def __call__(self, *args: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*args, **named)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, LookupError):
            # The arguments do not fit the message: logging itself reports that.
            return record
        clean = visible(self.redact(text))
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            # A formatter uses exc_text when it is set.
            record.exc_text = visible(self.redact(logging.Formatter().formatException(record.exc_info)))
        return record


def keep_secrets_out_of_logs(secrets: Iterable[str]) -> Redaction:
    """Removes `secrets`, and values that look like keys, tokens or passwords, from all log records of this process.

    It replaces the log record factory, so that it covers every handler and child logger. May be called again with more.
    """
    current = logging.getLogRecordFactory()
    if not isinstance(current, Redaction):
        current = Redaction(current)
        logging.setLogRecordFactory(current)
    current.learn(secrets)
    return current
