"""The runner of the benchmarks: names of parts, and the table of times."""

from __future__ import annotations

import pytest

from stash_sense_pipeline_tests.bench.__main__ import LONG, PARTS, QUICK, main
from stash_sense_pipeline_tests.bench.table import PartTime, time_lines


def test_the_quick_and_the_long_parts_are_parts() -> None:
    assert set(QUICK) <= PARTS.keys()
    assert set(LONG) <= PARTS.keys()
    assert not set(QUICK) & set(LONG)


def test_an_unknown_part_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release.nothing"]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("no benchmark release.nothing; there are ")
    assert "release.rest" in refused


def test_the_times_end_with_their_sum() -> None:
    header, *lines = time_lines([PartTime("sites", 12.4, 3.2), PartTime("release.rest", 90.2, 120.4)])
    assert header.split() == ["part", "seconds", "processor"]
    assert [line.split() for line in lines] == [
        ["sites", "12", "3"],
        ["release.rest", "90", "120"],
        ["all", "103", "124"],
    ]
