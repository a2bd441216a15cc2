"""The difference between a release and the one before it: found in the ledger, and written as a delta zip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.catalog.queries.sense2.ledger import PublishedFace, PublishedRecord
from stash_sense_pipeline.foundation.files import sha256_file, write_atomically
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.build.archive import pack_files
from stash_sense_pipeline.release.contract import endpoint_rank
from stash_sense_pipeline.release.sense2.content import Content, Face, Performer
from stash_sense_pipeline.release.sense2.contract import (
    DELTA_DB,
    DELTA_MANIFEST,
    DELTA_SCHEMA,
    DELTA_TABLES,
    REMOVED,
    REMOVED_NUMBERS,
    UPSERTED,
    delta_zip,
)
from stash_sense_pipeline.release.sense2.database import Table, write_database
from stash_sense_pipeline.release.sense2.vectors import Rounded, widened

_ROW = DELTA_TABLES["performers"]
_REMOVED_COLUMNS = ("endpoint", "stashbox_id", "action", "merged_into_id")
# `updated` stays empty: the time of an edit that changes nothing else would be sent again and again.
_FILLED_COLUMNS = tuple(name for name in _ROW if name not in ("updated", "merged_into_id"))
_FACE_COLUMNS = (
    "embedding_index",
    "endpoint",
    "stashbox_id",
    "image_url",
    "quality_score",
    "yaw",
    "embedding",
)


@dataclass(frozen=True)
class GoneRecord:
    """A record that the release no longer holds, and the record that replaces it where its stash-box merged it."""

    endpoint: str
    record: str
    merged_into: str | None


@dataclass(frozen=True)
class ChangedFace:
    """A face that is new, or differs in its row, owner or vector. `place`: its position in the content's faces."""

    place: int
    face: Face


@dataclass(frozen=True)
class Changes:
    """What must happen to the release before this one, in the order of a delta.

    `erased`: numbers of performers that were erased from the catalog, so that only their numbers are known. `performers`
    are the new and changed ones: the preferred stash-boxes last. `gone_faces`: embedding indices.
    """

    gone: tuple[GoneRecord, ...]
    erased: tuple[int, ...]
    performers: tuple[Performer, ...]
    faces: tuple[ChangedFace, ...]
    gone_faces: tuple[int, ...]
    records_state: tuple[PublishedRecord, ...]
    faces_state: tuple[PublishedFace, ...]

    @property
    def any(self) -> bool:
        """True when a row or a vector differs."""
        return bool(self.gone or self.erased or self.performers or self.faces or self.gone_faces)


def find_changes(content: Content, vectors: Rounded) -> Changes:
    """Compares the content, with its bfloat16 vectors in the order of its faces, with the ledger."""
    records = _changed_records(content)
    faces = _changed_faces(content, vectors)
    held = {row.number for row in content.performers}
    gone, erased = _gone_records(content, held)
    indices = {face.embedding_index for face in content.faces}
    gone_faces = tuple(
        row for row in content.ledger.faces if row.published and row.embedding_index not in indices
    )
    lost = [
        PublishedRecord(row.number, None, False)
        for row in content.ledger.records
        if row.published and row.number not in held
    ]
    return Changes(
        gone=gone,
        erased=erased,
        performers=tuple(sorted(records, key=lambda row: _preferred_last(row, content))),
        faces=tuple(faces),
        gone_faces=tuple(row.embedding_index for row in gone_faces),
        records_state=(
            *(PublishedRecord(row.number, digest, True) for row, digest in records.items()),
            *lost,
        ),
        faces_state=(
            *(
                PublishedFace(changed.face.embedding_index, changed.face.owner, digest, True)
                for changed, digest in faces.items()
            ),
            # The owner stays: an erasure of the record finds the face by it when the catalog has lost the image.
            *(PublishedFace(row.embedding_index, row.owner, None, False) for row in gone_faces),
        ),
    )


def may_move_a_number(content: Content, changes: Changes) -> bool:
    """True when an erased performer of the release before may be in this one again, under a new number.

    Only the numbers of erased performers are known, and every number that was given after the erasure is higher. A client
    that gets both in one delta gives the new number to its old row, and then removes the old number.
    """
    if not changes.erased:
        return False
    published = {row.number for row in content.ledger.records if row.published}
    first = min(changes.erased)
    return any(row.number > first and row.number not in published for row in content.performers)


def _changed_records(content: Content) -> dict[Performer, str]:
    """The new and changed performers, each with its digest."""
    published = {row.number: row.digest for row in content.ledger.records if row.published}
    digests = {row: row.digest for row in content.performers}
    return {row: digest for row, digest in digests.items() if published.get(row.number) != digest}


def _changed_faces(content: Content, vectors: Rounded) -> dict[ChangedFace, str]:
    """The new and changed faces, each with its digest."""
    published = {row.embedding_index: row.digest for row in content.ledger.faces if row.published}
    found = {}
    for place, face in enumerate(content.faces):
        digest = face.digest(vectors[place].tobytes())
        if published.get(face.embedding_index) != digest:
            found[ChangedFace(place, face)] = digest
    return found


def _gone_records(content: Content, held: set[int]) -> tuple[tuple[GoneRecord, ...], tuple[int, ...]]:
    released: Mapping[RecordKey, int] = {(row.endpoint, row.record): row.number for row in content.performers}
    gone, erased = [], []
    for row in content.ledger.records:
        if not row.published or row.number in held:
            continue
        if row.source is None or row.source_id is None:
            erased.append(row.number)
            continue
        target = content.merged.get((row.source, row.source_id))
        survives = target is not None and (row.source, target) in released
        gone.append(GoneRecord(row.source, row.source_id, target if survives else None))
    return tuple(gone), tuple(erased)


def _preferred_last(row: Performer, content: Content) -> tuple[int, bool, str, int]:
    """Sort key: the stash-boxes of the first choice last, because the last row of a performer decides."""
    place, other, _ = endpoint_rank(row.endpoint, content.hosts, content.priority)
    return -place, not other, row.endpoint, row.number


# --- the zip ----------------------------------------------------------------------------------------------------------


def write_delta(
    content: Content, vectors: Rounded, changes: Changes, versions: tuple[str, str], directory: Path
) -> Path:
    """Writes the delta between two versions, `before` and `after`, to an empty directory, and packs it beside it.

    `vectors` are the bfloat16 vectors of all faces of `content`. Raises OSError or ReleaseError when it cannot be written.
    """
    before, after = versions
    path = directory / DELTA_DB
    # An old client, and one that knows no such table, reads the three others.
    schema = DELTA_SCHEMA if changes.erased else DELTA_SCHEMA.replace(_removed_numbers_sql(), "")
    write_database(path, schema, "", _tables(content, vectors, changes))
    manifest = {
        "from_version": before,
        "to_version": after,
        "checksums": {DELTA_DB: f"sha256:{sha256_file(path)}"},
    }
    write_atomically(directory / DELTA_MANIFEST, json.dumps(manifest, sort_keys=True, indent=2) + "\n")
    archive = directory.parent / delta_zip(before, after)
    pack_files(directory, archive)
    return archive


def _removed_numbers_sql() -> str:
    return f"CREATE TABLE {REMOVED_NUMBERS} (id INTEGER NOT NULL);\n"


def _tables(content: Content, vectors: Rounded, changes: Changes) -> Iterator[Table]:
    removed = ((gone.endpoint, gone.record, REMOVED, gone.merged_into) for gone in changes.gone)
    yield Table("performers", _REMOVED_COLUMNS, removed)
    yield Table("performers", _FILLED_COLUMNS, _performers(changes))
    yield Table("faces", _FACE_COLUMNS, _faces(content, vectors, changes))
    yield Table("removed_faces", ("embedding_index",), ((index,) for index in changes.gone_faces))
    if changes.erased:
        yield Table(REMOVED_NUMBERS, ("id",), ((number,) for number in changes.erased))


def _performers(changes: Changes) -> Iterator[tuple[object, ...]]:
    """The columns of a delta have the order of PERSONAL_FIELDS."""
    for row in changes.performers:
        aliases = json.dumps(row.aliases, ensure_ascii=False)
        images = json.dumps([{"url": row.image_url}], ensure_ascii=False)
        yield row.number, row.endpoint, row.record, UPSERTED, row.name, *row.fields, aliases, images


def _faces(content: Content, vectors: Rounded, changes: Changes) -> Iterator[tuple[object, ...]]:
    records = {row.number: (row.endpoint, row.record) for row in content.performers}
    for place, face in ((changed.place, changed.face) for changed in changes.faces):
        vector = widened(vectors[place]).astype("<f4").tobytes()
        shown = (face.image_url, face.quality, face.yaw, vector)
        yield face.embedding_index, *records[face.owner], *shown
