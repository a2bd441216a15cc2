"""Removes erased people from identity_overrides.yaml; other lines and comments stay unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import write_atomically
from stash_sense_pipeline.foundation.yaml_file import read_yaml
from stash_sense_pipeline.privacy.redaction.mentions import mentions
from stash_sense_pipeline.privacy.redaction.overrides_text import (
    has_content,
    overrides_locked,
    removed,
    whole_lines,
)
from stash_sense_pipeline.privacy.suppression.suppression_hashes import profile_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.profile_urls import ProfileKey

_SECTIONS = (
    *("must_link", "cannot_link", "duplicates", "not_this_person", "not_a_face"),
    *("proves_nothing", "reviewed"),
)
_RECORD = re.compile(r"(?<!\w)([a-z0-9_]+):([^\s,\]\"']+)")


@dataclass(frozen=True)
class OverridesReport:
    """The number of pairs, with verdicts, and of comments removed. `problem`: one line on why some are still there."""

    pairs: int = 0
    comments: int = 0
    problem: str | None = None


def forget_overrides(path: Path, suppressions: Suppressions, texts: Collection[str]) -> OverridesReport:
    """Removes pairs and verdicts with a suppressed record or image from the file, and comments that name one or
    contain one of `texts`.

    `texts` are the traces of an erasure that is not committed yet: `suppressions` does not have all its records. A file
    that cannot be read as YAML, or cannot be written, stays unchanged, and the report says so.
    """
    if not path.exists():
        return OverridesReport()
    # Without a change nothing is locked: the folder of the file may be read-only.
    found = _forgotten(path, suppressions, texts)
    if found.is_same:
        return found.report
    try:
        with overrides_locked(path) as target:
            done = _forgotten(target, suppressions, texts)
            if not done.is_same:
                write_atomically(target, done.after, mode=target.stat().st_mode & 0o777)
    except OSError as error:
        return OverridesReport(
            problem=f"{path} names people who have left and cannot be written ({error.strerror}): remove them there"
        )
    return done.report


@dataclass(frozen=True)
class _Forgotten:
    """The text before and after, and the report. Both texts are empty when the file cannot be read."""

    before: str
    after: str
    report: OverridesReport

    @property
    def is_same(self) -> bool:
        return self.before == self.after


def _forgotten(path: Path, suppressions: Suppressions, texts: Collection[str]) -> _Forgotten:
    erased = {text.casefold() for text in texts}

    def is_gone(name: Any) -> bool:
        source, _, source_id = name.partition(":") if isinstance(name, str) else ("", "", "")
        record = (source.strip(), source_id.strip())
        return (
            ":".join(record).casefold() in erased
            or suppressions.covers_record(*record)
            or suppressions.covers_picture(*record, url="")
            or (
                bool(suppressions.urls)
                and profile_hash(suppressions.key, ProfileKey(*record)) in suppressions.urls
            )
        )

    try:
        data = read_yaml(path).data
        before = path.read_bytes().decode()
    except (ConfigurationError, UnicodeDecodeError):
        problem = f"{path} cannot be read, and may name people who have left: correct it"
        return _Forgotten("", "", OverridesReport(problem=problem))
    kept, pairs = _without_pairs(data, is_gone)
    after = removed(before, _SECTIONS, lambda names: any(map(is_gone, names))) if pairs else before
    if not has_content(after, kept):
        # YAML aliases and other rare forms: the content is kept, comments and layout are not.
        after = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    after, comments = _without_comments(after, is_gone, mentions(texts))
    return _Forgotten(
        before, after, OverridesReport(pairs, comments) if after != before else OverridesReport()
    )


def _without_pairs(data: Any, is_gone: Callable[[Any], bool]) -> tuple[Any, int]:
    """The content without pairs and verdicts of erased people, and their number."""
    if not isinstance(data, dict):
        return data, 0
    kept, count = dict(data), 0
    for section in _SECTIONS:
        if isinstance(data.get(section), list):
            kept[section] = [pair for pair in data[section] if not _holds(pair, is_gone)]
            count += len(data[section]) - len(kept[section])
    return kept, count


def _holds(pair: Any, is_gone: Callable[[Any], bool]) -> bool:
    return any(map(is_gone, pair)) if isinstance(pair, list) else is_gone(pair)


def _without_comments(
    text: str, is_gone: Callable[[Any], bool], speaks_of: Callable[[str], bool]
) -> tuple[str, int]:
    """The text without comments that name an erased person, and the number of these comments."""
    count = 0
    for begin, end in reversed(list(_comments(text))):
        comment = text[begin:end]
        if speaks_of(comment) or any(is_gone(match[0].rstrip(".;)")) for match in _RECORD.finditer(comment)):
            alone = not text[text.rfind("\n", 0, begin) + 1 : begin].strip()
            first, last = whole_lines(text, begin, end) if alone else (begin, end)
            text = text[:first].rstrip(" \t") + text[last:] if not alone else text[:first] + text[last:]
            count += 1
    return text, count


def _comments(text: str) -> Iterator[tuple[int, int]]:
    scalars = [
        (token.start_mark.index, token.end_mark.index)
        for token in yaml.scan(text)
        if isinstance(token, yaml.ScalarToken)
    ]
    place = 0
    for line in text.splitlines(keepends=True):
        bare = len(line.rstrip("\r\n"))
        for match in re.finditer(r"(?:^|(?<=\s))#", line[:bare]):
            begin = place + match.start()
            if not any(start <= begin < end for start, end in scalars):
                yield begin, place + bare
                break
        place += len(line)
