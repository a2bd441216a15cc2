"""Reads what a sense2 release holds, except vectors: one row for each stash-box record, under its permanent number."""

from __future__ import annotations

import hashlib
import html
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads, streamed
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import trusted_table
from stash_sense_pipeline.catalog.queries.sense2.ledger import FaceKey, Ledger, number_new, read_ledger
from stash_sense_pipeline.catalog.schema import claimed_faces, faces
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.build.content_rows import (
    Member,
    ReleasedFace,
    Rows,
    check_owners,
    read_pictures,
    read_rows,
)
from stash_sense_pipeline.release.build.face_order import FaceOrder
from stash_sense_pipeline.release.contract import endpoint_rank
from stash_sense_pipeline.release.sense2.contract import universal_id
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY

# Made once: json.dumps with options makes an encoder a call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Performer(NamedTuple):
    """A stash-box record with at least one face. `fields` are its PERSONAL_FIELDS, in their order."""

    number: int
    endpoint: str
    record: str
    name: str
    fields: tuple[str | int | None, ...]
    image_url: str
    aliases: tuple[str, ...]
    face_count: int

    @property
    def uid(self) -> str:
        """The universal id."""
        return universal_id(self.endpoint, self.record)

    @property
    def digest(self) -> str:
        """SHA-256 of what users see of the row. The number of faces follows from the faces."""
        shown = (self.endpoint, self.record, self.name, self.fields, self.image_url, self.aliases)
        return hashlib.sha256(_ENCODER.encode(shown).encode()).hexdigest()


class Face(NamedTuple):
    """A published face. `owner`: the number of its performer. `yaw` is None where it was not measured."""

    embedding_index: int
    owner: int
    image_url: str
    quality: float | None
    yaw: float | None

    def digest(self, vector: bytes) -> str:
        """SHA-256 of what users see of the face, and of its published vector."""
        state = hashlib.sha256(_ENCODER.encode(self).encode())
        state.update(vector)
        return state.hexdigest()


@dataclass(frozen=True)
class Content:
    """Performers by number, faces by embedding index, the catalog's faces in that order, and the ledger.

    `people`: the live stash-box records of each person with several, the preferred first; some have no face of their own
    and are no performers. `merged`: the record that replaces a record, where its stash-box merged it. `priority`:
    stash-boxes, the first choice first.
    """

    performers: tuple[Performer, ...]
    faces: tuple[Face, ...]
    order: FaceOrder
    ledger: Ledger
    people: tuple[tuple[RecordKey, ...], ...]
    merged: Mapping[RecordKey, str]
    hosts: Mapping[str, str]
    priority: Sequence[str]


@dataclass(frozen=True)
class _Read:
    """The rows of one transaction. `keys`: the lasting key of each face. `without_yaw`: faces with no measured yaw."""

    rows: Rows
    keys: Mapping[int, FaceKey]
    without_yaw: frozenset[int]
    ledger: Ledger


def read_numbered_content(
    engine: sa.Engine,
    hosts: Mapping[str, str],
    priority: Sequence[str] = ENDPOINT_PRIORITY,
    above: tuple[int, int] = (0, 0),
    second: bool = False,
) -> Content:
    """The content of a release of the catalog's trusted faces. Records and faces without a number get one, above `above`.

    `hosts` names the stash-boxes: their records become performers. A face of another source is shown under a stash-box
    record of the same person: the one that it was published under, else the first of `priority`. `second`: the faces are
    those of the second pack.

    Raises ReleaseError when there are no trusted faces, and when one belongs to a performer without a live stash-box
    record.
    """
    reads = ShortReads(engine)
    with collector_paused():
        read = reads(_read, hosts, second)
        owners = _owners(read, hosts, priority)
        members = {(row.source, row.source_id): row for row in read.rows.members}
        records = sorted(set(owners.values()), key=lambda key: _place(members[key], hosts, priority))
        with writing(engine) as connection:
            face_keys = [read.keys[face.face_id] for face in read.rows.faces]
            ledger = number_new(connection, records, face_keys, above)
        pictures = reads(read_pictures, records)
        return _content(_Numbered(read, owners, ledger, pictures), members, hosts, priority)


def _read(connection: sa.Connection, hosts: Mapping[str, str], second: bool) -> _Read:
    rows = read_rows(connection, hosts, with_urls=False, second=second)
    trusted = trusted_table(second)
    query = sa.select(faces.c.face_id, faces.c.source, faces.c.image_id, faces.c.face_index).join(
        trusted, trusted.c.face_id == faces.c.face_id
    )
    keys = {number: (source, image, index) for number, source, image, index in streamed(connection, query)}
    # A claim says 0 where the release that was taken over states no yaw.
    unstated = sa.select(claimed_faces.c.face_id).where(
        claimed_faces.c.face_id.is_not(None), claimed_faces.c.yaw == 0
    )
    return _Read(rows, keys, frozenset(connection.execute(unstated).scalars()), read_ledger(connection))


def _place(member: Member, hosts: Mapping[str, str], priority: Sequence[str]) -> tuple[object, ...]:
    """Sort key of a record: by person, then by the priority of its stash-box."""
    return member.performer_id, endpoint_rank(member.source, hosts, priority), member.source_id


# --- the record that a face is shown under ----------------------------------------------------------------------------


def _owners(read: _Read, hosts: Mapping[str, str], priority: Sequence[str]) -> dict[int, RecordKey]:
    """The stash-box record of each face, by face id."""
    rows = read.rows
    boxes: dict[int, list[Member]] = defaultdict(list)
    for row in rows.members:
        if row.source in hosts:
            boxes[row.performer_id].append(row)
    live = {(row.source, row.source_id): row.performer_id for own in boxes.values() for row in own}
    first = {person: min(own, key=lambda row: _place(row, hosts, priority)) for person, own in boxes.items()}
    published = _published_owners(read.ledger)
    check_owners(rows, first)
    found = {}
    for face in rows.faces:
        choices = (
            (face.source, face.source_id),
            _survivor((face.source, face.source_id), rows),
            published.get(read.keys[face.face_id]),
        )
        chosen = next((key for key in choices if key and live.get(key) == face.performer_id), None)
        best = first[face.performer_id]
        found[face.face_id] = chosen or (best.source, best.source_id)
    return found


def _survivor(key: RecordKey, rows: Rows) -> RecordKey | None:
    """The record that replaces a merged one, at the end of the chain of merges; None when it was not merged."""
    source, record = key
    seen = {record}
    while (source, record) in rows.merged_upstream:
        record = rows.merged_upstream[source, record]
        if record in seen:
            return None
        seen.add(record)
    return None if (source, record) == key else (source, record)


def _published_owners(ledger: Ledger) -> dict[FaceKey, RecordKey]:
    of_number = {number: key for key, number in ledger.numbers.items()}
    found = {}
    for row in ledger.faces:
        owner = of_number.get(row.owner) if row.owner is not None else None
        if owner is not None and row.source is not None and row.image_id is not None:
            found[row.source, row.image_id, row.face_index or 0] = owner
    return found


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Numbered:
    """What was read, with the owner of each face, the numbers, and a picture of each record that has one."""

    read: _Read
    owners: Mapping[int, RecordKey]
    ledger: Ledger
    pictures: Mapping[RecordKey, str]


def _content(
    numbered: _Numbered,
    members: Mapping[RecordKey, Member],
    hosts: Mapping[str, str],
    priority: Sequence[str],
) -> Content:
    rows, numbers = numbered.read.rows, numbered.ledger.numbers
    by_owner: dict[RecordKey, list[ReleasedFace]] = defaultdict(list)
    for face in rows.faces:
        by_owner[numbered.owners[face.face_id]].append(face)
    aliases: dict[RecordKey, list[str]] = defaultdict(list)
    for source, source_id, text in rows.aliases:
        aliases[source, source_id].append(text)
    names = _names(rows.members, hosts, priority)
    performers = [
        _performer(members[key], own, sorted(aliases[key]), names, numbered.pictures.get(key))
        for key, own in by_owner.items()
    ]
    performers = [row._replace(number=numbers[row.endpoint, row.record]) for row in performers]
    shown = sorted(_faces(numbered))
    return Content(
        performers=tuple(sorted(performers)),
        faces=tuple(face for face, _ in shown),
        order=FaceOrder(
            np.array([face_id for _, face_id in shown], dtype=np.int64),
            np.array([face.owner for face, _ in shown], dtype=np.int64),
        ),
        ledger=numbered.ledger,
        people=tuple(_people(members, hosts, priority)),
        merged=rows.merged_upstream,
        hosts=hosts,
        priority=priority,
    )


def _people(
    members: Mapping[RecordKey, Member], hosts: Mapping[str, str], priority: Sequence[str]
) -> Iterator[tuple[RecordKey, ...]]:
    boxes = sorted(
        (row for row in members.values() if row.source in hosts), key=lambda row: _place(row, hosts, priority)
    )
    for _, own in itertools.groupby(boxes, key=lambda row: row.performer_id):
        group = tuple((row.source, row.source_id) for row in own)
        if len(group) > 1:
            yield group


def _faces(numbered: _Numbered) -> Iterator[tuple[Face, int]]:
    """Each face with its id in the catalog."""
    numbers, indices = numbered.ledger.numbers, numbered.ledger.indices
    for face in numbered.read.rows.faces:
        unmeasured = face.face_id in numbered.read.without_yaw
        yield (
            Face(
                indices[numbered.read.keys[face.face_id]],
                numbers[numbered.owners[face.face_id]],
                face.image_url,
                _finite(face.quality),
                None if unmeasured else _finite(face.yaw),
            ),
            face.face_id,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _names(members: Sequence[Member], hosts: Mapping[str, str], priority: Sequence[str]) -> dict[int, str]:
    """The name of each person, from the first of their records that has one."""
    found: dict[int, str] = {}
    for row in sorted(members, key=lambda row: _place(row, hosts, priority)):
        name = plain_text(row.name or "")
        if name:
            found.setdefault(row.performer_id, name)
    return found


def _performer(
    member: Member,
    own: Sequence[ReleasedFace],
    aliases: Sequence[str],
    names: Mapping[int, str],
    picture: str | None,
) -> Performer:
    """The row of a record, without its number. A record without a name has that of the person."""
    name = plain_text(member.name or "") or names.get(member.performer_id)
    if not name:
        raise ReleaseError(
            f"{member.source}:{member.source_id} has faces, and no record of the person has a name; refresh its source"
        )
    others = dict.fromkeys(plain_text(alias) for alias in aliases)
    seen = (face.image_url for face in own if (face.source, face.source_id) == member[1:3])
    return Performer(
        number=0,
        endpoint=member.source,
        record=member.source_id,
        name=name,
        fields=tuple(_field(value) for value in member.known),
        image_url=next(seen, None) or picture or own[0].image_url,
        aliases=tuple(alias for alias in others if alias and alias != name),
        face_count=len(own),
    )


def _field(value: str | int | None) -> str | int | None:
    """The value of a personal field; None for an empty text."""
    return (plain_text(value) or None) if isinstance(value, str) else value


def plain_text(text: str) -> str:
    """The text without HTML entities and outer space. The client unescapes names once more: that changes nothing."""
    while "&" in text and (plain := html.unescape(text)) != text:
        text = plain
    return text.strip()
