"""The rooms of docs/architecture.md: the direction of imports, and the sizes of folders, modules and functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stash_sense_pipeline"
# From the ground up.
FLOORS = (
    *("foundation", "records", "settings", "catalog", "privacy", "frames", "sources", "faces", "identity"),
    *("release", "review", "orchestration", "deployment", "definitions", "cli"),
)
WITH_DAGSTER = {"orchestration", "deployment", "definitions", "cli"}
MOST_MODULES_OF_A_FOLDER = 12
MOST_LINES_OF_A_MODULE = 400
# Tables that are read as one.
LONG_MODULES = {"catalog.schema", "records.profile_sites"}
MOST_LINES_OF_A_FUNCTION, LONG_FUNCTIONS = 60, 4
MOST_ARGUMENTS, WIDE_FUNCTIONS = 5, 12
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)


def name_of(path: Path) -> str:
    """The dotted name of a module below the package; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(path) for path in MODULES}


def room_of(name: str) -> str:
    return name.partition(".")[0]


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports, in functions and for the type checker too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    found = set()
    for name in imports_of(path):
        own, _, rest = name.partition(".")
        if own == PACKAGE.name:
            found.add(rest if rest in NAMES else rest.rpartition(".")[0])
    return found - {"", name_of(path)}


GRAPH = {name_of(path): own_imports(path) for path in MODULES if name_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    own = room_of(name_of(path))
    if not own:
        assert own_imports(path) == set()
        return
    allowed = (
        {"foundation", "records", "sandbox"} if own == "sandbox" else set(FLOORS[: FLOORS.index(own) + 1])
    )
    allowed |= {"sandbox"} if own == "cli" else set()
    assert {room_of(name) for name in own_imports(path)} <= allowed
    if any(name.partition(".")[0].startswith("dagster") for name in imports_of(path)):
        assert own in WITH_DAGSTER


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of several nodes, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(GRAPH) == []


def test_no_folders_beside_each_other_import_each_other_in_a_circle() -> None:
    folders = {name_of(path / "__init__.py") for path in PACKAGE.rglob("*") if path.is_dir()} & NAMES
    for parent in folders | {""}:
        prefix = f"{parent}." if parent else ""

        def child(name: str, prefix: str = prefix) -> str | None:
            """The folder directly below the parent that holds a module."""
            if not name.startswith(prefix):
                return None
            folder = prefix + name.removeprefix(prefix).partition(".")[0]
            return folder if folder in folders and folder != name else None

        graph: dict[str, set[str]] = {}
        for name, imported in GRAPH.items():
            if (own := child(name)) is not None:
                graph.setdefault(own, set()).update({child(each) or own for each in imported} - {own})
        assert circles(graph) == [], parent


def test_no_folder_holds_more_modules_than_a_reader_can_survey() -> None:
    folders = [path for path in PACKAGE.rglob("*") if (path / "__init__.py").exists()]
    sizes = {
        str(folder.relative_to(PACKAGE)): len(
            [each for each in folder.glob("*.py") if each.stem != "__init__"]
        )
        for folder in folders
    }
    assert {folder: size for folder, size in sizes.items() if size > MOST_MODULES_OF_A_FOLDER} == {}


def test_no_module_is_longer_than_400_lines_but_the_named_tables() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    long = {name for name, length in lengths.items() if length > MOST_LINES_OF_A_MODULE}
    assert long <= LONG_MODULES, {name: lengths[name] for name in long - LONG_MODULES}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions and methods of the package, each with the name of its module and its own."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name_of(path)}.{node.name}", node


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The names of the arguments that a caller gives, without *args and **kwargs."""
    given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [argument.arg for argument in given if argument.arg not in ("self", "cls")]


@pytest.mark.slow
def test_at_most_four_functions_are_longer_than_60_lines() -> None:
    lengths = [(name, (node.end_lineno or node.lineno) - node.lineno + 1) for name, node in functions()]
    long = [each for each in lengths if each[1] > MOST_LINES_OF_A_FUNCTION]
    assert len(long) <= LONG_FUNCTIONS, f"split one of these functions: {long}"


@pytest.mark.slow
def test_at_most_twelve_functions_take_more_than_five_arguments() -> None:
    wide = [name for name, node in functions() if len(arguments_of(node)) > MOST_ARGUMENTS]
    assert len(wide) <= WIDE_FUNCTIONS, f"give what belongs together as a frozen dataclass: {wide}"
