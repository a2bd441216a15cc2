"""Writes answers into identity_overrides.yaml at once, and takes them back; several processes may do so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import PRIVATE_FILE, write_atomically
from stash_sense_pipeline.foundation.yaml_file import FAST_LOADER, read_yaml
from stash_sense_pipeline.identity.linkage.overrides import Overrides, load_overrides
from stash_sense_pipeline.privacy.redaction.overrides_text import (
    Entry,
    NewEntry,
    added,
    entry_text,
    has_content,
    overrides_locked,
    removed,
)

_HEADER = "# Your word on identities; see docs/identities.md. `stash-sense review` adds lines.\n"
# A file that another program changes again and again is not written.
_ATTEMPTS = 5
_COMMENT = re.compile(r"(?:^|\s)#\s*(.*)")


def add_entry(path: Path, new: NewEntry, check: Callable[[Overrides], None]) -> None:
    """Adds an entry to the file. Comments, layout and the entries of others stay.

    `check` sees the overrides of the moment, under the lock, and raises an error to refuse the entry. Raises
    ConfigurationError with file and line when the file cannot be parsed, extended or written; nothing is changed then.
    """

    def change(text: str, overrides: Overrides) -> str:
        check(overrides)
        after = added(text or _HEADER, new)
        wanted = _with_entry(_content(text), new.section, new.entry)
        if not has_content(after, wanted):
            raise ConfigurationError(
                f"{path}:{_line_of(path, new.section)}: {new.section} is written in a form that this program cannot"
                f" extend; write it as a list of lines, or add {entry_text(new.entry)} by hand"
            )
        return after

    _change(path, change)


def remove_entry(path: Path, section: str, entry: Entry) -> bool:
    """Removes an entry from the file; False when it is not there. Raises ConfigurationError as add_entry does."""
    names = [entry] if isinstance(entry, str) else list(entry)
    found = False

    def change(text: str, overrides: Overrides) -> str:
        nonlocal found
        content = _content(text)
        items = content.get(section) or []
        kept = [item for item in items if ([item] if isinstance(item, str) else item) != names]
        found = len(kept) < len(items)
        if not found:
            return text
        after = removed(text, (section,), lambda leaves: leaves == names)
        if not has_content(after, {**content, section: kept}):
            raise ConfigurationError(
                f"{path}:{_line_of(path, section)}: {section} is written in a form that this program cannot change;"
                f" remove {entry_text(entry)} by hand"
            )
        return after

    _change(path, change)
    return found


def entries(path: Path) -> list[tuple[str, Entry, int]]:
    """(section, entry, line) of each entry of the file, in its order. Raises ConfigurationError as load_overrides."""
    if not path.exists():
        return []
    file = read_yaml(path)
    return [
        (section, _plain(item), file.line((section, index)))
        for section, items in file.data.items()
        for index, item in enumerate(items or ())
    ]


def comments(path: Path) -> dict[int, str]:
    """The comment at the end of each line that has one, by line number. For display: a # inside a text may count."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return {
        number: found[1].strip()
        for number, line in enumerate(lines, 1)
        if (found := _COMMENT.search(line)) is not None
    }


def _change(path: Path, change: Callable[[str, Overrides], str]) -> None:
    """Replaces the text of the file under its lock. A change by a program without the lock meanwhile is not lost."""
    try:
        with overrides_locked(path) as target:
            for _ in range(_ATTEMPTS):
                before = target.read_bytes() if target.exists() else None
                # An empty file, or one with comments only, says nothing yet.
                blank = before is None or _is_blank(target, before)
                overrides = Overrides(path) if blank else load_overrides(path)
                after = change((before or b"").decode(), overrides)
                if before is not None and after.encode() == before:
                    return
                if (target.read_bytes() if target.exists() else None) == before:
                    mode = target.stat().st_mode & 0o777 if before is not None else PRIVATE_FILE
                    write_atomically(target, after, mode=mode)
                    return
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not valid YAML: it is not UTF-8; nothing was written") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}); nothing was changed: make it and its folder writable"
        ) from error
    raise ConfigurationError(f"{path} changes all the time; nothing was written: close the other program")


def _is_blank(path: Path, content: bytes) -> bool:
    try:
        return yaml.compose(content.decode("utf-8-sig"), Loader=FAST_LOADER) is None
    except (yaml.YAMLError, UnicodeDecodeError):
        # load_overrides says what is wrong, with the line.
        return False


def _content(text: str) -> Mapping[str, Any]:
    return yaml.load(text.removeprefix("\ufeff"), Loader=FAST_LOADER) or {}


def _with_entry(content: Mapping[str, Any], section: str, entry: Entry) -> dict[str, Any]:
    item = entry if isinstance(entry, str) else list(entry)
    return {**content, section: [*(content.get(section) or ()), item]}


def _plain(item: Any) -> Entry:
    return (
        item if isinstance(item, str) else tuple(map(str, item)) if isinstance(item, Sequence) else str(item)
    )


def _line_of(path: Path, section: str) -> int:
    return read_yaml(path).line((section,)) if path.exists() else 1
