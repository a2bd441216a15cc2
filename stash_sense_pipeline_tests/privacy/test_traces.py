"""What was written about somebody outside the catalog goes with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stash_sense_pipeline.privacy.traces import erase_traces


@pytest.mark.parametrize(
    "place",
    ["review/conflicts.md", "reports/deep/a.csv", "logs/run.log", "releases/2026.02.18.report/report.md"],
)
def test_lines_about_them_are_blanked_wherever_we_write(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text("- Person One (7)\n- Person Eleven (8)\n")
    path.chmod(0o640)
    assert erase_traces(tmp_path, ("Person One",), staged=False).lines == 1
    assert path.read_text() == "(erased)\n- Person Eleven (8)\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_published_release_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "releases" / "2026.02.18" / "performers.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"a": "Person One"}')
    assert erase_traces(tmp_path, ("Person One",), staged=False).lines == 0
    assert path.read_text() == '{"a": "Person One"}'
