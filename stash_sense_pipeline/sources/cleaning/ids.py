"""Cleans the ids of records and images."""

from __future__ import annotations

import re
from typing import Any

from stash_sense_pipeline.sources.cleaning.numbers import INT64_MAX
from stash_sense_pipeline.sources.cleaning.text import clean_text, fits
from stash_sense_pipeline.sources.json_fields import FieldError, kind_of

MAX_ID_BYTES = 300


_PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:-]{0,127}")


def record_id(value: Any, where: str = "its id", *, numbers: bool = False) -> str:
    """The id of a record or image; with `numbers` it may be a whole number.

    Raises FieldError for an id that cannot be part of a universal id `<host>:<id>` of a release: not a text, blank,
    longer than MAX_ID_BYTES, or with white space, a slash, a quotation mark, an angle bracket, or invisible characters.
    """
    if numbers and isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT64_MAX:
        return str(value)
    if not isinstance(value, str):
        raise FieldError(f"{where} is {kind_of(value)}, not a text")
    if _PLAIN_ID.fullmatch(value):
        return value
    if not clean_text(value):
        raise FieldError(f"{where} is blank")
    if any(character.isspace() for character in value):
        raise FieldError(f"{where} holds white space")
    if clean_text(value) != value:
        raise FieldError(f"{where} holds invisible characters, or half a surrogate pair")
    if "/" in value or value.strip(".") == "":
        raise FieldError(f"{where} holds a slash, or is a relative path")
    # The sidecar's page inserts ids into HTML as they are.
    if any(character in value for character in '"<>'):
        raise FieldError(f"{where} holds a quotation mark or an angle bracket")
    if not fits(value, MAX_ID_BYTES):
        raise FieldError(f"{where} is longer than {MAX_ID_BYTES} bytes")
    return value


def optional_id(value: Any, *, numbers: bool = False) -> str | None:
    """As `record_id`, but None for an unusable id."""
    if isinstance(value, str) and _PLAIN_ID.fullmatch(value):
        return value
    try:
        return record_id(value, numbers=numbers)
    except FieldError:
        return None
