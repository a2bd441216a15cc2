"""YAML with line numbers: every error names file, line and key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import read_regular

KeyPath = tuple[str | int, ...]

# The lists of suppressions and overrides grow. 20,000 sealed entries have 12 MB and 200,000 values. A value takes about
# 600 bytes of memory while the file is read.
_MAX_BYTES = 16 * 1024**2
_MAX_NODES = 400_000
# sources.yaml has four levels. PyYAML's parser in C recurses without a limit, so the depth is checked before it runs.
_MAX_DEPTH = 32
# The longest texts are the licences in pack.yaml.
_MAX_TEXT = 100_000
_MAX_KEY = 200
# Long enough for every number and time. `1:1:1:…` is a number in base 60, which takes quadratic time to parse.
_MAX_TYPED = 64
_LARGEST = 2**63
# An operator does not read more problems than this. The text of one is cut, as a value can be as long as the file.
_MAX_PROBLEMS = 50
_MAX_PROBLEM = 500

_STANDARD = "tag:yaml.org,2002:"
_KNOWN_TAGS = (f"{_STANDARD}map", f"{_STANDARD}seq", f"{_STANDARD}str")
# A line that begins with % is a directive. These are the line breaks of YAML 1.1.
_DIRECTIVE = re.compile("(?:\\A|[\n\r\x85\u2028\u2029])%")
# The parser in C is ten times faster, but PyYAML can be built without it.
FAST_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class YamlFile:
    """The content of one YAML file, the line of each key, and the problems noted so far.

    `data` holds dicts with string keys, lists and scalars. `lines` maps the path of a key or list item to its
    line (1-based).
    """

    path: Path
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    _problems: list[tuple[int, str]] = field(default_factory=list)

    def line(self, path: KeyPath) -> int:
        """The line of the key at `path`, or of its nearest parent in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def complain(self, path: KeyPath, text: str) -> None:
        """Notes a problem of the key at `path`."""
        line = self.line(path)
        where = ".".join(str(part) for part in path)
        text = text if len(text) <= _MAX_PROBLEM else f"{text[:_MAX_PROBLEM]}…"
        self._problems.append(
            (line, f"{self.path}:{line}: {where}: {text}" if where else f"{self.path}:{line}: {text}")
        )

    def raise_problems(self) -> None:
        """Raises one ConfigurationError for all problems, one line each. Several problems get a summary line."""
        if not self._problems:
            return
        texts = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
        if len(texts) > 1:
            more = f", of which the first {_MAX_PROBLEMS} are shown" if len(texts) > _MAX_PROBLEMS else ""
            texts = [f"{self.path}: {len(texts)} errors{more}", *texts[:_MAX_PROBLEMS]]
        raise ConfigurationError("\n".join(texts))


def read_yaml(path: Path) -> YamlFile:
    """Parses one YAML file. A duplicate key is noted as a problem: PyYAML would silently keep its last value.

    Raises ConfigurationError when the file is missing, unreadable, empty, not YAML, or not within the limits: 16 MiB,
    400,000 values with aliases expanded, 32 levels.
    """
    try:
        content = read_regular(path, _MAX_BYTES)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_yaml(content, path)


def parse_yaml(content: bytes | str, path: Path) -> YamlFile:
    """Parses the content of a YAML file. `path` is used in error texts only. Raises ConfigurationError as read_yaml."""
    text = content if isinstance(content, str) else _decoded(content, path)
    if len(text) > _MAX_BYTES:
        raise ConfigurationError(f"{path}: cannot be read: it has more than {_MAX_BYTES} bytes")
    directive = _DIRECTIVE.search(text)
    if directive is not None:
        line = text.count("\n", 0, directive.end()) + 1
        raise ConfigurationError(f"{path}:{line}: not valid YAML: a line must not begin with %")
    loader = None
    try:
        _check_events(text)
        loader = FAST_LOADER(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigurationError(f"{path}: the file is empty")
        file = YamlFile(path)
        file.data = _Builder(loader, file).build(node, (), [])
    except yaml.YAMLError as error:
        raise ConfigurationError(_yaml_message(path, error)) from error
    finally:
        if loader is not None:
            loader.dispose()
    return file


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not valid YAML: it is not UTF-8") from None


def _check_events(text: str) -> None:
    """Checks depth, number of values and tags in the event stream, which is parsed without recursion."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=FAST_LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            _check_event(event)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            if depth > _MAX_DEPTH:
                raise _refused(event.start_mark, f"more than {_MAX_DEPTH} levels")
            if nodes > _MAX_NODES:
                raise _refused(event.start_mark, f"more than {_MAX_NODES} values")


def _check_event(event: yaml.NodeEvent) -> None:
    tag = getattr(event, "tag", None)
    if tag is not None and tag not in _KNOWN_TAGS:
        raise _refused(event.start_mark, f"the tag {_shown(tag)} is unknown")
    if isinstance(event, yaml.ScalarEvent):
        if len(event.value) > _MAX_TEXT:
            raise _refused(event.start_mark, f"a text of more than {_MAX_TEXT} characters")
        if tag is not None and tag.startswith(_STANDARD) and tag != f"{_STANDARD}str":
            raise _refused(event.start_mark, f"the tag {_shown(tag)} is not that of a text")


class _Builder:
    """Builds the content from nodes. An alias counts each time it is expanded."""

    def __init__(self, loader: Any, file: YamlFile) -> None:
        self._loader = loader
        self._file = file
        self._nodes = 0

    def build(self, node: yaml.Node, path: KeyPath, parents: list[int]) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise _refused(node.start_mark, f"more than {_MAX_NODES} values, with aliases expanded")
        if id(node) in parents:
            raise _refused(node.start_mark, "an alias that contains itself")
        if len(parents) > _MAX_DEPTH:
            raise _refused(node.start_mark, f"more than {_MAX_DEPTH} levels, with aliases expanded")
        inside = [*parents, id(node)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self._file.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self.build(item, (*path, index), inside))
            return items
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, parents: list[int]) -> Mapping[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(key.start_mark, "a key must be a word")
            name = key.value
            if len(name) > _MAX_KEY or not name.isprintable():
                raise _refused(key.start_mark, f"the key {_shown(name)} is no word")
            inner = (*path, name)
            if name in mapping:
                line = key.start_mark.line + 1
                self._file.complain(inner, f"is given twice, here and in line {line}; remove one")
                continue
            self._file.lines[inner] = key.start_mark.line + 1
            mapping[name] = self.build(value, inner, parents)
        return mapping

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag != f"{_STANDARD}str" and len(node.value) > _MAX_TYPED:
            raise _refused(node.start_mark, f"{_shown(node.value)} is too long for a number or a time")
        try:
            value = self._loader.construct_object(node, deep=True)
        except (ValueError, OverflowError) as error:
            raise _refused(node.start_mark, f"{_shown(node.value)} is not a valid value: {error}") from error
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            raise _refused(node.start_mark, f"{_shown(node.value)} is too large a number")
        if isinstance(value, str) and "\0" in value:
            raise _refused(node.start_mark, "a text with a NUL character")
        return value


def _refused(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _shown(text: str) -> str:
    """The beginning of a text. A text other than a tag is quoted, with its control characters escaped."""
    short = text if len(text) <= 60 else f"{text[:60]}…"
    return short if short.startswith("!") and short.isprintable() else repr(short)


def _yaml_message(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    problem = getattr(error, "problem", None) or str(error).split("\n")[0]
    context = getattr(error, "context", None)
    detail = f"{context}: {problem}" if context else problem
    return f"{where}: not valid YAML: {detail}"
