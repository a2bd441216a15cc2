"""Removes erased people from identity_overrides.yaml; other lines and comments stay unchanged."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import write_atomically
from stash_sense_pipeline.foundation.yaml_file import read_yaml
from stash_sense_pipeline.privacy.redaction.mentions import mentions
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions

_SECTIONS = ("must_link", "cannot_link", "not_this_person", "not_a_face")
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
    path = path.resolve()
    erased = {text.casefold() for text in texts}

    def is_gone(name: Any) -> bool:
        source, _, source_id = name.partition(":") if isinstance(name, str) else ("", "", "")
        record = (source.strip(), source_id.strip())
        return (
            ":".join(record).casefold() in erased
            or suppressions.covers_record(*record)
            or suppressions.covers_picture(*record, url="")
        )

    try:
        data = read_yaml(path).data
        before = path.read_bytes().decode()
    except (ConfigurationError, UnicodeDecodeError):
        return OverridesReport(
            problem=f"{path} cannot be read, and may name people who have left: correct it"
        )
    kept, pairs = _without_pairs(data, is_gone)
    after = _cut(before, _spans(before, is_gone)) if pairs else before
    if not _has_content(after, kept):
        # YAML aliases and other rare forms: the content is kept, comments and layout are not.
        after = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    after, comments = _without_comments(after, is_gone, mentions(texts))
    if after == before:
        return OverridesReport()
    try:
        write_atomically(path, after, mode=path.stat().st_mode & 0o777)
    except OSError as error:
        return OverridesReport(
            problem=f"{path} names people who have left and cannot be written ({error.strerror}): remove them there"
        )
    return OverridesReport(pairs, comments)


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


def _normal(data: Any) -> Any:
    return {key: value for key, value in data.items() if value} if isinstance(data, dict) else data or {}


def _spans(text: str, is_gone: Callable[[Any], bool]) -> Iterator[tuple[int, int]]:
    """The spans of the text with pairs and verdicts of erased people, including their dash or comma."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    dashes = [token.start_mark.index for token in yaml.scan(text) if isinstance(token, yaml.BlockEntryToken)]
    for key, section in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value not in _SECTIONS or not isinstance(section, yaml.SequenceNode):
            continue
        for pair in section.value:
            if any(is_gone(leaf.value) for leaf in _leaves(pair)):
                begin, end = pair.start_mark.index, max(leaf.end_mark.index for leaf in _leaves(pair))
                if section.flow_style:
                    yield _with_comma(text, begin, pair.end_mark.index)
                else:
                    yield _whole_lines(text, dashes[bisect_left(dashes, begin) - 1], end)


def _leaves(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _leaves(item)


def _whole_lines(text: str, begin: int, end: int) -> tuple[int, int]:
    line_end = text.find("\n", end)
    return text.rfind("\n", 0, begin) + 1, len(text) if line_end < 0 else line_end + 1


def _with_comma(text: str, begin: int, end: int) -> tuple[int, int]:
    after = re.compile(r"\s*,[ \t]*").match(text, end)
    if after is not None:
        return begin, after.end()
    before = re.search(r",\s*$", text[:begin])
    return (before.start() if before is not None else begin), end


def _cut(text: str, spans: Iterable[tuple[int, int]]) -> str:
    kept, place = [], 0
    for begin, end in sorted(spans):
        # Two neighbours overlap in a comma.
        kept.append(text[place : max(begin, place)])
        place = max(end, place)
    return "".join(kept) + text[place:]


def _has_content(text: str, content: Any) -> bool:
    """True when the text has this content. An empty section equals a missing one."""
    try:
        return bool(_normal(yaml.safe_load(text)) == _normal(content))
    except yaml.YAMLError:
        return False


def _without_comments(
    text: str, is_gone: Callable[[Any], bool], speaks_of: Callable[[str], bool]
) -> tuple[str, int]:
    """The text without comments that name an erased person, and the number of these comments."""
    removed = 0
    for begin, end in reversed(list(_comments(text))):
        comment = text[begin:end]
        if speaks_of(comment) or any(is_gone(match[0].rstrip(".;)")) for match in _RECORD.finditer(comment)):
            alone = not text[text.rfind("\n", 0, begin) + 1 : begin].strip()
            first, last = _whole_lines(text, begin, end) if alone else (begin, end)
            text = text[:first].rstrip(" \t") + text[last:] if not alone else text[:first] + text[last:]
            removed += 1
    return text, removed


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
