"""JSON that others wrote, read within limits: bytes, values, depth, numbers, and no key twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.files import read_regular

# The files that this package reads have at most five levels.
_MAX_DEPTH = 32
# 2**64 has 20 digits; the files that this package reads hold no larger number.
_MAX_DIGITS = 20
_MAX_NUMBER = 64
# An unterminated string matches to the end of the file. A search that failed there would start again at each quote, which
# takes quadratic time.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


@dataclass(frozen=True)
class JsonLimits:
    """How much one JSON text may hold: `size` in bytes, `values` counting objects, lists, scalars and keys."""

    size: int
    values: int


# For manifests, plans, notes of a step and lists of checks, which have some kilobytes.
SMALL = JsonLimits(1024**2, 50_000)
# For files with an entry for each face or performer. The largest release that fits into a GitHub asset (2 GiB) has about
# a million faces, at 50 bytes each. A predecessor's performers.json had 26 MB for 107,759 performers. Ten million Python
# objects take about a gigabyte.
LARGE = JsonLimits(256 * 1024**2, 10_000_000)


def read_json(path: Path, limits: JsonLimits) -> Any:
    """The content of a JSON file.

    Raises OSError when the file cannot be read or is too large, and ValueError when it is not JSON within the limits.
    The text of the ValueError is one line: what is wrong and, where it is known, the line in the file.
    """
    return parse_json(read_regular(path, limits.size), limits)


def parse_json(content: bytes | str, limits: JsonLimits) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError as read_json does."""
    if len(content) > limits.size:
        raise ValueError(f"it has more than {limits.size} bytes")
    text = content if isinstance(content, str) else _decoded(content)
    # The number of commas, colons and brackets is an upper bound of the number of values. It is checked before any
    # object is built; strings are removed only when the cheaper count exceeds the limit.
    if _count_delimiters(text) > limits.values and _count_delimiters(_STRING.sub('""', text)) > limits.values:
        raise ValueError(f"it holds more than {limits.values} values")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=lambda literal: _parse_int(text, literal),
            parse_float=lambda literal: _parse_float(text, literal),
            parse_constant=lambda literal: _refuse_constant(text, literal),
        )
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not valid JSON: {error.msg}") from None
    _check(value, surrogates=_SURROGATE.search(text) is not None)
    return value


def _decoded(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: it is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise ValueError("line 1: it begins with a byte order mark; save it as UTF-8 without one")
    return text


def _count_delimiters(text: str) -> int:
    return sum(text.count(delimiter) for delimiter in ",:[{")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"not valid JSON: the key {twice!r:.80} is given twice")
    return found


def _parse_int(text: str, literal: str) -> int:
    if len(literal.lstrip("-")) > _MAX_DIGITS:
        raise _bad_number(text, literal)
    return int(literal)


def _parse_float(text: str, literal: str) -> float:
    number = float(literal) if len(literal) <= _MAX_NUMBER else float("inf")
    if number in (float("inf"), float("-inf")):
        raise _bad_number(text, literal)
    return number


def _refuse_constant(text: str, literal: str) -> float:
    raise _bad_number(text, literal)


def _bad_number(text: str, literal: str) -> ValueError:
    line = text.count("\n", 0, text.find(literal)) + 1
    return ValueError(f"line {line}: the number {literal[:20]} is not finite or has too many digits")


def _too_deep() -> ValueError:
    return ValueError(f"it has more than {_MAX_DEPTH} levels of lists and objects")


def _check(value: Any, *, surrogates: bool) -> None:
    """Checks the depth level by level. With `surrogates`, also checks that each escaped surrogate is one of a pair."""
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH + 1):
        if surrogates:
            _check_texts(level)
        level = [
            inner for item in level if isinstance(item, dict | list) for inner in _inside(item, surrogates)
        ]
        if not level:
            return
    raise _too_deep()


def _inside(item: dict[str, Any] | list[Any], keys: bool) -> Iterable[Any]:
    """The values of a list or an object; with `keys`, all of them and the keys, else only what may hold others."""
    if isinstance(item, list):
        return item if keys else [inner for inner in item if type(inner) is dict or type(inner) is list]
    return [*item, *item.values()] if keys else item.values()


def _check_texts(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"the text {ascii(value)[:80]} holds an unpaired surrogate") from None
