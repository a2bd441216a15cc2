"""The rooms of docs/architecture.md: each imports only rooms below it, and Dagster stays in the upper ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stash_sense_pipeline"
# From the ground up. Modules that lie in the package itself are below all rooms, but for definitions.py.
FLOORS = ("catalog", "privacy", "sources", "faces", "identity", "release", "orchestration")
ABOVE = ("definitions", "cli", "sandbox")


def _floor(name: str) -> int:
    """0 for the ground, the place in FLOORS from 1, and the highest for what may import anything."""
    if name in FLOORS:
        return FLOORS.index(name) + 1
    return len(FLOORS) + 1 if name in ABOVE else 0


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, but for the ones that only the type checker sees."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if _room(path) not in ABOVE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    for name in _imports(path):
        own, _, rest = name.partition(".")
        if own == PACKAGE.name:
            assert _floor(rest.partition(".")[0]) <= _floor(_room(path)), name
        if own.startswith("dagster"):
            assert _room(path) == "orchestration", name
