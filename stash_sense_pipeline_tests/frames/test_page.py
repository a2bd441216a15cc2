"""docs/frames.md: every block runs, prints what the page shows, and the columns are those of the code."""

from __future__ import annotations

from pathlib import Path

from stash_sense_pipeline.frames.tables import TABLES
from stash_sense_pipeline_tests.tools.frames_page import PAGE, played


def test_the_page_shows_what_its_blocks_print(tmp_path: Path) -> None:
    page = PAGE.read_text()
    assert played(page, tmp_path) == page, "run `make docs`"
    for name in TABLES:
        assert f"### {name}\n" in page
        assert f"frames.{name}(" in page or f'frames.chunks("{name}"' in page
