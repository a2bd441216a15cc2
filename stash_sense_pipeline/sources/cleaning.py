"""Cleans fields of a source: text, partial dates, enumerations, times.

Every connector reads its records through these functions, and nothing cleans a value a second time. A result can be
stored in SQLite and in PostgreSQL. The bounds, and why:

- An index row of PostgreSQL has at most 2,704 bytes. The widest index of the catalog holds a source (up to 64), an id
  (`MAX_ID_BYTES`) and an address or alias (`MAX_TEXT_BYTES`): 2,364 bytes and about 30 for headers.
- Whole numbers go into columns of 32 bits; those of `raw` stay in 64 bits, which every reader of JSON can take.
- NUL and lone surrogates cannot be stored in PostgreSQL. NaN and the infinities are no JSON.
- A value that is longer than its bound is left out, never cut: half a name or address would be another one.
"""

from __future__ import annotations

import calendar
import ipaddress
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import httpx

from stash_sense_pipeline.privacy.intake.adults import FIRST_YEAR, LAST_YEAR
from stash_sense_pipeline.sources.json_fields import FieldError, kind_of

T = TypeVar("T")

MAX_ID_BYTES = 300
MAX_TEXT_BYTES = 2000
# Enumerations, countries and labels: the longest real one has about forty.
MAX_LABEL_BYTES = 100
# The longest real list of a performer has some hundred items.
MAX_ITEMS = 2000
# Real records nest three levels.
MAX_DEPTH = 8
# No picture is larger on a side; also what reference sites are held to.
MAX_SIDE = 100_000
# The shortest adult known was 54 cm tall, the tallest 272.
SHORTEST_CM, TALLEST_CM = 50, 300
_INT64 = 2**63 - 1
# More digits than any id, count or height has.
_MAX_DIGITS = 18

_ZERO_DATE = re.compile(
    r"""
      [+-]?0+(?:[-/.\s]+0+)*              # 0000-00-00, 00/00/0000, 0
    | [+-]?0{4,}(?:-\d\d?(?:-\d\d?)?)?    # any day of the year 0
    | -0*[01](?:-\d\d?(?:-\d\d?)?)?       # -0001-11-30: 0000-00-00 as PHP writes it
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
# Words that stand for a date that is not known.
_NO_WORD = re.compile(
    r"unknown|not available|n/?a|none|null|nil|undefined|nan|invalid date|tb[ad]|false|\?+|-+|\.|x",
    re.IGNORECASE,
)
_PARTIAL_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?(?:[ T].*)?", re.DOTALL)
_SEPARATORS = re.compile(r"[\s\-/]+")
_MONTHS = 12
# Go's zero time and other nonsense lie below; strftime does not pad such years.
_FIRST_YEAR_OF_A_TIME = 1000

# Printable, but shown as nothing: the fillers of Hangul and the empty pattern of Braille.
_FILLERS = re.compile("[\u115f\u1160\u3164\uffa0\u2800]")
# Not shown, and without a meaning of their own: blanks of no width, soft hyphens, marks of direction, byte order marks,
# marks of musical notation, tags.
_UNSEEN = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
# These shape letters in some scripts, and mean something only between two of them.
_JOINERS = "\u200c\u200d"
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:-]{0,127}")
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
# Of a host of this length no label is too long.
_PLAIN_ADDRESS = re.compile(r"https?://[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}(?:/[!-~]*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d+(?:/|$))")
_WEB = re.compile(r"https?://(?P<place>[^/?#]*)", re.IGNORECASE)
_MAX_HOST, _MAX_PORT = 253, 65_535


# --- text ---------------------------------------------------------------------------------------------------------


def clean_text(value: str) -> str:
    """NFC, without control characters, lone surrogates and characters that are not shown; white space collapsed.

    May be empty. A text of blanks of any kind is.
    """
    if value.isascii() and value.isprintable() and "  " not in value:
        return value.strip()
    if not value.isprintable() or _FILLERS.search(value):
        value = _UNSEEN.sub("", _FILLERS.sub(" ", value))
        value = "".join(" " if character.isspace() else character for character in value)
        value = "".join(each for each in value if unicodedata.category(each) not in ("Cc", "Cs"))
    # Composing may bring a filler back, so blanks are collapsed last.
    value = unicodedata.normalize("NFC", value)
    return " ".join(value.split()).strip(f"{_JOINERS} ")


def text(value: Any, limit: int = MAX_TEXT_BYTES) -> str | None:
    """The clean text of a text or number; None when it is blank, longer than `limit` bytes or of another type."""
    if not isinstance(value, str):
        value = _numeral(value)
        if value is None:
            return None
    elif value.isascii() and value.isprintable() and "  " not in value and len(value) <= limit:
        return value.strip() or None
    cleaned = clean_text(value)
    return cleaned if cleaned and fits(cleaned, limit) else None


def required_text(value: Any, where: str) -> str:
    """The clean text of a field that a record cannot do without. Raises FieldError, which names the field `where`."""
    found = text(value)
    if found is None:
        if is_blank(value) and isinstance(value, str):
            raise FieldError(f"{where} is blank")
        if isinstance(value, str):
            raise FieldError(f"{where} is longer than {MAX_TEXT_BYTES} bytes")
        raise FieldError(f"{where} is {kind_of(value)}, not a text")
    return found


def label(value: Any) -> str | None:
    """A short text, such as a country."""
    return text(value, MAX_LABEL_BYTES)


def fits(value: str, limit: int) -> bool:
    """Whether a text without surrogates has at most so many bytes in UTF-8."""
    return len(value) <= limit and (value.isascii() or len(value.encode()) <= limit)


def clean_texts(values: Iterable[str]) -> tuple[str, ...]:
    """Clean texts without blank, too long and repeated ones, in the order given."""
    return distinct(map(text, values))


def enumeration(value: Any) -> str | None:
    """A value of an enumeration as stash-box writes it: `Middle Eastern` becomes `MIDDLE_EASTERN`."""
    return _enumerated(value) if isinstance(value, str) else label(value)


@lru_cache(maxsize=1024)
def _enumerated(value: str) -> str | None:
    cleaned = label(value)
    return None if cleaned is None else label(_SEPARATORS.sub("_", cleaned).upper())


def distinct(values: Iterable[T | None]) -> tuple[T, ...]:
    """The values without None and repetitions, in the order given."""
    return tuple(value for value in dict.fromkeys(values) if value is not None)


def is_blank(value: Any) -> bool:
    """Whether a source says nothing by this value: null, an empty list or object, or a text without a character."""
    if isinstance(value, str):
        return not clean_text(value)
    return value is None or (isinstance(value, list | dict) and not value)


def _numeral(value: Any) -> str | None:
    """A number as text, as JSON writes it; None for anything else, and for what is no finite number of 64 bits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value) if -_INT64 <= value <= _INT64 else None
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) <= _INT64 else repr(value)
    return None


# --- ids ----------------------------------------------------------------------------------------------------------


def record_id(value: Any, where: str = "its id", *, numbers: bool = False) -> str:
    """The id of a record or image; with `numbers` it may be a whole number.

    Raises FieldError for one that cannot be part of a universal id `<host>:<id>` of a release: other than a text,
    blank, longer than MAX_ID_BYTES, or with white space, a slash, or characters that are not shown.
    """
    if numbers and isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT64:
        return str(value)
    if not isinstance(value, str):
        raise FieldError(f"{where} is {kind_of(value)}, not a text")
    if _PLAIN_ID.fullmatch(value):
        return value
    if not clean_text(value):
        raise FieldError(f"{where} is blank")
    if any(character.isspace() for character in value):
        raise FieldError(f"{where} holds white space")
    if clean_text(value) != value:
        raise FieldError(f"{where} holds characters that are not shown, or half a surrogate pair")
    if "/" in value or value.strip(".") == "":
        raise FieldError(f"{where} holds a slash, or is a relative path")
    if not fits(value, MAX_ID_BYTES):
        raise FieldError(f"{where} is longer than {MAX_ID_BYTES} bytes")
    return value


def optional_id(value: Any, *, numbers: bool = False) -> str | None:
    """`record_id`, with None for an id that cannot be used."""
    if isinstance(value, str) and _PLAIN_ID.fullmatch(value):
        return value
    try:
        return record_id(value, numbers=numbers)
    except FieldError:
        return None


# --- numbers ------------------------------------------------------------------------------------------------------


def whole(value: Any, low: int, high: int) -> int | None:
    """A whole number from `low` to `high`, also as a text or a fraction of 0; None for anything else."""
    if isinstance(value, str):
        digits = value.strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
            return None
        value = int(digits)
    elif isinstance(value, float):
        if not (math.isfinite(value) and value.is_integer()):
            return None
        value = int(value)
    elif isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if low <= value <= high else None


def year(value: Any) -> int | None:
    """A year in which a career can start or end; None for 0 and all that is no year."""
    return whole(value, FIRST_YEAR, LAST_YEAR)


def side(value: Any) -> int | None:
    """The width or height of an image in pixels; None for what can be neither."""
    return whole(value, 1, MAX_SIDE)


# --- dates and times ----------------------------------------------------------------------------------------------


def partial_date(value: str | None) -> str | None:
    """YYYY, YYYY-MM or YYYY-MM-DD without time of day; unknown parts (`1990-00-00`) cut, nonsense None."""
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
    """As partial_date, but what may mean a date and cannot be read stays, for the check of adults to refuse.

    None for unknown: the forms in which PHP, SQL, Go and .NET write a date that is not set, and words such as
    `unknown`. 1970-01-01 is the zero of Unix time, and is kept as a date: people are born on that day, and who was
    is an adult.
    """
    # Every form of an unknown date has a year in which no one was born.
    if isinstance(value, str) and value.isascii() and (known := partial_date(value)) is not None:
        return known
    if is_blank(value) or isinstance(value, bool):
        return None
    if isinstance(value, list | dict):
        return f"({kind_of(value)})"
    stated = clean_text(value) if isinstance(value, str) else _numeral(value) or "(a number)"
    if not stated.isascii():
        stated = unicodedata.normalize("NFKC", stated)
    if means_no_date(stated):
        return None
    known = partial_date(stated)
    return known if known is not None else stated if fits(stated, MAX_LABEL_BYTES) else "(a long text)"


def means_no_date(stated: str) -> bool:
    """Whether a clean text is one of the ways to write that a date is not known."""
    if _NO_WORD.fullmatch(stated):
        return True
    return _ZERO_DATE.fullmatch(_TIME_OF_DAY.sub("", stated, count=1).strip()) is not None


def death_date(value: Any) -> str | None:
    """As partial_date; None for whatever cannot be read: it protects no one, and would make a release wrong."""
    stated = text(value, MAX_LABEL_BYTES)
    return (
        None
        if stated is None or means_no_date(stated)
        else partial_date(unicodedata.normalize("NFKC", stated))
    )


def instant(value: str) -> datetime | None:
    """An RFC 3339 time of any precision, as UTC; None before the year 1000. ValueError when it is no time."""
    parsed = datetime.fromisoformat(value)
    if parsed.year < _FIRST_YEAR_OF_A_TIME:
        return None
    if parsed.tzinfo is UTC:
        return parsed
    try:
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time that no calendar has") from error


# --- addresses ----------------------------------------------------------------------------------------------------


def address(value: Any) -> str | None:
    """A web address (http or https) of at most MAX_TEXT_BYTES with a host that can be asked; else None.

    Blanks around it are cut off. It holds no control character and no lone surrogate, and no name or password.
    """
    if not isinstance(value, str):
        return None
    if len(value) <= MAX_TEXT_BYTES and _PLAIN_ADDRESS.fullmatch(value):
        host = value.split("/", 3)[2]
        if ".." not in host and "xn--" not in host:
            return value
    return _unusual_address(value.strip())


def link(value: Any) -> str | None:
    """The address of a page, as `address`, but it may lack the scheme: `www.example.com/ann`. In NFC."""
    if not isinstance(value, str):
        return None
    plain = address(value)
    if plain is not None:
        return plain if plain.isascii() else unicodedata.normalize("NFC", plain)
    stated = clean_text(value)
    if not stated or _SCHEME.match(stated) or " " in stated.split("/")[0] or not fits(stated, MAX_TEXT_BYTES):
        return None
    rest = stated.removeprefix("//")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return (
        stated if "." in host and address(f"https://{rest}") is not None and not _has_control(value) else None
    )


def _unusual_address(stated: str) -> str | None:
    found = _WEB.match(stated)
    if found is None or _has_control(stated) or not fits(stated, MAX_TEXT_BYTES) or "@" in found["place"]:
        return None
    try:
        # Its host goes through IDNA, which refuses empty and overlong labels. `.host` decodes it again.
        url = httpx.URL(stated)
        host, port = url.host, url.port
        raw = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return None
    if not host or len(raw) > _MAX_HOST or not 0 <= (port or 0) <= _MAX_PORT:
        return None
    return stated if _is_host(raw) else None


def _is_host(raw: str) -> bool:
    if ":" not in raw:
        return _HOST.fullmatch(raw) is not None
    try:
        ipaddress.IPv6Address(raw.strip("[]"))
    except ValueError:
        return False
    return True


def _has_control(value: str) -> bool:
    return not value.isprintable() and any(unicodedata.category(each) in ("Cc", "Cs") for each in value)


# --- what is not modelled -----------------------------------------------------------------------------------------

_LEFT = object()


def clean_raw(value: Mapping[str, Any], left_out: Counter[str] | None = None) -> dict[str, Any]:
    """JSON values of a record with clean texts and keys, without what cannot be stored: see the bounds above.

    `left_out` counts, by the field at the top, how many values are missing.
    """
    counts: Counter[str] = Counter() if left_out is None else left_out
    return dict(_clean_items(value, counts, None, 0))


def _clean_items(
    value: Mapping[Any, Any], left_out: Counter[str], field: str | None, depth: int
) -> Iterable[tuple[str, Any]]:
    for number, (key, item) in enumerate(value.items()):
        named = label(key)
        of = field or named or "raw"
        cleaned = (
            _LEFT if named is None or number >= MAX_ITEMS else _clean_value(item, left_out, of, depth + 1)
        )
        if cleaned is _LEFT:
            left_out[of] += 1
        else:
            yield str(named), cleaned


def _clean_value(value: Any, left_out: Counter[str], field: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        cleaned = clean_text(value)
        return cleaned if fits(cleaned, MAX_TEXT_BYTES) else _LEFT
    if isinstance(value, int):
        return value if -_INT64 <= value <= _INT64 else _LEFT
    if isinstance(value, float):
        return value if math.isfinite(value) else _LEFT
    if depth >= MAX_DEPTH:
        return _LEFT
    if isinstance(value, Mapping):
        return dict(_clean_items(value, left_out, field, depth))
    if isinstance(value, list | tuple):
        items = [_clean_value(item, left_out, field, depth + 1) for item in value[:MAX_ITEMS]]
        kept = [item for item in items if item is not _LEFT]
        if len(kept) < len(value):
            left_out[field] += len(value) - len(kept)
        return kept
    return _LEFT


# --- one record ---------------------------------------------------------------------------------------------------


class Fields:
    """The optional fields of one record of a source. What cannot be used is left out, and counted by field.

    A null and a blank text mean unknown and are not counted where one value is meant; among the items of a list
    they are. A list may come as an object: PHP writes one with a gap so.
    """

    __slots__ = ("_left_out", "_lost", "_row")

    def __init__(self, row: Mapping[str, Any], left_out: Counter[str]) -> None:
        self._row = row
        self._left_out = left_out
        self._lost: set[str] | None = None

    def has_lost(self, name: str) -> bool:
        """Whether something of this field was left out, so that what is missing may still be at the source."""
        return self._lost is not None and name in self._lost

    def one(self, name: str, clean: Callable[[Any], T | None]) -> T | None:
        """The value of a field as `clean` gives it; None for unknown and for what `clean` cannot use."""
        value = self._row.get(name)
        if value is None:
            return None
        found = clean(value)
        if found is None and not is_blank(value):
            self._lose(name, 1)
        return found

    def number(self, name: str, clean: Callable[[Any], int | None]) -> int | None:
        """As `one`, for a number of which 0 and less mean unknown."""
        value = self._row.get(name)
        if value is None or (isinstance(value, int) and value <= 0):
            return None
        return self.one(name, clean)

    def date(self, name: str, clean: Callable[[Any], str | None]) -> str | None:
        """As `one`, for birth_date and death_date: the ways to write an unknown date are not counted."""
        value = self._row.get(name)
        if value is None:
            return None
        found = clean(value)
        if (
            found is None
            and not is_blank(value)
            and not (isinstance(value, str) and means_no_date(clean_text(value)))
        ):
            self._lose(name, 1)
        return found

    def moment(self, name: str) -> datetime | None:
        """The time of a field; None for unknown, and for what cannot be read as a time."""
        value: Any = self._row.get(name)
        if value is None or value == "":
            return None
        try:
            return instant(value)
        except (TypeError, ValueError):
            self._lose(name, 1)
            return None

    def items(self, name: str) -> Sequence[Any]:
        """The items of a list, at most MAX_ITEMS; none for another type."""
        value = self._row.get(name)
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, list):
            if not is_blank(value):
                self._lose(name, 1)
            return ()
        if len(value) > MAX_ITEMS:
            self._lose(name, len(value) - MAX_ITEMS)
        return value[:MAX_ITEMS]

    def each(self, name: str, clean: Callable[[Any], T | None]) -> tuple[T, ...]:
        """The items of a list as `clean` gives them, each once; items that it cannot use are left out."""
        items = self.items(name)
        if not items:
            return ()
        cleaned = [clean(item) for item in items]
        if None in cleaned:
            self._lose(name, cleaned.count(None))
        return distinct(cleaned)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The items of a list of objects; others are left out."""
        items = self.items(name)
        found = [item for item in items if isinstance(item, dict)]
        if len(found) < len(items):
            self._lose(name, len(items) - len(found))
        return found

    def lose(self, name: str, count: int = 1) -> None:
        """Counts what a reader of its own left out of a field."""
        self._lose(name, count)

    def _lose(self, name: str, count: int) -> None:
        self._left_out[name] += count
        self._lost = {name} if self._lost is None else self._lost | {name}
