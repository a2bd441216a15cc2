"""Comparisons of two records: names, birth dates, and what they say about origin and appearance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from stash_sense_pipeline.records.name_folding import fold_name, folded_words
from stash_sense_pipeline.records.record_key import RecordKey

# Years. Sources give one person different birth dates by error, or one or two years later than the true one.
MAX_BIRTH_DATE_GAP = 2
# Days are counted as 31 a month and 372 a year, so that whole years and months compare exactly.
DAYS_A_YEAR = 372
_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", re.ASCII)
# difflib's ratio from which two names are one name with a typing error.
SIMILAR_NAMES = 0.85


@dataclass(frozen=True, slots=True)
class Record:
    """One record of one source, with the fields that identity compares.

    `also_known_by`: other identifiers of the record in its source. `images`: SHA-256 of its pictures with one face.
    """

    source: str
    source_id: str
    name: str | None = None
    gender: str | None = None
    birth_date: str | None = None
    country: str | None = None
    ethnicity: str | None = None
    eye_color: str | None = None
    height_cm: int | None = None
    live: bool = True
    merged_into: str | None = None
    aliases: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    also_known_by: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @property
    def key(self) -> RecordKey:
        """(source, source_id)."""
        return self.source, self.source_id


def birth_interval(date: str | None) -> tuple[int, int] | None:
    """First and last possible day (DAYS_A_YEAR) of YYYY, YYYY-MM or YYYY-MM-DD; None for any other text.

    1 January is read as the whole year, because forms fill it in when only the year is known.
    """
    match = _DATE.fullmatch(date) if date else None
    if match is None:
        return None
    year = int(match[1]) * DAYS_A_YEAR
    month, day = int(match[2] or 0), int(match[3] or 0)
    if not 1 <= month <= 12 or (month == 1 and day == 1):
        return year, year + DAYS_A_YEAR - 1
    first = year + (month - 1) * 31
    return (first, first + 30) if not 1 <= day <= 31 else (first + day - 1, first + day - 1)


class FoldedNames:
    """Folded main name and folded names of records, each computed once."""

    def __init__(self, records: Mapping[RecordKey, Record]) -> None:
        self._records = records
        self._cache: dict[str, str] = {}
        self._main: dict[RecordKey, str] = {}
        self._aliases: dict[RecordKey, frozenset[str]] = {}

    def main(self, key: RecordKey) -> str:
        """The folded main name; "" when there is none."""
        known = self._main.get(key)
        if known is None:
            known = self._main[key] = self._fold(self._records[key].name or "")
        return known

    def aliases(self, key: RecordKey) -> frozenset[str]:
        """The folded aliases."""
        known = self._aliases.get(key)
        if known is None:
            known = frozenset(self._fold(alias) for alias in self._records[key].aliases) - {""}
            self._aliases[key] = known
        return known

    def in_common(self, a: RecordKey, b: RecordKey) -> list[str]:
        """The names of more than one word that both have, as main name or alias; empty when one has no alias."""
        if not self.aliases(a) or not self.aliases(b):
            return []
        names_a, names_b = ({self.main(key), *self.aliases(key)} for key in (a, b))
        return sorted(name for name in names_a & names_b if " " in name)

    def others_differ(self, a: RecordKey, b: RecordKey) -> bool:
        """True when both have other names than a main name of the two, and none of these is in common."""
        shown = {self.main(a), self.main(b)}
        others_a, others_b = self.aliases(a) - shown, self.aliases(b) - shown
        return bool(others_a and others_b) and others_a.isdisjoint(others_b)

    def similar(self, a: RecordKey, b: RecordKey) -> bool:
        """True when the main name of one is a name of the other, except for a typing error."""
        first, second = self._records[a], self._records[b]
        pairs = [
            *((first.name, name) for name in (second.name, *second.aliases)),
            *((second.name, name) for name in first.aliases),
        ]
        return any(_similar(self._letters(x), self._letters(y)) for x, y in pairs if x and y)

    def one_slip(self, a: RecordKey, b: RecordKey) -> bool:
        """True when the main names as written differ in one letter."""
        return _one_slip(*(self._letters(self._records[key].name or "") for key in (a, b)))

    def _letters(self, name: str) -> str:
        """The words in their written order, without spaces."""
        return "".join(folded_words(name))

    def words(self, key: RecordKey) -> set[str]:
        """All words of all names."""
        return {word for name in (self.main(key), *self.aliases(key)) for word in name.split()}

    def _fold(self, name: str) -> str:
        folded = self._cache.get(name)
        if folded is None:
            folded = self._cache[name] = fold_name(name)
        return folded


def name_agreement(a: RecordKey, b: RecordKey, folded: FoldedNames) -> tuple[str, str] | None:
    """(name of a weight, the name) of the best agreement of two records' names; None without agreement."""
    main_a, main_b = folded.main(a), folded.main(b)
    if main_a == main_b and main_a:
        return "name_equal", main_a
    aliases_a, aliases_b = folded.aliases(a), folded.aliases(b)
    if main_a in aliases_b:
        return "name_in_aliases", main_a
    if main_b in aliases_a:
        return "name_in_aliases", main_b
    # A name with a typing error says more than an alias in common.
    alike = main_a and main_b and (_similar(main_a, main_b) or folded.similar(a, b))
    slip = alike and (_one_slip(main_a, main_b) or folded.one_slip(a, b))
    common = aliases_a & aliases_b
    if common and not slip:
        return "alias_in_common", max(common, key=lambda name: (name.count(" "), name))
    if alike:
        return "name_similar" if slip else "name_alike", f"{main_a} ~ {main_b}"
    return None


def _similar(a: str, b: str) -> bool:
    """True when one letter is added, missing, replaced or swapped with the next; longer names allow more errors."""
    if min(len(a), len(b)) < 4 or abs(len(a) - len(b)) > 3:
        return False
    if _one_slip(a, b):
        return True
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return (
        min(len(a), len(b)) >= 6
        and matcher.real_quick_ratio() >= SIMILAR_NAMES
        and matcher.quick_ratio() >= SIMILAR_NAMES
        and max(matcher.ratio(), SequenceMatcher(None, b, a, autojunk=False).ratio()) >= SIMILAR_NAMES
    )


def _one_slip(a: str, b: str) -> bool:
    if len(a) > len(b):
        a, b = b, a
    begin = next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    rest_a, rest_b = a[begin:], b[begin:]
    if len(a) < len(b):
        return rest_a == rest_b[1:]
    return rest_a[1:] == rest_b[1:] or (rest_a[:2] == rest_b[1::-1] and rest_a[2:] == rest_b[2:])


def birth_agreement(a: str | None, b: str | None) -> tuple[str, str] | None:
    """(name of a weight, text) of two birth dates; None when one is unknown."""
    first, second = birth_interval(a), birth_interval(b)
    if first is None or second is None:
        return None
    if first == second:
        days = first[1] - first[0]
        how = {0: "birth_date_equal", 30: "birth_month_equal"}.get(days, "birth_year_equal")
        return how, f"birth date equal ({a})"
    if first[0] <= second[1] and second[0] <= first[1]:
        wider = max(first[1] - first[0], second[1] - second[0])
        return "birth_month_equal" if wider == 30 else "birth_year_equal", f"birth dates agree ({a}, {b})"
    if _nearly_equal(str(a), str(b)):
        return "birth_date_nearly_equal", f"birth dates nearly equal ({a}, {b})"
    return "birth_date_differs", f"birth dates differ ({a}, {b})"


def _nearly_equal(a: str, b: str) -> bool:
    first, second = a.split("-"), b.split("-")
    if len(first) != 3 or len(second) != 3 or abs(int(first[0]) - int(second[0])) > MAX_BIRTH_DATE_GAP:
        return False
    different = sum(x != y for x, y in zip(first, second, strict=True))
    return different == 1 or (first[0] == second[0] and first[1:] == second[:0:-1])


def country_agreement(a: str | None, b: str | None) -> tuple[str, str] | None:
    """(name of a weight, text) of two countries; None when they cannot be compared."""
    # Some sources write the name of a country; a code can be compared only with a code.
    if not a or not b or (len(a) == 2) != (len(b) == 2):
        return None
    if a.casefold() == b.casefold():
        return "country_equal", f"country equal ({a})"
    return "country_differs", f"countries differ ({a}, {b})"


# Heights (cm) that are one person's in two sources, and heights that are not. Sources round inches and guess.
SAME_HEIGHT, OTHER_HEIGHT = 2, 8
# Entries that say that nothing else fits.
_NO_ENTRY = frozenset({"other", "mixed", "unknown", "n/a", "none"})


def field_agreements(a: Record, b: Record) -> list[tuple[str, str]]:
    """(name of a weight, text) of each field that can be compared, other than name and birth date."""
    found = [country_agreement(a.country, b.country)]
    for field, title in (("gender", "genders"), ("ethnicity", "ethnicities"), ("eye_color", "eye colours")):
        found.append(_entry_agreement(field, title, getattr(a, field), getattr(b, field)))
    found.append(_height_agreement(a.height_cm, b.height_cm))
    return [row for row in found if row is not None]


def _entry_agreement(field: str, title: str, a: str | None, b: str | None) -> tuple[str, str] | None:
    first, second = (a or "").casefold(), (b or "").casefold()
    if not first or not second or first in _NO_ENTRY or second in _NO_ENTRY:
        return None
    if first == second:
        return f"{field}_equal", f"{title} equal ({a})"
    return f"{field}_differs", f"{title} differ ({a}, {b})"


def _height_agreement(a: int | None, b: int | None) -> tuple[str, str] | None:
    if not a or not b:
        return None
    if abs(a - b) <= SAME_HEIGHT:
        return "height_equal", f"heights equal ({a}, {b} cm)"
    return ("height_differs", f"heights differ ({a}, {b} cm)") if abs(a - b) > OTHER_HEIGHT else None


def names_a_group(name: str) -> bool:
    """True for a folded name of several people: a duo, twins, a couple."""
    return not _GROUP_WORDS.isdisjoint(name.split())


_GROUP_WORDS = frozenset(
    {
        "and",
        "twin",
        "twins",
        "sister",
        "sisters",
        "brother",
        "brothers",
        "sibling",
        "siblings",
        "couple",
        "duo",
        "trio",
    }
    | {
        "team",
        "girls",
        "boys",
        "guys",
        "ladies",
        "babes",
        "crew",
        "squad",
        "gang",
        "family",
        "studio",
        "studios",
    }
    | {"production", "productions", "entertainment", "media", "films"}
)
