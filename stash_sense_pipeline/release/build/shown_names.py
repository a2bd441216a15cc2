"""The names that the sidecar shows: people of one name are told apart by what else their records say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# The columns of performers.db that `shown_names` reads, beside the name.
NAMESAKE_COLUMNS = ("disambiguation", "country", "birth_date", "career_start_year", "career_end_year")
_YEAR = 4


class NamedPerson(NamedTuple):
    """A performer with its name, and its NAMESAKE_COLUMNS by name."""

    performer_id: int
    name: str
    fields: Mapping[str, Any]


def shown_names(people: Iterable[NamedPerson], rule: Sequence[str]) -> dict[int, str]:
    """The shown names that differ from the plain ones, by performer id. `rule`: fields, the first choice first.

    The name of a person with a namesake gets in brackets the first field of the rule that no namesake shares. When every
    field is shared by a namesake, it gets all of them. A person without any keeps the plain name. Equal names are those
    that differ in case and space only.
    """
    by_name: dict[str, list[NamedPerson]] = defaultdict(list)
    for person in people:
        by_name[same_name(person.name)].append(person)
    shown: dict[int, str] = {}
    for namesakes in by_name.values():
        if len(namesakes) > 1:
            shown |= _told_apart(namesakes, rule)
    return shown


def same_name(name: str) -> str:
    """The form in which two equal names are equal."""
    return " ".join(name.casefold().split())


def _told_apart(namesakes: Sequence[NamedPerson], rule: Sequence[str]) -> dict[int, str]:
    known = {person.performer_id: _known(person.fields, rule) for person in namesakes}
    holders = Counter((field, text.casefold()) for own in known.values() for field, text in own.items())
    shown = {}
    for person in namesakes:
        own = known[person.performer_id]
        unique = [text for field, text in own.items() if holders[field, text.casefold()] == 1]
        if own:
            shown[person.performer_id] = f"{person.name} ({unique[0] if unique else ', '.join(own.values())})"
    return shown


def _known(fields: Mapping[str, Any], rule: Sequence[str]) -> dict[str, str]:
    """The texts of the fields of the rule that the person has, in the order of the rule."""
    texts = {
        "disambiguation": _without_brackets(fields["disambiguation"] or ""),
        "country": (fields["country"] or "").strip(),
        "years": _years(fields),
    }
    return {field: texts[field] for field in rule if texts[field]}


def _without_brackets(text: str) -> str:
    text = " ".join(text.split())
    return text[1:-1].strip() if text.startswith("(") and text.endswith(")") else text


def _years(fields: Mapping[str, Any]) -> str:
    """The years of the career, `2009-2015` or `2009-`; without them the year of birth."""
    begin, end = fields["career_start_year"], fields["career_end_year"]
    if begin or end:
        return f"{begin or ''}-{end or ''}"
    birth = fields["birth_date"]
    return f"born {birth[:_YEAR]}" if birth else ""
