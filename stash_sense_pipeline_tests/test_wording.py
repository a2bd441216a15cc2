"""Wording: words that make a sentence a riddle are in no module, shipped file or page of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Name the person, the thing or the action by its term instead.
RIDDLES = re.compile(
    r"\b(somebody|someone|nobody|whom|whose|hearsay|what\s+is\s+there|is\s+met|are\s+met|met\s+together|as\s+it\s+is)\b",
    re.IGNORECASE,
)
_FOLDERS = {"stash_sense_pipeline": "*", "docs": "*.md", "deploy": "*", ".ci": "*"}
_FILES = (
    *("README.md", "PRIVACY.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "Dockerfile"),
    *("dagster.yaml", "docker-compose.yml", "sources.yaml", "workspace.yaml", "mkdocs.yml", "pyproject.toml"),
)
_BINARY = {".png", ".onnx", ".ttf"}
TEXTS = sorted(
    path
    for path in (
        *(path for folder, pattern in _FOLDERS.items() for path in (ROOT / folder).rglob(pattern)),
        *(ROOT / name for name in _FILES),
    )
    # Another process may write bytecode just now.
    if path.is_file() and path.suffix not in _BINARY and "__pycache__" not in path.parts
)


def riddles_in(text: str) -> list[str]:
    """The riddles in a text, each with the number of its line."""
    return [f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]}" for found in RIDDLES.finditer(text)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_of_the_project_holds_no_riddle(path: Path) -> None:
    assert riddles_in(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the record\nof Somebody", ["2: Somebody"]),
        ("keep it as it\nis, whose", ["1: as it\nis", "2: whose"]),
        ("a whosever, has it", []),
    ],
)
def test_riddles_are_found_in_any_case_and_across_lines(text: str, expected: list[str]) -> None:
    assert riddles_in(text) == expected
