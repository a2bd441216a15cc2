"""The ledger of sense2 releases: permanent numbers of records and faces, and the state that the newest release holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.key_filters import image_key, of_keys, record_key, rows_of
from stash_sense_pipeline.catalog.schema import (
    faces as catalog_faces,
)
from stash_sense_pipeline.catalog.schema import (
    sense2_faces,
    sense2_performers,
    sense2_releases,
    source_performers,
)
from stash_sense_pipeline.catalog.upsert import insert_many, upsert_values
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

# Tables of numbers. An erasure blanks their rows and keeps the numbers.
NUMBERED = (sense2_performers.name, sense2_faces.name)
FIRST_NUMBER, FIRST_INDEX = 1, 0
# The two halves of the key of PostgreSQL's advisory lock.
_LEDGER_LOCK = (7305215, 22)

# (source, image id, order of detection inside the image)
FaceKey = tuple[str, str, int]


class NumberedRecord(NamedTuple):
    """A row of the ledger of records. `source` and `source_id` are None after an erasure."""

    number: int
    source: str | None
    source_id: str | None
    digest: str | None
    published: bool


class NumberedFace(NamedTuple):
    """A row of the ledger of faces. The three parts of the key are None after an erasure."""

    embedding_index: int
    source: str | None
    image_id: str | None
    face_index: int | None
    owner: int | None
    digest: str | None
    published: bool


@dataclass(frozen=True)
class Publication:
    """A published sense2 release."""

    version: str
    published_at: datetime
    detector_digest: str
    model: str
    model_digest: str
    links_digest: str
    aliases_digest: str


class PublishedRecord(NamedTuple):
    """The state of a record in a release; `digest` is None when the release does not hold it."""

    number: int
    digest: str | None
    published: bool


class PublishedFace(NamedTuple):
    """The state of a face in a release; `owner` and `digest` are None when the release does not hold it."""

    embedding_index: int
    owner: int | None
    digest: str | None
    published: bool


@dataclass(frozen=True)
class Ledger:
    """All numbers by key, and the state that the release `newest` holds. `newest` is None before the first release.

    `records` and `faces` have the rows of erased people too.
    """

    records: tuple[NumberedRecord, ...]
    faces: tuple[NumberedFace, ...]
    newest: Publication | None

    @property
    def numbers(self) -> dict[RecordKey, int]:
        """The number of each record that is not erased."""
        return {
            (row.source, row.source_id): row.number
            for row in self.records
            if row.source is not None and row.source_id is not None
        }

    @property
    def indices(self) -> dict[FaceKey, int]:
        """The embedding index of each face that is not erased."""
        return {
            (row.source, row.image_id, row.face_index): row.embedding_index
            for row in self.faces
            if row.source is not None and row.image_id is not None and row.face_index is not None
        }

    @property
    def next_number(self) -> int:
        """The first number above all that were ever given."""
        return max((row.number for row in self.records), default=FIRST_NUMBER - 1) + 1

    @property
    def next_index(self) -> int:
        """The first embedding index above all that were ever given."""
        return max((row.embedding_index for row in self.faces), default=FIRST_INDEX - 1) + 1


def lock_ledger(connection: sa.Connection) -> None:
    """Takes a lock until the transaction ends; other transactions that call this wait.

    Does nothing on SQLite, which has one writer.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(*_LEDGER_LOCK)))


def read_ledger(connection: sa.Connection) -> Ledger:
    """The whole ledger, in the caller's transaction."""
    records = sa.select(*(sense2_performers.c[name] for name in NumberedRecord._fields))
    faces = sa.select(*(sense2_faces.c[name] for name in NumberedFace._fields))
    return Ledger(
        tuple(map(NumberedRecord._make, streamed(connection, records.order_by(sense2_performers.c.number)))),
        tuple(map(NumberedFace._make, streamed(connection, faces.order_by(sense2_faces.c.embedding_index)))),
        newest_publication(connection),
    )


def newest_publication(connection: sa.Connection) -> Publication | None:
    """The newest published sense2 release, or None."""
    query = sa.select(sense2_releases).order_by(sense2_releases.c.version.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else Publication(**row._mapping)


def numbered_records(connection: sa.Connection) -> set[RecordKey]:
    """The records with a number, also those that the catalog does not hold any more."""
    table = sense2_performers.c
    query = sa.select(table.source, table.source_id).where(table.source.is_not(None))
    return {(source, source_id) for source, source_id in streamed(connection, query)}


def number_new(
    connection: sa.Connection,
    records: Iterable[RecordKey],
    faces: Iterable[FaceKey],
    above: tuple[int, int] = (FIRST_NUMBER, FIRST_INDEX),
) -> Ledger:
    """Gives a number to each record and face that has none, in the order of the arguments, and returns the ledger.

    New numbers are above all that the ledger knows, and not below `above`, the least number and the least index. Call
    it in a transaction of its own: the numbers stay given also when no release comes of it.

    Raises ReleaseError when the catalog no longer holds one that has no number. The caller read them in an earlier
    transaction: after an erasure the ledger must not hold their keys again.
    """
    lock_ledger(connection)
    ledger = read_ledger(connection)
    numbers, indices = ledger.numbers, ledger.indices
    new_records = [key for key in dict.fromkeys(records) if key not in numbers]
    new_faces = [key for key in dict.fromkeys(faces) if key not in indices]
    if not new_records and not new_faces:
        return ledger
    _require_stored(connection, new_records, new_faces)
    number, index = max(ledger.next_number, above[0]), max(ledger.next_index, above[1])
    insert_many(
        connection,
        sense2_performers,
        ("number", "source", "source_id", "published"),
        [(number + place, *key, False) for place, key in enumerate(new_records)],
    )
    insert_many(
        connection,
        sense2_faces,
        ("embedding_index", "source", "image_id", "face_index", "published"),
        [(index + place, *key, False) for place, key in enumerate(new_faces)],
    )
    return read_ledger(connection)


def _require_stored(
    connection: sa.Connection, records: Collection[RecordKey], faces: Collection[FaceKey]
) -> None:
    """Raises ReleaseError unless the catalog holds each of these records and faces."""
    stored = sa.select(source_performers.c.source, source_performers.c.source_id)
    found = set(rows_of(connection, stored, record_key(source_performers), records))
    table = catalog_faces
    detected = sa.select(table.c.source, table.c.image_id, table.c.face_index)
    shown = set(rows_of(connection, detected, image_key(table), {key[:2] for key in faces}))
    lost = len(set(records) - found), len(set(faces) - shown)
    if any(lost):
        raise ReleaseError(
            f"the catalog changed meanwhile: it has lost {lost[0]} records and {lost[1]} faces of the release; "
            "publish again"
        )


def store_publication(
    connection: sa.Connection,
    publication: Publication,
    records: Sequence[PublishedRecord],
    faces: Sequence[PublishedFace],
) -> None:
    """Stores a release and the new states of the numbers that it changed. Numbers that are not named keep theirs."""
    connection.execute(sa.insert(sense2_releases).values(**vars(publication)))
    upsert_values(connection, sense2_performers, PublishedRecord._fields, records)
    upsert_values(connection, sense2_faces, PublishedFace._fields, faces)
    # An erasure may have blanked a row since the release was read.
    for table in (sense2_performers, sense2_faces):
        erased = sa.update(table).where(table.c.source.is_(None), table.c.digest.is_not(None))
        connection.execute(erased.values(digest=None))


def blank_numbers(
    connection: sa.Connection, records: Collection[RecordKey], images: Collection[ImageKey]
) -> dict[str, int]:
    """Removes what identifies these records, their faces and the faces on these images; the number of rows by table.

    Their numbers stay, and `published` too: the next delta removes them from the users' files by number. It locks the
    ledger: a publish may have given numbers to them in a transaction that is not committed.
    """
    lock_ledger(connection)
    key: Mapping[str, None] = dict.fromkeys(("source", "source_id", "digest"))
    face_key: Mapping[str, None] = dict.fromkeys(("source", "image_id", "face_index", "owner", "digest"))
    owners = sa.select(sense2_performers.c.number)
    of_records = sum(
        connection.execute(
            sa.update(sense2_faces)
            .where(sense2_faces.c.owner.in_(owners.where(chosen)), sense2_faces.c.source.is_not(None))
            .values(**face_key)
        ).rowcount
        for chosen in of_keys(record_key(sense2_performers), records)
    )
    counts = {
        sense2_performers.name: sum(
            connection.execute(sa.update(sense2_performers).where(chosen).values(**key)).rowcount
            for chosen in of_keys(record_key(sense2_performers), records)
        ),
        sense2_faces.name: of_records
        + sum(
            connection.execute(sa.update(sense2_faces).where(chosen).values(**face_key)).rowcount
            for chosen in of_keys(image_key(sense2_faces), images)
        ),
    }
    return {table: count for table, count in counts.items() if count}
