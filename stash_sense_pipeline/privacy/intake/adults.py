"""The adults-only rule: birth date and career start decide whether a record may be stored."""

from __future__ import annotations

import calendar
import re
from datetime import date

ADULT_AGE = 18
UNDER_18, STARTED_UNDER_18, UNREADABLE_DATE = "under_18", "started_under_18", "unreadable_date"

# A year of birth outside this range is a typing error, such as 0010 for 2010.
FIRST_YEAR, LAST_YEAR = 1800, 2999
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")


def is_adult(birth_date: str | None, career_start_year: int | None, on: date) -> bool:
    """True when `why_no_adult` finds no reason against it."""
    return why_no_adult(birth_date, career_start_year, on) is None


def why_no_adult(birth_date: str | None, career_start_year: int | None, on: date) -> str | None:
    """Why a record must not be used: UNDER_18 on the day `on`, STARTED_UNDER_18, or UNREADABLE_DATE; else None.

    `birth_date` is YYYY, YYYY-MM or YYYY-MM-DD. A part that is missing, or is not a valid month or day, is read as the
    latest possible one. A person born on 29 February is 18 on 1 March. The year in which a career starts is read as its
    first day, as a person who came of age in that year may have started before. A start that is not a year, such as 0,
    is unknown. A birth date that cannot be read does not pass; an unknown one (None) does.
    """
    if birth_date is None:
        return None
    match = _DATE.fullmatch(birth_date.strip())
    if match is None or not FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
        return UNREADABLE_DATE
    coming_of_age = _add_years(_latest_day(match), ADULT_AGE)
    if on < coming_of_age:
        return UNDER_18
    is_known = career_start_year is not None and FIRST_YEAR <= career_start_year <= LAST_YEAR
    if is_known and (career_start_year, 1, 1) < coming_of_age.timetuple()[:3]:
        return STARTED_UNDER_18
    return None


def _latest_day(match: re.Match[str]) -> date:
    year, month, day = (int(part) if part else 0 for part in match.groups())
    if not 1 <= month <= 12:
        return date(year, 12, 31)
    last = calendar.monthrange(year, month)[1]
    return date(year, month, day if 1 <= day <= last else last)


def _add_years(day: date, years: int) -> date:
    if (day.month, day.day) == (2, 29) and not calendar.isleap(day.year + years):
        return date(day.year + years, 3, 1)
    return day.replace(year=day.year + years)
