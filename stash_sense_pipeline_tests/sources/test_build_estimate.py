"""The estimate of a first build: its arithmetic, its laws, and its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.settings.schema import GlobalSettings, Settings, StashBoxSettings
from stash_sense_pipeline.sources.probing.build_estimate import (
    duration_text,
    estimate_build,
    estimate_lines,
    estimate_samples,
    estimate_source,
    size_text,
)
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import ListSample


def box(
    name: str = "stashdb", url: str = "https://a.test/graphql", rate: float = 240, faces: int = 5
) -> StashBoxSettings:
    return StashBoxSettings(name=name, url=url, host=f"{name}.test", rate_limit=rate, max_faces=faces)


def test_110_000_performers_with_five_pictures_at_240_a_minute_take_38_hours() -> None:
    found = estimate_source(box(), ListSample(110_000, (5, 5, 5)))
    assert (found.performers, found.pictures) == (110_000, 550_000)
    # 550,000 pictures and 1,100 pages of records.
    assert found.hours == pytest.approx(551_100 / 240 / 60)


def test_pictures_beyond_max_faces_are_not_counted() -> None:
    assert estimate_source(box(faces=3), ListSample(100, (0, 1, 50, 4))).pictures == 175


def test_without_faces_only_the_records_are_counted() -> None:
    found = estimate_source(box(rate=60), ListSample(6_000, (5, 5)), faces=False)
    assert found.pictures == 0
    assert found.hours == pytest.approx(1 / 60)


def test_an_empty_source_takes_no_time_and_no_disk() -> None:
    whole = estimate_build([estimate_source(box(), ListSample(0, ()))], keep_crops=False)
    assert (whole.performers, whole.pictures, whole.hours, whole.disk_bytes) == (0, 0, 0.0, 0)


def test_hosts_are_read_side_by_side_and_sources_of_one_host_one_after_the_other() -> None:
    sample = ListSample(1_000, (2,))
    one = estimate_source(box("a", "https://a.test/graphql"), sample)
    other = estimate_source(box("b", "https://b.test/graphql"), sample)
    beside = estimate_source(box("c", "https://A.test/graphql"), sample)
    assert estimate_build([one, other], keep_crops=False).hours == pytest.approx(one.hours)
    assert estimate_build([one, other, beside], keep_crops=False).hours == pytest.approx(2 * one.hours)


def test_kept_crops_need_20_kb_more_for_each_picture() -> None:
    sources = [estimate_source(box(), ListSample(100, (1,)))]
    without, kept = (estimate_build(sources, keep_crops=keep).disk_bytes for keep in (False, True))
    assert kept - without == 100 * 20_000


@pytest.mark.slow
@given(
    performers=st.integers(0, 10**6),
    pictures=st.lists(st.integers(0, 1000), max_size=100),
    cap=st.integers(1, 50),
    rate=st.floats(1, 10_000),
)
def test_no_performer_counts_more_than_max_faces_and_a_higher_rate_never_takes_longer(
    performers: int, pictures: list[int], cap: int, rate: float
) -> None:
    sample = ListSample(performers, tuple(pictures))
    found = estimate_source(box(rate=rate, faces=cap), sample)
    assert 0 <= found.pictures <= performers * min(cap, max(pictures, default=0))
    assert estimate_source(box(rate=2 * rate, faces=cap), sample).hours <= found.hours
    assert estimate_source(box(rate=rate, faces=cap + 1), sample).pictures >= found.pictures


def test_the_lines_name_each_source_the_sum_a_capped_list_and_the_assumptions() -> None:
    boxes = {"stashdb": box(), "theporndb": box("theporndb", "https://b.test")}
    settings = Settings(global_=GlobalSettings(), stash_boxes=boxes, reference_sites={})
    samples = {"theporndb": ListSample(10_000, (1,), is_capped=True), "stashdb": ListSample(100_000, (4,))}
    found = estimate_samples(settings, samples)
    assert found is not None
    lines = estimate_lines(found)
    assert lines[1] == "  stashdb    100,000 performers, 400,000 pictures, 28 hours"
    assert lines[2] == "  theporndb  at least 10,000 performers, 10,000 pictures, 42 minutes"
    assert lines[3] == "  together   110,000 performers, 410,000 pictures, 28 hours side by side"
    assert lines[4] == "  disk: 13 GB, with the first release and its zip"
    assert "reference sites are not counted" in lines[5]


def test_without_a_sample_there_is_no_estimate() -> None:
    settings = Settings(global_=GlobalSettings(), stash_boxes={"stashdb": box()}, reference_sites={})
    assert estimate_samples(settings, {}) is None


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0, "under a minute"), (1 / 60, "a minute"), (0.5, "30 minutes"), (1.5, "90 minutes"), (2, "2 hours"),
     (42.2, "42 hours"), (48, "2 days"), (240, "10 days")],
)  # fmt: skip
def test_a_duration_is_told_in_the_largest_unit_of_which_there_are_two(hours: float, text: str) -> None:
    assert duration_text(hours) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MB"), (1, "1 MB"), (999_000_000, "999 MB"), (1_240_000_000, "1.2 GB"), (13e9, "13 GB")],
)
def test_a_size_is_told_in_decimal_units(size: int, text: str) -> None:
    assert size_text(size) == text
