"""Reads performer records, listings, edits and changes from the answers of a stash-box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic

from stash_sense_pipeline.privacy.intake.data_minimisation import drop_private_fields
from stash_sense_pipeline.records.performer_record import (
    ImageRecord,
    PerformerRecord,
    UnreadRecord,
    unique_images,
)
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.cleaning.addresses import address, link
from stash_sense_pipeline.sources.cleaning.dates import birth_date, death_date, instant
from stash_sense_pipeline.sources.cleaning.fields import Fields
from stash_sense_pipeline.sources.cleaning.ids import optional_id, record_id
from stash_sense_pipeline.sources.cleaning.numbers import SHORTEST_CM, TALLEST_CM, side, whole, year
from stash_sense_pipeline.sources.cleaning.text import enumeration, label, required_text, text
from stash_sense_pipeline.sources.unread import ANOTHER_ANSWERED, Row, unread_row

# Of tattoos and piercings only the place on the body is kept, not the free text.
_UNMODELLED = ("tattoos", "piercings")


@dataclass(frozen=True)
class Listed:
    """A live performer in a listing."""

    source_id: str
    updated: datetime | None
    merged_ids: tuple[str, ...] = ()
    image_ids: frozenset[str] | None = None


@dataclass(frozen=True)
class RecordPage(Generic[Row]):
    """One page of a list of performers. `count` is the number of performers on all pages.

    `unread` are rows of this page that are unreadable, or for which the server reported an error.
    """

    count: int
    rows: tuple[Row, ...]
    unread: tuple[UnreadRecord, ...] = ()

    @property
    def length(self) -> int:
        """The number of rows on this page, unread ones included."""
        return len(self.rows) + len(self.unread)


@dataclass(frozen=True)
class ListSample:
    """The length of a source's list, and the number of pictures of each performer at its beginning.

    `is_capped`: the list ends before the performers do, so `performers` is a lower bound.
    """

    performers: int
    pictures: tuple[int, ...]
    is_capped: bool = False


@dataclass(frozen=True)
class Details:
    """Answers for single performers: records (deleted ones too), ids that do not exist, and unread records."""

    records: Mapping[str, PerformerRecord]
    absent: frozenset[str]
    unread: tuple[UnreadRecord, ...] = ()


@dataclass(frozen=True)
class Change:
    """An entry of the server's changelog."""

    source_id: str
    updated: datetime | None
    deleted: bool


@dataclass(frozen=True)
class Removals:
    """Ids that applied edits removed, still to be confirmed; `newest` is the time of the last edit."""

    source_ids: frozenset[str]
    newest: datetime | None


def asked_record(source_id: str, row: Any, left_out: Counter[str]) -> PerformerRecord | UnreadRecord:
    """The record that a request for `source_id` returned; unread when it is unreadable, or of another performer."""
    try:
        record = read_record(row, left_out)
    except json.FieldError as error:
        return replace(unread_row(row, str(error)), label=source_id, source_id=source_id)
    if record.source_id != source_id:
        return UnreadRecord(source_id, ANOTHER_ANSWERED, source_id)
    return record


def read_listed(row: Any, left_out: Counter[str]) -> Listed:
    """A row of a listing. Raises FieldError for a row without a valid id."""
    row = json.mapping(row, "it")
    fields = Fields(row, left_out)
    return Listed(
        source_id=record_id(row.get("id")),
        updated=fields.moment("updated"),
        merged_ids=fields.each("merged_ids", optional_id),
        image_ids=None if row.get("images") is None else frozenset(fields.each("images", _id_of_item)),
    )


def read_record(row: Any, left_out: Counter[str]) -> PerformerRecord:
    """A performer, which may be deleted. Raises FieldError for one without a valid id or name."""
    row = json.mapping(row, "it")
    fields = Fields(row, left_out)
    deleted = json.flag(row, "deleted", "it")
    images = unique_images(fields.each("images", _image))
    merged_into = row.get("merged_into_id")
    return PerformerRecord(
        source_id=record_id(row.get("id")),
        name=required_text(row.get("name"), "its name"),
        disambiguation=fields.one("disambiguation", text),
        aliases=fields.each("aliases", text),
        gender=fields.one("gender", enumeration),
        birth_date=fields.date("birth_date", birth_date),
        death_date=fields.date("death_date", death_date),
        country=fields.one("country", label),
        ethnicity=fields.one("ethnicity", enumeration),
        eye_color=fields.one("eye_color", enumeration),
        hair_color=fields.one("hair_color", enumeration),
        height_cm=fields.number("height", _height),
        career_start_year=fields.number("career_start_year", year),
        career_end_year=fields.number("career_end_year", year),
        urls=fields.each("urls", _link_of_item),
        images=images,
        # The list is never null, so a null does not mean that there are no images.
        keeps_images=row.get("images") is None or fields.has_lost("images"),
        merged_ids=fields.each("merged_ids", optional_id),
        created_at=fields.moment("created"),
        updated_at=fields.moment("updated"),
        deleted=deleted,
        # It must be valid in a deleted record, where it names the survivor.
        merged_into=record_id(merged_into, "the id it was merged into")
        if deleted and merged_into is not None
        else fields.one("merged_into_id", optional_id),
        raw=drop_private_fields(
            {key: sorted(fields.each(key, _place)) for key in _UNMODELLED if row.get(key)}
        ),
    )


@dataclass(frozen=True)
class Edits:
    """A page of applied edits of one operation."""

    count: int
    rows: Sequence[Any]
    closed: Sequence[datetime]
    removed: frozenset[str]

    @classmethod
    def of(cls, data: Mapping[str, Any], operation: str, left_out: Counter[str]) -> Edits:
        """Reads a page of edits. Unreadable edits are left out: a sweep finds the performers that they removed."""
        result = json.mapping(data.get(operation), operation)
        rows = json.sequence(result, "edits", operation)
        removed: set[str] = set()
        closed: list[datetime] = []
        for row in rows:
            if not isinstance(row, dict):
                left_out["edits"] += 1
                continue
            fields = Fields(row, left_out)
            time = fields.moment("closed") or fields.moment("created")
            closed += [time] if time is not None else []
            target = fields.one("target", _id_of_item)
            removed.update({target} if target is not None else (), fields.each("merge_sources", _id_of_item))
        return cls(json.count(result, "count", operation), rows, closed, frozenset(removed))


def read_change(row: Any) -> tuple[str, Change] | None:
    """An entry of the changelog, and its time in the server's notation, which the next request starts from.

    None for an unreadable entry.
    """
    try:
        entry = json.mapping(row, "a change")
        moment = json.text(entry, "updated_at", "a change")
        deleted = json.flag(entry, "deleted", "a change")
        return moment, Change(record_id(entry.get("id")), instant(moment), deleted)
    except ValueError:
        return None


def _height(value: Any) -> int | None:
    return whole(value, SHORTEST_CM, TALLEST_CM)


def _id_of_item(item: Any) -> str | None:
    return optional_id(item.get("id")) if isinstance(item, dict) else None


def _link_of_item(item: Any) -> str | None:
    return link(item.get("url") if isinstance(item, dict) else item)


def _image(item: Any) -> ImageRecord | None:
    """None for an image without an id or an address: it could not be recognised later, or fetched."""
    if not isinstance(item, dict):
        return None
    image_id, url = optional_id(item.get("id")), address(item.get("url"))
    if image_id is None or url is None:
        return None
    # The size of a vector image is -1 by -1.
    return ImageRecord(image_id, url.split("?")[0], side(item.get("width")), side(item.get("height")))


def _place(item: Any) -> str | None:
    """The place on the body of a tattoo or piercing. A text that is longer than a label is no place."""
    return label(item.get("location")) if isinstance(item, dict) else None
