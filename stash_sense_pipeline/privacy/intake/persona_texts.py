"""Names with birth dates as texts, which are hashed to recognise a person without an id or a page.

The forms follow the weights of identity. The hashes of a suppressed record match each record that identity would link to
it by equal names and dates, by names that differ in one letter, or by two names in common. A name alone is not enough
there and is not matched here; neither is a name and a year, unless it is a main name of two words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import combinations

from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence
from stash_sense_pipeline.privacy.suppression.suppression_hashes import PERSONA, keyed_hash
from stash_sense_pipeline.records.name_folding import fold_name, folded_words

_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", re.ASCII)
# Two names in common count. More names than this would make hundreds of pairs.
_MOST_NAMES_IN_PAIRS = 12
# A shorter name with one letter changed is another name.
_SHORTEST_MISSPELT, _LONGEST_MISSPELT = 4, 60


def persona_hashes(key: bytes, evidence: RecordEvidence) -> set[str]:
    """The hashes of a record's names and birth date, by which `persona_hits` finds the same person."""
    return {keyed_hash(key, PERSONA, text) for text in _kept_texts(evidence)}


def persona_hits(key: bytes, evidence: RecordEvidence, known: Collection[str]) -> Iterator[str]:
    """The hashes of names and dates that are among `known`.

    Most names are not, which one hash tells: only for the others are the further hashes made.
    """
    names = _names(evidence)
    dates = _date_parts(evidence.birth_date)
    listed = [name for name in names if keyed_hash(key, PERSONA, f"name {name}") in known]
    texts = list(_asked_texts(evidence, listed, dates))
    if len(dates) == 3 and any(
        keyed_hash(key, PERSONA, text) in known for text in _end_letters(evidence.name, dates[-1])
    ):
        texts += _one_letter_forms(evidence.name, dates[-1])
    for text in texts:
        digest = keyed_hash(key, PERSONA, text)
        if digest in known:
            yield digest


def _names(evidence: RecordEvidence) -> list[str]:
    """The folded main name first, then the aliases, each once."""
    return [name for name in dict.fromkeys(map(fold_name, (evidence.name, *evidence.aliases))) if name]


def _date_parts(birth_date: str | None) -> list[str]:
    """The year, month and day of a date, as far as they are known. 1 January means an unknown day, as in identity."""
    match = _DATE.fullmatch(birth_date or "")
    if match is None:
        return []
    year, month, day = match[1], match[2], match[3]
    if month is None or not 1 <= int(month) <= 12 or (month, day) == ("01", "01"):
        return [year]
    if day is None or not 1 <= int(day) <= 31:
        return [year, f"{year}-{month}"]
    return [year, f"{year}-{month}", f"{year}-{month}-{day}"]


def _kept_texts(evidence: RecordEvidence) -> Iterator[str]:
    names, dates = _names(evidence), _date_parts(evidence.birth_date)
    main = fold_name(evidence.name)
    for name in names:
        yield f"name {name}"
        for number, date in enumerate(dates):
            if _is_enough(name, name == main, number):
                yield f"{'at' if date == dates[-1] else 'in'} {date} {name}"
    if main and len(dates) == 3:
        yield from _near_dates(main, dates[-1])
    for form in _pairs(names, main):
        yield f"{form} {'dated' if dates else 'undated'}"
    if len(dates) == 3:
        for name in (evidence.name, *evidence.aliases):
            yield from _end_letters(name, dates[-1])
            yield from _one_letter_forms(name, dates[-1])


def _asked_texts(evidence: RecordEvidence, names: list[str], dates: list[str]) -> Iterator[str]:
    main = fold_name(evidence.name)
    for name in names:
        for number, date in enumerate(dates):
            if _is_enough(name, name == main, number):
                yield f"at {date} {name}"
                if date == dates[-1]:
                    yield f"in {date} {name}"
    if main in names and len(dates) == 3:
        yield from _near_dates(main, dates[-1])
    for form in _pairs(names, main):
        # One of the two names must be the main name of one of the records: two aliases are too weak.
        side, _, pair = form.partition(" ")
        asked = f"{'any' if side == 'main' else 'main'} {pair}"
        yield f"{asked} undated"
        if not dates:
            yield f"{asked} dated"


def _is_enough(name: str, is_main: bool, precision: int) -> bool:
    """True when identity links records with an equal name and an equal year (0), month (1) or day (2)."""
    several = " " in name
    return precision == 2 or (precision == 1 and (is_main or several)) or (is_main and several)


def _near_dates(name: str, date: str) -> Iterator[str]:
    """Dates with one part different, or with day and month exchanged: enough with a main name of two words."""
    if " " in name:
        year, month, day = date.split("-")
        yield f"near {year}-{month}-* {name}"
        yield f"near {year}-*-{day} {name}"
        yield f"near *-{month}-{day} {name}"
        yield f"near {year} {min(month, day)} {max(month, day)} {name}"


def _pairs(names: list[str], main: str) -> Iterator[str]:
    several = [name for name in names if " " in name][:_MOST_NAMES_IN_PAIRS]
    for pair in combinations(several, 2):
        text = " + ".join(sorted(pair))
        yield f"any {text}"
        if main in pair:
            yield f"main {text}"


def _end_letters(name: str, date: str) -> Iterator[str]:
    """The first and the last letter of a name, each with the date: one changed letter changes at most one of them."""
    letters = "".join(folded_words(name))
    if letters:
        yield f"first {date} {letters[0]}"
        yield f"last {date} {letters[-1]}"


def _one_letter_forms(name: str, date: str) -> Iterator[str]:
    """The letters of a name, and all forms with one letter left out: names that differ in one letter share a form."""
    letters = "".join(folded_words(name))
    if _SHORTEST_MISSPELT <= len(letters) <= _LONGEST_MISSPELT:
        yield f"slip {date} {letters}"
        for place in range(len(letters)):
            yield f"slip {date} {letters[:place]}{letters[place + 1 :]}"
