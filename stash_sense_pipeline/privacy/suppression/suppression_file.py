"""suppressions.yaml: read, validate, append."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import PRIVATE_FILE, write_atomically
from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile, parse_yaml, read_yaml

_NEEDED = ("target", "reason", "date")
_FLAGS = ("unseen", "block_face", "picture_only")
_KEYS = (*_NEEDED, *_FLAGS)
_MAX_REASON = 200
# A sealed target has 74 characters for each of its hashes; browsers accept URLs of 2,000.
_MAX_TARGET = 20_000
_REASON_RULE = f"must be one line of at most {_MAX_REASON} characters, without names"
_URL = re.compile(r"https?://[^\s/@]+/\S+", re.IGNORECASE)
_RECORD = re.compile(r"([a-z0-9_]+):(?!//)(\S+)")
_SEALED = re.compile(r"sealed:[0-9a-f]{8}(?::(?:record|url|image|picture|awaited)-[0-9a-f]{64})+")
_HEADER = """\
# The suppression list. Each entry has a target (SOURCE:ID, or the URL of a profile or an image), a reason and a date.
# `stash-sense suppress add` writes sealed targets: keyed hashes, which only the suppression.key can match.
"""


@dataclass(frozen=True)
class SuppressionEntry:
    """One request to be removed and kept out.

    `target` is SOURCE:ID of a record, the URL of a profile or an image, or sealed: the hashes of one of these.
    `unseen`: accept the target although no source has shown it yet. `block_face`: keep one protected template of the
    face. `picture_only`: the URL of an image means that image, not the person. `line` is its line in the file.
    """

    target: str
    reason: str
    date: date
    unseen: bool = False
    block_face: bool = False
    picture_only: bool = False
    line: int = field(default=0, compare=False)


def sealed_target(fingerprint: str, hashes: Collection[tuple[str, str]]) -> str:
    """The sealed target of (kind, hash) pairs that were made with the key of this fingerprint."""
    return ":".join(["sealed", fingerprint, *(f"{kind}-{digest}" for kind, digest in hashes)])


def unsealed(target: str) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """The fingerprint of the key and the (kind, hash) pairs of a sealed target; None for any other target."""
    if _SEALED.fullmatch(target) is None:
        return None
    _, fingerprint, *hashes = target.split(":")
    return fingerprint, tuple((each.partition("-")[0], each.partition("-")[2]) for each in hashes)


def is_url(target: str) -> bool:
    """True for a target that is a URL, false for SOURCE:ID."""
    return _URL.fullmatch(target) is not None


def check_target(target: str, sources: Collection[str]) -> None:
    """Raises ConfigurationError, which says what is allowed, unless `target` is a URL, SOURCE:ID or sealed."""
    if len(target) > _MAX_TARGET:
        raise ConfigurationError(f"it has more than {_MAX_TARGET} characters")
    if is_url(target) or unsealed(target) is not None:
        return
    record = _RECORD.fullmatch(target)
    if record is None or record[1] == "sealed":
        # The message does not repeat the target: it may be a person's name, and the run history shows messages.
        raise ConfigurationError("it is neither SOURCE:ID nor the http(s) URL of a profile or an image")
    if record[1] not in sources:
        close = difflib.get_close_matches(record[1], list(sources), n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise ConfigurationError(f"{record[1]!r} is not a source; {guess}allowed: {', '.join(sources)}")


def check_reason(text: str) -> str:
    """The reason without outer blanks. Raises ConfigurationError when it is empty, too long or of several lines."""
    reason = text.strip()
    if not reason or len(reason) > _MAX_REASON or not reason.isprintable():
        raise ConfigurationError(_REASON_RULE)
    return reason


def check_picture_only(entry: SuppressionEntry) -> None:
    """Raises ConfigurationError for `picture_only` with SOURCE:ID, or with `block_face`."""
    if entry.picture_only and not (is_url(entry.target) or unsealed(entry.target)):
        raise ConfigurationError("picture_only is for the URL of an image; leave it out for SOURCE:ID")
    if entry.picture_only and entry.block_face:
        raise ConfigurationError(
            "block_face refuses the face of a person, and picture_only means one image; leave one of them out"
        )


def append_entry(path: Path, entry: SuppressionEntry) -> None:
    """Adds an entry at the end of a suppression file, which is created if it does not exist. Comments stay.

    Raises ConfigurationError when the file is not a plain list of entries.
    """
    item: dict[str, Any] = {"target": entry.target, "reason": entry.reason, "date": entry.date}
    item |= {flag: True for flag in _FLAGS if getattr(entry, flag)}
    before = path.read_text() if path.exists() else _HEADER
    known = _entries_of(path, before)
    if known == [] and before.strip().endswith("[]"):
        before = before.strip().removesuffix("[]")
    text = before if not before or before.endswith("\n") else before + "\n"
    text += yaml.safe_dump([item], sort_keys=False, allow_unicode=True, width=10_000)
    try:
        grown = _entries_of(path, text)
    except ConfigurationError:
        grown = None
    if not isinstance(known, list) or grown != [*known, item]:
        raise ConfigurationError(
            f"{path}: the entry cannot be added to the end; write the list as lines of `- `"
        )
    write_atomically(path, text, mode=path.stat().st_mode & 0o777 if path.exists() else PRIVATE_FILE)


def _entries_of(path: Path, text: str) -> Any:
    """The content of a suppression file; [] when it has only comments."""
    if all(line.lstrip().startswith("#") or not line.strip() for line in text.splitlines()):
        return []
    file = parse_yaml(text, path)
    file.raise_problems()
    return file.data


def read_suppressions_file(path: Path, sources: Collection[str]) -> tuple[SuppressionEntry, ...]:
    """The entries of a suppression file: a list of mappings of target, reason and date (YYYY-MM-DD).

    Raises ConfigurationError with file and line of every problem: one wrong entry refuses the whole file.
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
    for key in _NEEDED:
        if key not in item:
            file.complain((index,), f"{key} is missing")
    for key in _FLAGS:
        if not isinstance(item.get(key, False), bool):
            file.complain((index, key), "is not true or false")
    target = _target(file, (index, "target"), item.get("target", ""), sources) if "target" in item else None
    reason = _reason(file, (index, "reason"), item["reason"]) if "reason" in item else None
    day = _day(file, (index, "date"), item["date"]) if "date" in item else None
    if target is None or reason is None or day is None:
        return None
    flags = {flag: item.get(flag) is True for flag in _FLAGS}
    entry = SuppressionEntry(target, reason, day, **flags, line=file.line((index, "target")))
    try:
        check_picture_only(entry)
    except ConfigurationError as error:
        file.complain((index, "picture_only"), str(error))
        return None
    return entry


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
    if not isinstance(value, str):
        file.complain(path, _REASON_RULE)
        return None
    try:
        return check_reason(value)
    except ConfigurationError as error:
        file.complain(path, str(error))
        return None


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
