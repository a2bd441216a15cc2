from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.privacy.intake.adults import (
    STARTED_UNDER_18,
    UNDER_18,
    UNREADABLE_DATE,
    is_adult,
    why_no_adult,
)

TODAY = date(2026, 11, 20)
DAYS = st.dates(date(1900, 1, 1), date(2040, 12, 31))


@pytest.mark.parametrize(
    ("birth_date", "career_start", "expected"),
    [
        (None, None, True),
        (None, 2026, True),
        ("1990-05-17", None, True),
        ("2008-11-20", None, True),  # 18 today
        ("2008-11-21", None, False),  # tomorrow
        ("2008-11", None, False),  # may be the 30th
        ("2008-10", None, True),
        ("2008", None, False),  # may be New Year's Eve
        ("2007", None, True),
        ("2008-00-00", None, False),
        ("2008-11-00", None, False),
        ("2008-02-31", None, True),
        ("2030-01-01", None, False),
        ("unknown", None, False),
        ("", None, False),
        ("0000", None, False),
        ("0010-05-17", None, False),  # 2010, mistyped
        ("9999-12-31", None, False),
        ("1990-05-17", 2007, False),
        ("1990-05-17", 2008, False),  # may have been January, at 17
        ("1990-01-01", 2008, True),
        ("1990-05-17", 2009, True),
        ("1990", 2007, False),
        ("1990", 2008, False),
        ("1990", 2009, True),
        ("1990-05-17", 1985, False),
    ],
)
def test_is_adult_for_a_birth_date_and_the_start_of_a_career(birth_date, career_start, expected):
    assert is_adult(birth_date, career_start, TODAY) is expected


@pytest.mark.parametrize(
    ("birth_date", "career_start", "reason"),
    [
        ("2010", None, UNDER_18),
        ("1990", 2000, STARTED_UNDER_18),
        ("May 1990", None, UNREADABLE_DATE),
        ("1990", None, None),
    ],
)
def test_a_record_that_shows_no_adult_has_a_reason(birth_date, career_start, reason):
    assert why_no_adult(birth_date, career_start, TODAY) == reason


@given(DAYS, st.dates(date(1950, 1, 1), date(2026, 1, 1)))
def test_a_career_passes_only_if_every_day_of_its_first_year_is_after_coming_of_age(birth, start):
    if is_adult(birth.isoformat(), start.year, date(2070, 1, 1)):
        assert start >= date(birth.year + 18, birth.month, min(birth.day, 28))


def test_a_person_born_on_a_leap_day_comes_of_age_on_the_first_of_march():
    assert not is_adult("2008-02-29", None, date(2026, 2, 28))
    assert is_adult("2008-02-29", None, date(2026, 3, 1))


@given(DAYS, DAYS, st.none() | st.integers(1900, 2060))
def test_a_partial_date_passes_only_if_every_day_in_it_does(birth, on, career):
    for partial in (f"{birth:%Y-%m}", f"{birth:%Y}"):
        if is_adult(partial, career, on):
            assert is_adult(birth.isoformat(), career, on)


@given(DAYS, DAYS, st.integers(0, 20000))
def test_an_adult_is_an_adult_on_every_later_day(birth, on, days):
    if is_adult(birth.isoformat(), None, on):
        assert is_adult(birth.isoformat(), None, on + timedelta(days=days))


@given(DAYS)
def test_a_person_is_an_adult_from_the_18th_birthday_and_not_the_day_before(birth):
    eighteenth = date(birth.year + 18, 3, 1) if (birth.month, birth.day) == (2, 29) else None
    eighteenth = eighteenth or birth.replace(year=birth.year + 18)
    if (birth.month, birth.day) != (2, 29) or eighteenth.year % 4:
        assert is_adult(birth.isoformat(), None, eighteenth)
        assert not is_adult(birth.isoformat(), None, eighteenth - timedelta(days=1))
