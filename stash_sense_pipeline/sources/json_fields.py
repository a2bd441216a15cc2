"""Typed access to the required JSON fields of an answer; a wrong type raises an error that names the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from stash_sense_pipeline.foundation.errors import Outcome, SourceError

# No source has 10 ** 9 records.
_COUNT_DIGITS = 9


class FieldError(ValueError):
    """A field is missing, or has a wrong type."""


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns a FieldError in the block into a SourceError (parse_error) of the source."""
    try:
        yield
    except FieldError as error:
        raise SourceError(source, Outcome.PARSE_ERROR, f"unexpected answer: {error}") from error


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Returns `value`, which must be an object."""
    if not isinstance(value, dict):
        raise FieldError(f"{where} is {kind_of(value)}, not an object")
    return value


def sequence(row: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    """The list under `key`. An object with numbers as keys is accepted: PHP encodes a list with gaps that way."""
    value = row.get(key)
    if isinstance(value, dict) and value and all(name.isascii() and name.isdigit() for name in value):
        return list(value.values())
    if not isinstance(value, list):
        raise FieldError(f"{key} of {where} is {kind_of(value)}, not a list")
    return value


def text(row: Any, key: str, where: str) -> str:
    """The text under `key`."""
    value = row.get(key) if isinstance(row, dict) else mapping(row, where)
    if isinstance(value, str):
        return value
    raise FieldError(f"{key} of {where} is {kind_of(value)}, not a text")


def count(row: Mapping[str, Any], key: str, where: str) -> int:
    """The number of records or pages under `key`: 0 or more, given as int, digits, or a float without fraction."""
    value = row.get(key)
    if isinstance(value, str) and len(value) <= _COUNT_DIGITS and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**_COUNT_DIGITS:
        raise FieldError(f"{key} of {where} is {kind_of(value)}, not a count of records")
    return value


def flag(row: Mapping[str, Any], key: str, where: str) -> bool:
    """The boolean under `key`, given as boolean, 0 or 1."""
    value = row.get(key)
    if not (isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))):
        raise FieldError(f"{key} of {where} is {kind_of(value)}, not true or false")
    return bool(value)


def kind_of(value: Any) -> str:
    """The type of a JSON value, in words for an error message."""
    names = {type(None): "nothing", bool: "a truth value", str: "a text", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")
