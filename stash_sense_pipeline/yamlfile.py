"""Reading an operator's YAML file so that every complaint can name its file, line and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stash_sense_pipeline.errors import ConfigurationError

KeyPath = tuple[str | int, ...]
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
# The parser in C is ten times faster; PyYAML can be built without it.
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class YamlFile:
    """The content of one YAML file, the line of each key, and what is wrong with it so far.

    `data` holds dicts with string keys, lists and scalars. `lines` maps the path of a key or list item to its
    line (1-based).
    """

    path: Path
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    _problems: list[tuple[int, str]] = field(default_factory=list)

    def line(self, path: KeyPath) -> int:
        """Line of the key at `path`, or of its nearest parent that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def complain(self, path: KeyPath, text: str) -> None:
        """Notes one problem of the key at `path`."""
        line = self.line(path)
        where = ".".join(str(part) for part in path)
        self._problems.append(
            (line, f"{self.path}:{line}: {where}: {text}" if where else f"{self.path}:{line}: {text}")
        )

    def raise_problems(self) -> None:
        """Raises one ConfigurationError for all problems: a line each, with a summary above several."""
        if not self._problems:
            return
        texts = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
        if len(texts) > 1:
            texts.insert(0, f"{self.path}: {len(texts)} errors")
        raise ConfigurationError("\n".join(texts))


def read_yaml(path: Path) -> YamlFile:
    """Parses one YAML file. Doubled keys are noted as problems: plain YAML would silently keep the last one.

    Raises ConfigurationError when the file is missing, unreadable, empty or not YAML.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    loader = None
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            raise ConfigurationError(f"{path}: the file is empty")
        file = YamlFile(path)
        file.data = _construct(loader, node, (), file, [])
    except yaml.YAMLError as error:
        raise ConfigurationError(_yaml_message(path, error)) from error
    finally:
        if loader is not None:
            loader.dispose()
    return file


def _construct(loader: Any, node: yaml.Node, path: KeyPath, file: YamlFile, parents: list[int]) -> Any:
    if id(node) in parents:
        raise yaml.composer.ComposerError(None, None, "an alias that contains itself", node.start_mark)
    inside = [*parents, id(node)]
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
        raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is unknown", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node, path, file, inside)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            file.lines[(*path, index)] = item.start_mark.line + 1
            items.append(_construct(loader, item, (*path, index), file, inside))
        return items
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:
        problem = f"{node.value!r} is not a valid value: {error}"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _construct_mapping(
    loader: Any, node: yaml.MappingNode, path: KeyPath, file: YamlFile, parents: list[int]
) -> Mapping[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
        name = key.value
        inner = (*path, name)
        if name in mapping:
            line = key.start_mark.line + 1
            file.complain(inner, f"is there twice, here and in line {line}; remove one")
            continue
        file.lines[inner] = key.start_mark.line + 1
        mapping[name] = _construct(loader, value, inner, file, parents)
    return mapping


def _yaml_message(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    problem = getattr(error, "problem", None) or str(error).split("\n")[0]
    context = getattr(error, "context", None)
    detail = f"{context}: {problem}" if context else problem
    return f"{where}: not valid YAML: {detail}"
