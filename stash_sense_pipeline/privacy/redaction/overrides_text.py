"""Changes the text of identity_overrides.yaml: entries are added and removed, comments and layout stay.

One process at a time changes the file: it holds the lock from before it reads the file until it has replaced it.
"""

from __future__ import annotations

import errno
import json
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stash_sense_pipeline.foundation.files import holding_lock, make_directory
from stash_sense_pipeline.foundation.yaml_file import FAST_LOADER

# Entries look like [source:id, source:id]. Other texts are quoted.
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*(?::[A-Za-z0-9_.-]+)?", re.ASCII)
# A holder writes one file.
_LONGEST_WAIT = 20.0
# A byte order mark. The parser in C does not count it.
_MARK = "\ufeff"
_RESERVED = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})

# An entry: the text of an image or a page, or a list of texts.
Entry = str | Sequence[str]


@dataclass(frozen=True)
class NewEntry:
    """An entry to add to a section, and its comment in one line."""

    section: str
    entry: Entry
    comment: str = ""


@contextmanager
def overrides_locked(path: Path, seconds: float = _LONGEST_WAIT) -> Iterator[Path]:
    """Holds the lock of the file, and yields the file itself where `path` is a link.

    Waits for other holders, at most for `seconds`, and raises OSError then.
    """
    target = path.resolve()
    make_directory(target.parent)
    give_up = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > give_up:
            raise OSError(errno.EAGAIN, f"another process has held its lock for {seconds:.0f} s", str(target))

    with holding_lock(target.with_name(f".{target.name}.lock"), check):
        yield target


def added(text: str, new: NewEntry) -> str:
    """The text with the entry at the end of its section. The section is added where the text lacks it.

    The result must be compared with the wanted content: in rare forms of YAML it is not valid.
    """
    if text.startswith(_MARK):
        return _MARK + added(text.removeprefix(_MARK), new)
    root = yaml.compose(text, Loader=FAST_LOADER) if text.strip() else None
    line_break = "\r\n" if "\r\n" in text else "\n"
    shown = entry_text(new.entry) + (f"  # {new.comment}" if new.comment else "")
    pairs = root.value if isinstance(root, yaml.MappingNode) else ()
    section = next((value for key, value in pairs if key.value == new.section), None)
    if section is None:
        ended = text if not text or text.endswith("\n") else text + line_break
        return f"{ended}{new.section}:{line_break}  - {shown}{line_break}"
    items = section.value if isinstance(section, yaml.SequenceNode) else []
    if not items:
        begin, end = section.start_mark.index, section.end_mark.index
        return _after_line(text[:begin] + text[end:], begin, f"  - {shown}", line_break)
    last = max(leaf.end_mark.index for leaf in _leaves(items[-1]))
    if section.flow_style:
        end = items[-1].end_mark.index
        return f"{text[:end]},{line_break}  {shown}{line_break}  {text[end:].lstrip(' ')}"
    dashes = _dashes(text)
    dash = dashes[bisect_left(dashes, items[-1].start_mark.index) - 1]
    indent = text[text.rfind("\n", 0, dash) + 1 : dash]
    return _after_line(text, last, f"{indent}- {shown}", line_break)


def removed(text: str, sections: Collection[str], is_chosen: Callable[[list[str]], bool]) -> str:
    """The text without the entries of these sections of which `is_chosen` holds, including their dash or comma."""
    if text.startswith(_MARK):
        return _MARK + removed(text.removeprefix(_MARK), sections, is_chosen)
    return _cut(text, _spans(text, sections, is_chosen))


def entry_text(entry: Entry) -> str:
    """An entry as YAML on one line."""
    if isinstance(entry, str):
        return _scalar(entry)
    return f"[{', '.join(map(_scalar, entry))}]"


def has_content(text: str, content: Any) -> bool:
    """True when the text has this content. An empty section equals a missing one."""
    try:
        return bool(_normal(yaml.load(text.removeprefix(_MARK), Loader=FAST_LOADER)) == _normal(content))
    except yaml.YAMLError:
        return False


def whole_lines(text: str, begin: int, end: int) -> tuple[int, int]:
    """The span from the beginning of the line with `begin` to the end of the line with `end`, line break included."""
    line_end = text.find("\n", end)
    return text.rfind("\n", 0, begin) + 1, len(text) if line_end < 0 else line_end + 1


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text not in _RESERVED:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _after_line(text: str, place: int, line: str, line_break: str) -> str:
    end = text.find("\n", place)
    if end < 0:
        return f"{text}{line_break}{line}{line_break}"
    return f"{text[: end + 1]}{line}{line_break}{text[end + 1 :]}"


def _normal(data: Any) -> Any:
    return {key: value for key, value in data.items() if value} if isinstance(data, dict) else data or {}


def _spans(
    text: str, sections: Collection[str], is_chosen: Callable[[list[str]], bool]
) -> Iterator[tuple[int, int]]:
    root = yaml.compose(text, Loader=FAST_LOADER)
    dashes = _dashes(text)
    for key, section in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value not in sections or not isinstance(section, yaml.SequenceNode):
            continue
        for item in section.value:
            leaves = list(_leaves(item))
            if leaves and is_chosen([leaf.value for leaf in leaves]):
                begin, end = item.start_mark.index, max(leaf.end_mark.index for leaf in leaves)
                if section.flow_style:
                    yield _with_comma(text, begin, item.end_mark.index)
                else:
                    yield whole_lines(text, dashes[bisect_left(dashes, begin) - 1], end)


def _dashes(text: str) -> list[int]:
    """The places of the dashes of block lists, ascending."""
    return [
        token.start_mark.index
        for token in yaml.scan(text, Loader=FAST_LOADER)
        if isinstance(token, yaml.BlockEntryToken)
    ]


def _leaves(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _leaves(item)


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
