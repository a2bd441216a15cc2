"""Reading fields of JSON whose types a server promised: a broken promise is named, never guessed around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from stash_sense_pipeline.errors import Outcome, SourceError


class FieldError(ValueError):
    """A field is missing or of another type than promised."""


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns a FieldError into the SourceError (parse_error) of that source."""
    try:
        yield
    except FieldError as error:
        raise SourceError(source, Outcome.PARSE_ERROR, f"unexpected answer: {error}") from error


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """`value` itself, when it is an object."""
    if not isinstance(value, dict):
        raise FieldError(f"{where} is {_kind(value)}, not an object")
    return value


def sequence(row: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    """The list under `key`."""
    value = row.get(key)
    if not isinstance(value, list):
        raise FieldError(f"{key} of {where} is {_kind(value)}, not a list")
    return value


def optional_sequence(row: Mapping[str, Any], key: str, where: str) -> Sequence[Any] | None:
    """The list under `key`; None where it is null or absent."""
    return sequence(row, key, where) if row.get(key) is not None else None


def text(row: Any, key: str, where: str) -> str:
    """The text under `key`."""
    value = row.get(key) if isinstance(row, dict) else mapping(row, where)
    if isinstance(value, str):
        return value
    raise FieldError(f"{key} of {where} is {_kind(value)}, not a text")


def optional_text(row: Mapping[str, Any], key: str, where: str) -> str | None:
    """The text under `key`; None where it is null or absent."""
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value
    raise FieldError(f"{key} of {where} is {_kind(value)}, not a text")


def texts(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    """The list of texts under `key`; empty where it is null or absent."""
    values = optional_sequence(row, key, where) or ()
    for value in values:
        if not isinstance(value, str):
            raise FieldError(f"{key} of {where} holds {_kind(value)}, not a text")
    return list(values)


def whole(row: Mapping[str, Any], key: str, where: str) -> int:
    """The whole number under `key`."""
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(f"{key} of {where} is {_kind(value)}, not a whole number")
    return value


def optional_whole(row: Mapping[str, Any], key: str, where: str) -> int | None:
    """The whole number under `key`; None where it is null or absent."""
    return None if row.get(key) is None else whole(row, key, where)


def flag(row: Mapping[str, Any], key: str, where: str) -> bool:
    """The truth value under `key`."""
    value = row.get(key)
    if not isinstance(value, bool):
        raise FieldError(f"{key} of {where} is {_kind(value)}, not true or false")
    return value


def _kind(value: Any) -> str:
    names = {type(None): "nothing", bool: "a truth value", str: "a text", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")
