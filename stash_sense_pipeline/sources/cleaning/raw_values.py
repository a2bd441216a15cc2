"""Cleans the JSON values of a record that have no column of their own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from stash_sense_pipeline.sources.cleaning.numbers import INT64_MAX
from stash_sense_pipeline.sources.cleaning.text import MAX_ITEMS, MAX_TEXT_BYTES, clean_text, fits, label

# Levels of nesting; real records have three.
MAX_DEPTH = 8


_LEFT = object()


def clean_raw(value: Mapping[str, Any], left_out: Counter[str] | None = None) -> dict[str, Any]:
    """The JSON values of a record with cleaned texts and keys, without values outside the limits of this package.

    `left_out` counts the removed values by top-level field.
    """
    counts: Counter[str] = Counter() if left_out is None else left_out
    return dict(_clean_items(value, counts, None, 0))


def _clean_items(
    value: Mapping[Any, Any], left_out: Counter[str], field: str | None, depth: int
) -> Iterable[tuple[str, Any]]:
    for number, (key, item) in enumerate(value.items()):
        named = label(key)
        of = field or named or "raw"
        cleaned = (
            _LEFT if named is None or number >= MAX_ITEMS else _clean_value(item, left_out, of, depth + 1)
        )
        if cleaned is _LEFT:
            left_out[of] += 1
        else:
            yield str(named), cleaned


def _clean_value(value: Any, left_out: Counter[str], field: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        cleaned = clean_text(value)
        return cleaned if fits(cleaned, MAX_TEXT_BYTES) else _LEFT
    if isinstance(value, int):
        return value if -INT64_MAX <= value <= INT64_MAX else _LEFT
    if isinstance(value, float):
        return value if math.isfinite(value) else _LEFT
    if depth >= MAX_DEPTH:
        return _LEFT
    if isinstance(value, Mapping):
        return dict(_clean_items(value, left_out, field, depth))
    if isinstance(value, list | tuple):
        items = [_clean_value(item, left_out, field, depth + 1) for item in value[:MAX_ITEMS]]
        kept = [item for item in items if item is not _LEFT]
        if len(kept) < len(value):
            left_out[field] += len(value) - len(kept)
        return kept
    return _LEFT
