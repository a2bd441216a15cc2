"""docs/commands.md shows the current output of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from stash_sense_pipeline_tests.tools.documented_commands import EXAMPLES, comparable, transcripts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_every_command_prints_what_the_documentation_shows(demo: tuple[Path, str], tmp_path: Path) -> None:
    said = transcripts(*demo, tmp_path)
    shown = {path.stem: path.read_text() for path in EXAMPLES.glob("*.txt")}
    assert shown.keys() == said.keys()
    for name in said:
        assert comparable(shown[name]) == comparable(said[name]), (
            f"{name}: run `make examples`, and `make docs`"
        )
