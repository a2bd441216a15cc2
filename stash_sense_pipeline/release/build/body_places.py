"""The places of tattoos and piercings of a person, merged from the fields of all records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stash_sense_pipeline.release.contract import PLACE_TABLES
from stash_sense_pipeline.sources.cleaning.text import label, without_entities

# The values of a record's fields for tattoos and piercings, as stored, by table of performers.db.
RecordPlaces = Mapping[str, Sequence[Any]]


class StatedPlaces(NamedTuple):
    """The places that one record states, its source, and when the source made the record, where it says so."""

    places: RecordPlaces
    source: str
    created_at: str | None


class BodyPlace(NamedTuple):
    """A place on the body of a person, with the first source that states it, and the time of its record."""

    place: str
    source: str
    created_at: str | None


# By table of performers.db; without the tables that have none.
BodyPlaces = Mapping[str, tuple[BodyPlace, ...]]
NO_PLACES: BodyPlaces = {}


def places_of_record(raw: Mapping[str, Any]) -> RecordPlaces:
    """The fields of a stored record that hold places."""
    return {table: raw[table] for table in PLACE_TABLES if isinstance(raw.get(table), list)}


def merged_places(records: Sequence[StatedPlaces]) -> BodyPlaces:
    """The places of all records, sorted. Spellings that differ only in case are one place: that of the first record.

    A value that is not a text, is blank, or is longer than a label is left out: a long text is a description.
    """
    if not records:
        return NO_PLACES
    found = {table: _merged(table, records) for table in PLACE_TABLES}
    return {table: places for table, places in found.items() if places}


def _merged(table: str, records: Sequence[StatedPlaces]) -> tuple[BodyPlace, ...]:
    found: dict[str, BodyPlace] = {}
    for stated, source, created_at in records:
        for place in _cleaned(stated.get(table, ())):
            found.setdefault(place.casefold(), BodyPlace(place, source, created_at))
    return tuple(found[key] for key in sorted(found))


def _cleaned(values: Sequence[Any]) -> Iterable[str]:
    for value in values:
        place = label(without_entities(value)) if isinstance(value, str) else None
        if place is not None:
            yield place
