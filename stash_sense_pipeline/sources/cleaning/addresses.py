"""Cleans web addresses."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import Any

import httpx

from stash_sense_pipeline.sources.cleaning.text import MAX_TEXT_BYTES, clean_text, fits

_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")


# The host is short enough that no label of it exceeds 63 characters.
_PLAIN_ADDRESS = re.compile(r"https?://[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}(?:/[!-~]*)?")


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d+(?:/|$))")


_WEB = re.compile(r"https?://(?P<place>[^/?#]*)", re.IGNORECASE)


_MAX_HOST, _MAX_PORT = 253, 65_535


def address(value: Any) -> str | None:
    """A web address (http or https) of at most MAX_TEXT_BYTES with a valid host; else None.

    Surrounding blanks are stripped. An address with a control character, a lone surrogate, or a user name is refused.
    """
    if not isinstance(value, str):
        return None
    if len(value) <= MAX_TEXT_BYTES and _PLAIN_ADDRESS.fullmatch(value):
        host = value.split("/", 3)[2]
        if ".." not in host and "xn--" not in host:
            return value
    return _unusual_address(value.strip())


def link(value: Any) -> str | None:
    """As `address`, in NFC, for the address of a page. The scheme may be missing: `www.example.com/ann`."""
    if not isinstance(value, str):
        return None
    plain = address(value)
    if plain is not None:
        return plain if plain.isascii() else unicodedata.normalize("NFC", plain)
    stated = clean_text(value)
    if not stated or _SCHEME.match(stated) or " " in stated.split("/")[0] or not fits(stated, MAX_TEXT_BYTES):
        return None
    rest = stated.removeprefix("//")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return (
        stated if "." in host and address(f"https://{rest}") is not None and not _has_control(value) else None
    )


def _unusual_address(stated: str) -> str | None:
    found = _WEB.match(stated)
    if found is None or _has_control(stated) or not fits(stated, MAX_TEXT_BYTES) or "@" in found["place"]:
        return None
    try:
        # httpx encodes the host with IDNA, which refuses empty and overlong labels. `.host` decodes it.
        url = httpx.URL(stated)
        host, port = url.host, url.port
        raw = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return None
    if not host or len(raw) > _MAX_HOST or not 0 <= (port or 0) <= _MAX_PORT:
        return None
    return stated if _is_host(raw) else None


def _is_host(raw: str) -> bool:
    if ":" not in raw:
        return _HOST.fullmatch(raw) is not None
    try:
        ipaddress.IPv6Address(raw.strip("[]"))
    except ValueError:
        return False
    return True


def _has_control(value: str) -> bool:
    return not value.isprintable() and any(unicodedata.category(each) in ("Cc", "Cs") for each in value)
