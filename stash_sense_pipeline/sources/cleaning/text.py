"""Cleans texts, labels and enumerations."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

from stash_sense_pipeline.sources.cleaning.numbers import numeral
from stash_sense_pipeline.sources.json_fields import FieldError, kind_of

T = TypeVar("T")

MAX_TEXT_BYTES = 2000
# For enumerations, countries and labels; the longest real one has about forty bytes.
MAX_LABEL_BYTES = 100
# For lists; the longest real list of a performer has a few hundred items.
MAX_ITEMS = 2000

_SEPARATORS = re.compile(r"[\s\-/]+")

# Printable, but rendered blank: the Hangul fillers and the empty Braille pattern.
_FILLERS = re.compile("[\u115f\u1160\u3164\uffa0\u2800]")
# Invisible, and without a meaning of their own: zero-width spaces, soft hyphens, direction marks, byte order marks, marks
# of musical notation, tags.
_UNSEEN = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
# Zero-width joiners shape letters in some scripts. They have a meaning only between two letters.
_JOINERS = "\u200c\u200d"


def clean_text(value: str) -> str:
    """The text in NFC, without control characters, lone surrogates and invisible characters; white space is collapsed.

    The result may be empty.
    """
    if value.isascii() and value.isprintable() and "  " not in value:
        return value.strip()
    if not value.isprintable() or _FILLERS.search(value):
        value = _UNSEEN.sub("", _FILLERS.sub(" ", value))
        value = "".join(" " if character.isspace() else character for character in value)
        value = "".join(each for each in value if unicodedata.category(each) not in ("Cc", "Cs"))
    # NFC may compose a filler again, so blanks are collapsed last.
    value = unicodedata.normalize("NFC", value)
    return " ".join(value.split()).strip(f"{_JOINERS} ")


def without_entities(value: str) -> str:
    """The text with the characters that HTML entities stand for, cleaned again: `&#x202e;` is a direction mark."""
    return clean_text(html.unescape(value)) if "&" in value else value


def text(value: Any, limit: int = MAX_TEXT_BYTES) -> str | None:
    """The cleaned text of a string or number; None if it is blank, longer than `limit` bytes, or of another type."""
    if not isinstance(value, str):
        value = numeral(value)
        if value is None:
            return None
    elif value.isascii() and value.isprintable() and "  " not in value and len(value) <= limit:
        return value.strip() or None
    cleaned = clean_text(value)
    return cleaned if cleaned and fits(cleaned, limit) else None


def required_text(value: Any, where: str) -> str:
    """The cleaned text of a required field. Raises FieldError, which names the field `where`."""
    found = text(value)
    if found is None:
        if is_blank(value) and isinstance(value, str):
            raise FieldError(f"{where} is blank")
        if isinstance(value, str):
            raise FieldError(f"{where} is longer than {MAX_TEXT_BYTES} bytes")
        raise FieldError(f"{where} is {kind_of(value)}, not a text")
    return found


def label(value: Any) -> str | None:
    """A cleaned text of at most MAX_LABEL_BYTES, such as a country; else None."""
    return text(value, MAX_LABEL_BYTES)


def fits(value: str, limit: int) -> bool:
    """True when the text has at most `limit` bytes in UTF-8. It must not contain surrogates."""
    return len(value) <= limit and (value.isascii() or len(value.encode()) <= limit)


def clean_texts(values: Iterable[str]) -> tuple[str, ...]:
    """The cleaned texts in their order, without blank, too long and repeated ones."""
    return distinct(map(text, values))


def enumeration(value: Any) -> str | None:
    """An enumeration value in the notation of stash-box: `Middle Eastern` becomes `MIDDLE_EASTERN`."""
    return _enumerated(value) if isinstance(value, str) else label(value)


@lru_cache(maxsize=1024)
def _enumerated(value: str) -> str | None:
    cleaned = label(value)
    return None if cleaned is None else label(_SEPARATORS.sub("_", cleaned).upper())


def distinct(values: Iterable[T | None]) -> tuple[T, ...]:
    """The values in their order, without None and repetitions."""
    return tuple(value for value in dict.fromkeys(values) if value is not None)


def is_blank(value: Any) -> bool:
    """True for a value that means unknown: null, an empty list or object, or a text that cleans to nothing."""
    if isinstance(value, str):
        return not clean_text(value)
    return value is None or (isinstance(value, list | dict) and not value)
