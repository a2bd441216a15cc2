"""suppressions.yaml: the suppression list as an operator writes it and keeps it under version control."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from stash_sense_pipeline.errors import ConfigurationError
from stash_sense_pipeline.yamlfile import KeyPath, YamlFile, read_yaml

_KEYS = ("target", "reason", "date")
_MAX_REASON = 200
_URL = re.compile(r"https?://[^\s/@]+\.?[^\s/@]*/\S+", re.IGNORECASE)
_RECORD = re.compile(r"([a-z0-9_]+):(?!//)(\S+)")


@dataclass(frozen=True)
class SuppressionEntry:
    """One request to be left out. `target` is SOURCE:ID of a record, or the URL of a profile or an image."""

    target: str
    reason: str
    date: date


def is_url(target: str) -> bool:
    """True for a target that is a URL, false for SOURCE:ID."""
    return _URL.fullmatch(target) is not None


def check_target(target: str, sources: Collection[str]) -> None:
    """Raises ConfigurationError, which says what is allowed, when `target` is no URL and no SOURCE:ID."""
    if is_url(target):
        return
    record = _RECORD.fullmatch(target)
    if record is None:
        raise ConfigurationError(
            f"{target!r} is neither SOURCE:ID nor the http(s) URL of a profile or an image"
        )
    if record[1] not in sources:
        close = difflib.get_close_matches(record[1], list(sources), n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise ConfigurationError(f"{record[1]!r} is not a source; {guess}allowed: {', '.join(sources)}")


def read_suppressions_file(path: Path, sources: Collection[str]) -> tuple[SuppressionEntry, ...]:
    """The entries of a suppression file: a list of mappings of target, reason and date (YYYY-MM-DD).

    Raises ConfigurationError naming file and line of all that is wrong: one bad entry refuses the whole file.
    """
    file = read_yaml(path)
    if not isinstance(file.data, list):
        file.complain((), "must be a list of entries with target, reason and date; [] for none")
        file.raise_problems()
    entries = [_entry(file, index, item, sources) for index, item in enumerate(file.data)]
    _refuse_repetition(file, entries)
    file.raise_problems()
    return tuple(entry for entry in entries if entry is not None)


def _entry(file: YamlFile, index: int, item: Any, sources: Collection[str]) -> SuppressionEntry | None:
    if not isinstance(item, dict):
        file.complain((index,), "is not an entry with target, reason and date")
        return None
    for key in item:
        if key not in _KEYS:
            file.complain((index, key), f"is not a known key; allowed: {', '.join(_KEYS)}")
    for key in _KEYS:
        if key not in item:
            file.complain((index,), f"{key} is missing")
    target = _target(file, (index, "target"), item.get("target", ""), sources) if "target" in item else None
    reason = _reason(file, (index, "reason"), item["reason"]) if "reason" in item else None
    day = _day(file, (index, "date"), item["date"]) if "date" in item else None
    if target is None or reason is None or day is None:
        return None
    return SuppressionEntry(target, reason, day)


def _target(file: YamlFile, path: KeyPath, value: Any, sources: Collection[str]) -> str | None:
    if not isinstance(value, str):
        file.complain(path, "is not text; put SOURCE:ID or the URL in quotes")
        return None
    target = value.strip()
    try:
        check_target(target, sources)
    except ConfigurationError as error:
        file.complain(path, str(error))
        return None
    return target


def _reason(file: YamlFile, path: KeyPath, value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_REASON:
        file.complain(path, f"must be a text of at most {_MAX_REASON} characters, without names")
        return None
    return value.strip()


def _day(file: YamlFile, path: KeyPath, value: Any) -> date | None:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    elif isinstance(value, date) and not isinstance(value, datetime):
        return value
    file.complain(path, "is not a date as in 2026-01-31")
    return None


def _refuse_repetition(file: YamlFile, entries: list[SuppressionEntry | None]) -> None:
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        earlier = first.setdefault(entry.target, index)
        if earlier != index:
            file.complain((index, "target"), f"is there already in line {file.line((earlier, 'target'))}")
