"""Cleans dates, which may lack the day or month, and times."""

from __future__ import annotations

import calendar
import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

from stash_sense_pipeline.privacy.intake.adults import FIRST_YEAR, LAST_YEAR
from stash_sense_pipeline.sources.cleaning.numbers import numeral
from stash_sense_pipeline.sources.cleaning.text import MAX_LABEL_BYTES, clean_text, fits, is_blank, text
from stash_sense_pipeline.sources.json_fields import kind_of

_ZERO_DATE = re.compile(
    r"""
      [+-]?0+(?:[-/.\s]+0+)*              # 0000-00-00, 00/00/0000, 0
    | [+-]?0{4,}(?:-\d\d?(?:-\d\d?)?)?    # any day of the year 0
    | -0*[01](?:-\d\d?(?:-\d\d?)?)?       # -0001-11-30: 0000-00-00 in PHP
    | (?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*[\s,]+)?(?:    # the same with names of days and months
          (?:(?:11|nov[a-z]*)[\s/.,-]+(?:29|30)|(?:29|30)[\s/.,-]+(?:11|nov[a-z]*))[\s/.,-]+-0*1
        | (?:0?1|jan[a-z]*)[\s/.,-]+(?:0?1|jan[a-z]*)[\s/.,-]+0001    # the zero time of Go and .NET
      )
    | 0+1-01-01
    | 1000-01-01 | 1753-01-01             # the first day of MySQL and of SQL Server
    | 9999-12-31                          # the last day of both
    | -62169984000(?:\.0+)?(?:000)? | -62135596800(?:\.0+)?(?:000)?   # the same in seconds or milliseconds
    """,
    re.VERBOSE | re.IGNORECASE,
)


_TIME_OF_DAY = re.compile(r"[T ]\d\d?:\d\d.*", re.IGNORECASE | re.DOTALL)


# Words for an unknown date.
_NO_WORD = re.compile(
    r"unknown|not available|n/?a|none|null|nil|undefined|nan|invalid date|tb[ad]|false|\?+|-+|\.|x",
    re.IGNORECASE,
)


_PARTIAL_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?(?:[ T].*)?", re.DOTALL)


_MONTHS = 12


# Go's zero time and other invalid values are below; strftime does not pad such years.
_FIRST_YEAR_OF_A_TIME = 1000


def partial_date(value: str | None) -> str | None:
    """YYYY, YYYY-MM or YYYY-MM-DD without time of day; unknown parts (`1990-00-00`) are dropped. Else None."""
    match = _PARTIAL_DATE.fullmatch(value.strip()) if value else None
    if match is None or not FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
        return None
    stated_year, month, day = match.groups()
    if month is None or not 1 <= int(month) <= _MONTHS:
        return stated_year
    if day is None or not 1 <= int(day) <= calendar.monthrange(int(stated_year), int(month))[1]:
        return f"{stated_year}-{month}"
    return f"{stated_year}-{month}-{day}"


def birth_date(value: Any) -> str | None:
    """As partial_date, but an unreadable value that may mean a date is kept: the check for adults refuses it.

    None for an unknown date: the zero dates of PHP, SQL, Go and .NET, and words such as `unknown`. 1970-01-01, the
    zero of Unix time, is kept: it is a real birthday, and of an adult.
    """
    # No form of an unknown date has a year that partial_date accepts.
    if isinstance(value, str) and value.isascii() and (known := partial_date(value)) is not None:
        return known
    if is_blank(value) or isinstance(value, bool):
        return None
    if isinstance(value, list | dict):
        return f"({kind_of(value)})"
    stated = clean_text(value) if isinstance(value, str) else numeral(value) or "(a number)"
    if not stated.isascii():
        stated = unicodedata.normalize("NFKC", stated)
    if means_no_date(stated):
        return None
    known = partial_date(stated)
    return known if known is not None else stated if fits(stated, MAX_LABEL_BYTES) else "(a long text)"


def means_no_date(stated: str) -> bool:
    """True when a cleaned text stands for an unknown date."""
    if _NO_WORD.fullmatch(stated):
        return True
    return _ZERO_DATE.fullmatch(_TIME_OF_DAY.sub("", stated, count=1).strip()) is not None


def death_date(value: Any) -> str | None:
    """As partial_date; None for an unreadable value: it cannot show that a person is under 18."""
    stated = text(value, MAX_LABEL_BYTES)
    return (
        None
        if stated is None or means_no_date(stated)
        else partial_date(unicodedata.normalize("NFKC", stated))
    )


def instant(value: str) -> datetime | None:
    """An RFC 3339 time of any precision, in UTC; None before the year 1000. Raises ValueError for any other text."""
    parsed = datetime.fromisoformat(value)
    if parsed.year < _FIRST_YEAR_OF_A_TIME:
        return None
    if parsed.tzinfo is UTC:
        return parsed
    try:
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error
