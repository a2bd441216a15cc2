"""Unread records: they arrived and could not be read or stored. They are counted by reason, and requested again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import UnreadRecord
from stash_sense_pipeline.sources.cleaning.fields import Fields
from stash_sense_pipeline.sources.cleaning.ids import optional_id
from stash_sense_pipeline.sources.json_fields import FieldError

# Every source has some unreadable records. When both limits are exceeded, the format of the source has changed, or its
# reader is wrong.
MANY_UNREAD = 20
SHARE_UNREAD = 0.1
# Runs in which one version of a record is requested; after that it is requested when it changes, or in a sweep.
TRIES = 2
NOT_ANSWERED = "the server failed to answer for it"
ANOTHER_ANSWERED = "the server answered another performer than was asked for"
_SHOWN = 100


class Identified(Protocol):
    """A record, or a row of a listing."""

    @property
    def source_id(self) -> str:
        """The id at the source."""
        ...


Row = TypeVar("Row", bound=Identified)


def read_rows(
    rows: Sequence[Any], read: Callable[[Any], Row | None], *, numbers: bool = False
) -> tuple[tuple[Row, ...], tuple[UnreadRecord, ...]]:
    """The rows of one page, read with `read`, and the unread rows, for which it raises FieldError.

    A row for which `read` returns None is skipped. Different rows with the same id are unread, because it is unknown
    which of them has the id. With `numbers` an id may be a number.
    """
    found: list[Row] = []
    unread: list[UnreadRecord] = []
    for number, row in enumerate(rows, start=1):
        try:
            record = read(row)
        except FieldError as error:
            unread.append(unread_row(row, f"{error} (performer {number} of a page)", numbers=numbers))
        else:
            if record is not None:
                found.append(record)
    if len({record.source_id for record in found}) < len(found):
        doubtful = _shared_ids(found)
        reason = "different performers of a page have its id"
        unread += [
            UnreadRecord(record.source_id, reason, record.source_id)
            for record in found
            if record.source_id in doubtful
        ]
        found = [record for record in found if record.source_id not in doubtful]
    return tuple(found), tuple(_with_distinct_labels(unread))


def unread_row(row: Any, reason: str, *, numbers: bool = False) -> UnreadRecord:
    """The note on an unread row. Without a valid id the row is labelled with its digest."""
    stated = row.get("id") if isinstance(row, dict) else None
    source_id = optional_id(stated, numbers=numbers)
    if source_id is not None:
        return UnreadRecord(source_id, reason, source_id, Fields(row, Counter()).moment("updated"))
    digest = hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return UnreadRecord(f"{ascii(stated)[:_SHOWN]} #{digest}", reason)


def _with_distinct_labels(unread: Iterable[UnreadRecord]) -> Iterator[UnreadRecord]:
    """The notes with distinct labels; of several with the same id, only the first keeps the id."""
    seen: Counter[str] = Counter()
    for each in unread:
        seen[each.label] += 1
        yield (
            each if seen[each.label] == 1 else UnreadRecord(f"{each.label} #{seen[each.label]}", each.reason)
        )


def _shared_ids(rows: Iterable[Row]) -> set[str]:
    """The ids of several rows with different content."""
    seen: dict[str, Row] = {}
    return {row.source_id for row in rows if seen.setdefault(row.source_id, row) != row}


class UnreadNotes:
    """The unread records of one source, from the run before and from this one.

    A note holds the reason and the unread version. It is removed when the record is read, or deleted at the source.
    """

    def __init__(self, source: str, before: Any) -> None:
        """`before` is the result of `detail` of the last run, or a list of ids."""
        self._source = source
        self._notes: dict[str, dict[str, Any]] = {}
        self._came: set[str] = set()
        self._unread_now: set[str] = set()
        known = before if isinstance(before, Mapping) else {each: {} for each in before or ()}
        for label, note in known.items():
            self._notes[label] = {"reason": NOT_ANSWERED, **note}
        self._known_before = frozenset(self._notes)

    def __len__(self) -> int:
        return len(self._notes)

    @property
    def reasons(self) -> dict[str, int]:
        """The number of unread records by reason, without the positions in the answer."""
        return dict(
            sorted(Counter(note["reason"].partition(" (")[0] for note in self._notes.values()).items())
        )

    @property
    def source_ids(self) -> frozenset[str]:
        """The ids of unread records that have a valid id."""
        return frozenset(label for label, note in self._notes.items() if not note.get("no_id"))

    @property
    def to_ask_again(self) -> frozenset[str]:
        """The ids of unread records without a known version, which must be requested to find out whether they changed."""
        return frozenset(each for each in self.source_ids if self._notes[each].get("version") is None)

    def is_known(self, source_id: str, version: datetime | None) -> bool:
        """True when this version of a record was unread in two runs. One run may have received a broken answer."""
        note = self._notes.get(source_id)
        is_same = note is not None and version is not None and note.get("version") == version.isoformat()
        return is_same and note is not None and bool(note.get("tries", 1) >= TRIES)

    def read(self, source_ids: Iterable[str]) -> None:
        """Notes that these records were read."""
        for source_id in source_ids:
            self._came.add(source_id)
            self._unread_now.discard(source_id)
            self._notes.pop(source_id, None)

    def came(self, source_ids: Iterable[str]) -> None:
        """Notes that a list showed these records."""
        self._came.update(source_ids)

    def note(self, unread: Iterable[UnreadRecord]) -> None:
        """Notes that these records could not be read or stored."""
        for each in unread:
            note: dict[str, Any] = {"reason": each.reason}
            if each.version is not None:
                before, version = self._notes.get(each.label, {}), each.version.isoformat()
                tries = before.get("tries", 1) if before.get("version") == version else 0
                note |= {"version": version, "tries": tries if each.label in self._unread_now else tries + 1}
            self._came.add(each.label)
            self._unread_now.add(each.label)
            self._notes[each.label] = note if each.source_id is not None else {**note, "no_id": True}

    def forget(self, source_ids: Iterable[str]) -> None:
        """Removes the notes of records that no longer exist at the source."""
        for source_id in source_ids:
            self._notes.pop(source_id, None)

    def keep_only(self, listed: Collection[str]) -> None:
        """After a pass over the whole list: removes the notes of records that neither it nor this run showed."""
        self._notes = {
            label: note for label, note in self._notes.items() if label in listed or label in self._unread_now
        }

    def check(self, listed: int = 0) -> None:
        """Raises SourceError (parse_error) when too many records of this run are unread.

        Too many are more than MANY_UNREAD and SHARE_UNREAD of them, or all of several records: then the source or its
        reader is broken. `listed` is the number of records in a whole list; 0 when only changes were read. In the latter
        case records that were unread before are not counted: they were few then, and come again among few changes.
        """
        known = frozenset() if listed else self._known_before & self._unread_now
        labels = self._unread_now - known
        unread, came = len(labels), max(len(self._came - known), listed)
        are_all = unread == came and (listed or came > 1)
        if (unread > MANY_UNREAD and unread > SHARE_UNREAD * came) or (unread and are_all):
            reason = next(self._notes[label]["reason"] for label in sorted(labels))
            raise SourceError(
                self._source,
                Outcome.PARSE_ERROR,
                f"{unread} of {came} performers cannot be read or stored, for example because {reason}; "
                "the others are stored, and a full sweep takes them all together",
            )

    def detail(self) -> dict[str, dict[str, Any]]:
        """The notes by label, for the next run."""
        return {label: self._notes[label] for label in sorted(self._notes)}
