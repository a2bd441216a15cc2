"""An HTTP response, read as bytes or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from stash_sense_pipeline.foundation.errors import Outcome, SourceError

_NAMED_TYPES = frozenset(
    {"application/json", "application/xml", "application/xhtml+xml", "application/octet-stream"}
    | {"application/graphql-response+json", "application/problem+json", "text/html", "text/plain", "text/xml"}
)
# Python refuses to read a number of more than 4,300 digits.
_MAX_DIGITS = 4000


@dataclass(frozen=True)
class Response:
    """A response of a server. `headers` have lower-case names; `content` is decoded."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    source: str

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, empty when the server names none."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    @property
    def date(self) -> datetime | None:
        """The time at which the server answered, by its own clock (RFC 9110 6.6.1); None without a readable one."""
        try:
            date = parsedate_to_datetime(self.headers.get("date", ""))
        except (TypeError, ValueError):
            return None
        return date if date.tzinfo is not None else date.replace(tzinfo=UTC)

    def json(self) -> Any:
        """The body as JSON. Raises SourceError (parse_error) for anything else, such as the HTML page of a proxy."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            pass
        try:
            return _tolerant_json(self.content)
        except (ValueError, RecursionError) as error:
            # An unknown content type is not quoted: a server may repeat the key there.
            what = self.content_type if self.content_type in _NAMED_TYPES else "unknown content"
            raise SourceError(
                self.source,
                Outcome.PARSE_ERROR,
                f"{origin_of(self.url)} did not answer with JSON but with {len(self.content)} bytes of {what}",
            ) from error


def origin_of(url: str) -> str:
    """Scheme and host, for messages: paths name people, and messages go into logs and the run history."""
    return "/".join(url.split("?")[0].split("/")[:3])[:200]


def endpoint_of(url: str) -> str:
    """The address without its query, for messages about an API that takes its parameters in the body."""
    return url.split("?")[0][:200]


def _tolerant_json(content: bytes) -> Any:
    """Parses JSON that contains invalid values, so that one of them does not cost the whole response.

    Bytes that are not UTF-8 become lone surrogates, control characters are kept, and a number with more digits than
    Python reads becomes infinity. The functions of `sources.cleaning` handle all three.
    """
    text = content.decode(json.detect_encoding(content), "surrogateescape")
    return json.loads(text, strict=False, parse_int=_whole_number)


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf
