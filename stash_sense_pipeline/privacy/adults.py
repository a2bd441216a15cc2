"""Whether a record speaks of an adult."""

from __future__ import annotations

import calendar
import re
from datetime import date

ADULT_AGE = 18

_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")


def is_adult(birth_date: str | None, career_start_year: int | None, on: date) -> bool:
    """False when the record says that the person is under 18 on the day `on`, or was all through the year in
    which the career starts.

    `birth_date` is YYYY, YYYY-MM or YYYY-MM-DD. A part that is missing, or is no month or day, is read as the
    latest possible one; who is born on 29 February is 18 on 1 March. A birth date that cannot be read at all
    does not pass; an unknown one (None) does.
    """
    if birth_date is None:
        return True
    match = _DATE.fullmatch(birth_date.strip())
    if match is None or int(match[1]) == 0:
        return False
    coming_of_age = _add_years(_latest_day(match), ADULT_AGE)
    return on >= coming_of_age and (career_start_year is None or career_start_year >= coming_of_age.year)


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
