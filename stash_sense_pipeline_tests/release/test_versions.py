from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.versions import is_version, latest_release, next_version


def test_the_second_release_of_a_day_has_the_counter_1(tmp_path: Path) -> None:
    day = date(2026, 2, 3)
    expected = ["2026.02.03", "2026.02.03.1", "2026.02.03.2"]
    for version in expected:
        assert next_version(tmp_path, day) == version
        (tmp_path / version).mkdir()
    assert next_version(tmp_path, day + timedelta(days=1)) == "2026.02.04"


def test_a_zip_without_a_directory_occupies_its_version(tmp_path: Path) -> None:
    (tmp_path / "stash-sense-data-v2026.02.03.zip").touch()
    assert next_version(tmp_path, date(2026, 2, 3)) == "2026.02.03.1"


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(st.dates(date(2024, 1, 1), date(2024, 1, 4)), max_size=40))
def test_versions_increase_as_text_for_any_order_of_days(
    tmp_path_factory: pytest.TempPathFactory, days: list[date]
) -> None:
    releases = tmp_path_factory.mktemp("releases")
    last = ""
    for day in days:
        version = next_version(releases, day)
        assert is_version(version)
        assert version > last
        assert version[:10] >= day.strftime("%Y.%m.%d")
        (releases / version).mkdir()
        last = version


@pytest.mark.parametrize(
    "text", ["2026.2.3", "2026.02.30", "2026.02.03.0", "2026.02.03.01", "v2026.02.03", "2026.02.03\n", ""]
)
def test_a_malformed_version_is_refused(text: str) -> None:
    assert not is_version(text)


def test_a_latest_that_points_at_no_release_is_an_error(tmp_path: Path) -> None:
    assert latest_release(tmp_path) is None
    (tmp_path / "latest").symlink_to("2026.02.03")
    with pytest.raises(ReleaseError, match=r"points at 2026\.02\.03, which is no release"):
        latest_release(tmp_path)
