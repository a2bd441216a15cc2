"""Reads the content of a release, except vectors, in one transaction."""

from __future__ import annotations

import hashlib
import html
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads, streamed
from stash_sense_pipeline.catalog.key_filters import of_records
from stash_sense_pipeline.catalog.schema import (
    faces,
    identities,
    identity_members,
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
    trusted_faces,
)
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.build.face_order import FaceOrder, read_face_order
from stash_sense_pipeline.release.contract import PERSONAL_FIELDS, endpoint_rank

# Maps a profile URL to (site, id on that site), or None when the URL names nobody.
ProfileKey = Callable[[str], tuple[str, str] | None]


# Times as the catalog stores them, `2026-01-31T04:05:06.000007Z`: their order is that of the texts, and to read some
# hundred thousand only to write them again is a tenth of the work.
Instant = str

# Made once: json.dumps with options makes one a call, which takes longer than its work.
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
_FACES_A_DIGEST, _PERFORMERS_A_DIGEST = 1_000, 300


class ReleasedFace(NamedTuple):
    """A trusted face; its position in ReleaseContent.faces is its id in every file of the release."""

    face_id: int
    performer_id: int
    source: str
    source_id: str
    image_url: str
    quality: float
    yaw: float
    created_at: Instant


# What users would see of a face: all but its time and its record.
_news = attrgetter("face_id", "performer_id", "source", "image_url", "quality", "yaw")


class _Member(NamedTuple):
    """A live record of a performer. `known` has the values of PERSONAL_FIELDS, of which the first record's count."""

    performer_id: int
    source: str
    source_id: str
    name: str | None
    updated_at: Instant | None
    first_seen_at: Instant
    changed_at: Instant
    known: tuple[str | int | None, ...]


_BEFORE_KNOWN = len(_Member._fields) - 1


class StashBoxId(NamedTuple):
    """A live stash-box record of a performer."""

    source: str
    source_id: str
    created_at: Instant


class ExternalUrl(NamedTuple):
    """A profile of a performer on a site, under its canonical key there."""

    site: str
    key: str
    url: str
    source: str
    created_at: Instant


class MergedId(NamedTuple):
    """A record that its stash-box merged into one of the performer's records."""

    source: str
    source_id: str
    merged_at: Instant | None


class ReleasedPerformer(NamedTuple):
    """A person with at least one trusted face. `fields` has the metadata columns of performers.db by name."""

    performer_id: int
    name: str
    fields: Mapping[str, str | int | None]
    stashdb_updated_at: Instant | None
    face_count: int
    image_url: str
    created_at: Instant
    updated_at: Instant
    stash_box_ids: tuple[StashBoxId, ...]
    aliases: tuple[tuple[str, str, Instant], ...]
    urls: tuple[ExternalUrl, ...]
    merged_ids: tuple[MergedId, ...]


@dataclass(frozen=True)
class ReleaseContent:
    """Faces in release order, performers by id, and the newest instant at which any of it changed."""

    faces: tuple[ReleasedFace, ...]
    performers: tuple[ReleasedPerformer, ...]
    newest_change: Instant

    @property
    def order(self) -> FaceOrder:
        """The same order as the indices were built in, to compare digests."""
        return FaceOrder(
            np.array([face.face_id for face in self.faces], dtype=np.int64),
            np.array([face.performer_id for face in self.faces], dtype=np.int64),
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Short names of all sources that gave a record or a face, sorted."""
        names = {face.source for face in self.faces}
        names |= {box.source for performer in self.performers for box in performer.stash_box_ids}
        return tuple(sorted(names))

    @property
    def digest(self) -> str:
        """SHA-256 of what users would see change. Times are left out: an upstream edit of nothing we ship is no news."""
        state = hashlib.sha256()
        for start in range(0, len(self.faces), _FACES_A_DIGEST):
            faces = self.faces[start : start + _FACES_A_DIGEST]
            state.update(_canonical([_news(face) for face in faces]))
        for start in range(0, len(self.performers), _PERFORMERS_A_DIGEST):
            performers = self.performers[start : start + _PERFORMERS_A_DIGEST]
            state.update(_canonical([_seen(performer) for performer in performers]))
        return state.hexdigest()


def _seen(performer: ReleasedPerformer) -> tuple[Any, ...]:
    ids = [(box.source, box.source_id) for box in performer.stash_box_ids]
    aliases = [(alias, source) for alias, source, _ in performer.aliases]
    urls = [(url.site, url.key, url.url, url.source) for url in performer.urls]
    merged = [(gone.source, gone.source_id) for gone in performer.merged_ids]
    person = (performer.performer_id, performer.name, performer.fields, performer.image_url)
    return person, ids, aliases, urls, merged


def _canonical(value: Any) -> bytes:
    return _ENCODER.encode(value).encode() + b"\n"


def read_content(
    engine: sa.Engine, hosts: Mapping[str, str], profile_key: ProfileKey | None = None
) -> ReleaseContent:
    """Reads the content of a release. `hosts` maps each stash-box's short name to its universal-id host.

    All rows are of one state of the catalog, but for the pictures of performers of whom no stash-box gave a face; no
    transaction is open while the content is made of them. Without `profile_key` no external URLs are given. Raises
    ReleaseError when there are no faces, when a face belongs to a person without a live stash-box record, or when a
    person has no name.
    """
    reads = ShortReads(engine)
    with collector_paused():
        return _content(
            reads, reads(_read_rows, hosts, with_urls=profile_key is not None), hosts, profile_key
        )


@dataclass(frozen=True)
class _Rows:
    """What the catalog holds of performers with trusted faces, as it was read. `gone`: records merged upstream."""

    faces: tuple[ReleasedFace, ...]
    members: Sequence[_Member]
    owners: Mapping[RecordKey, int]
    aliases: Sequence[tuple[str, str, str]]
    urls: Sequence[tuple[str, str, str]]
    gone: Mapping[RecordKey, tuple[str, Instant | None]]
    created: Mapping[int, Instant]


def _read_rows(connection: sa.Connection, hosts: Mapping[str, str], *, with_urls: bool) -> _Rows:
    return _Rows(
        faces=_read_faces(connection),
        members=_read_members(connection),
        owners=_read_owners(connection),
        aliases=_read_strings(connection, performer_aliases.c.alias),
        urls=_read_strings(connection, performer_urls.c.url) if with_urls else (),
        gone=_read_gone(connection, hosts),
        created=_read_created(connection),
    )


def _content(
    reads: ShortReads, rows: _Rows, hosts: Mapping[str, str], profile_key: ProfileKey | None
) -> ReleaseContent:
    members = _by_priority(rows.members, hosts)
    _check_owners(rows, members, hosts)
    aliases = _by_record(rows.aliases)
    urls = _external_urls(_by_record(rows.urls), members, profile_key) if profile_key is not None else {}
    merged = _merged_ids(rows.gone, members)
    by_performer: dict[int, list[ReleasedFace]] = defaultdict(list)
    for face in rows.faces:
        by_performer[face.performer_id].append(face)
    elsewhere = _without_box_faces(by_performer, members, hosts)
    pictures = reads(_read_pictures, elsewhere)
    performers = tuple(
        _performer(
            performer_id,
            members[performer_id],
            own_faces,
            rows.created[performer_id],
            hosts,
            aliases,
            urls.get(performer_id, ()),
            merged.get(performer_id, ()),
            pictures,
        )
        for performer_id, own_faces in sorted(by_performer.items())
    )
    changes = [moment for performer in performers for moment in (performer.created_at, performer.updated_at)]
    newest = max(*changes, *(face.created_at for face in rows.faces))
    return ReleaseContent(rows.faces, performers, newest)


def _read_faces(connection: sa.Connection) -> tuple[ReleasedFace, ...]:
    query = (
        sa.select(
            trusted_faces.c.face_id,
            trusted_faces.c.performer_id,
            trusted_faces.c.source,
            trusted_faces.c.source_id,
            source_images.c.url,
            faces.c.quality,
            faces.c.yaw,
            _instant(faces.c.created_at),
        )
        .join(faces, faces.c.face_id == trusted_faces.c.face_id)
        .join(
            source_images,
            (source_images.c.source == faces.c.source) & (source_images.c.image_id == faces.c.image_id),
        )
        .order_by(trusted_faces.c.performer_id, trusted_faces.c.rank, trusted_faces.c.face_id)
    )
    released = tuple(map(ReleasedFace._make, streamed(connection, query)))
    if not released:
        # Also where nothing is trusted: that says what to do.
        read_face_order(connection)
    if (
        len(released)
        != connection.execute(sa.select(sa.func.count()).select_from(trusted_faces)).scalar_one()
    ):
        raise ReleaseError("some trusted faces have lost their image record; run trusted_faces again")
    return released


def _read_created(connection: sa.Connection) -> dict[int, Instant]:
    query = sa.select(identities.c.performer_id, _instant(identities.c.created_at)).where(
        identities.c.performer_id.in_(_trusted_performers())
    )
    return dict(streamed(connection, query))


def _instant(column: sa.Column[Any]) -> sa.Label[Instant]:
    return sa.type_coerce(column, sa.Text).label(column.name)


def _trusted_performers() -> sa.Select[tuple[int]]:
    return sa.select(trusted_faces.c.performer_id).distinct()


def _members_with_faces() -> sa.ColumnElement[bool]:
    return identity_members.c.performer_id.in_(_trusted_performers())


def _read_members(connection: sa.Connection) -> list[_Member]:
    """Live records of every performer with faces."""
    columns = source_performers.c
    query = (
        sa.select(
            identity_members.c.performer_id,
            columns.source,
            columns.source_id,
            columns.name,
            _instant(columns.updated_at),
            _instant(columns.first_seen_at),
            _instant(columns.changed_at),
            *(columns[name] for name in PERSONAL_FIELDS),
        )
        .join(
            source_performers,
            (source_performers.c.source == identity_members.c.source)
            & (source_performers.c.source_id == identity_members.c.source_id),
        )
        .where(_members_with_faces(), source_performers.c.deleted_at.is_(None))
    )
    return [
        _Member._make((*row[:_BEFORE_KNOWN], tuple(row[_BEFORE_KNOWN:])))
        for row in streamed(connection, query)
    ]


def _by_priority(members: Sequence[_Member], hosts: Mapping[str, str]) -> dict[int, list[_Member]]:
    """The records of each performer, by priority of their sources."""
    found: dict[int, list[_Member]] = defaultdict(list)
    for member in members:
        found[member.performer_id].append(member)
    for rows in found.values():
        if len(rows) > 1:
            rows.sort(key=lambda row: (endpoint_rank(row.source, hosts), row.source_id))
    return found


def _read_owners(connection: sa.Connection) -> dict[RecordKey, int]:
    query = sa.select(
        identity_members.c.source, identity_members.c.source_id, identity_members.c.performer_id
    ).where(_members_with_faces())
    return {(source, source_id): number for source, source_id, number in streamed(connection, query)}


def _check_owners(rows: _Rows, members: Mapping[int, Sequence[_Member]], hosts: Mapping[str, str]) -> None:
    nameable = {number for number, known in members.items() if any(row.source in hosts for row in known)}
    for face in rows.faces:
        if face.performer_id not in nameable:
            raise ReleaseError(
                f"face {face.face_id} belongs to performer {face.performer_id}, who has no live record in a configured "
                "stash-box; run identity_graph and trusted_faces again"
            )
        if rows.owners.get((face.source, face.source_id)) != face.performer_id:
            raise ReleaseError(
                f"face {face.face_id} is trusted for performer {face.performer_id}, but its record "
                f"{face.source}:{face.source_id} is not theirs now; run trusted_faces again"
            )


def _read_strings(connection: sa.Connection, column: sa.Column[str]) -> list[tuple[str, str, str]]:
    table = column.table
    query = (
        sa.select(table.c.source, table.c.source_id, column)
        .join(
            identity_members,
            (identity_members.c.source == table.c.source)
            & (identity_members.c.source_id == table.c.source_id),
        )
        .where(_members_with_faces())
    )
    return [(source, source_id, text) for source, source_id, text in streamed(connection, query)]


def _by_record(rows: Sequence[tuple[str, str, str]]) -> dict[RecordKey, list[str]]:
    found: dict[RecordKey, list[str]] = defaultdict(list)
    for source, source_id, text in rows:
        found[source, source_id].append(text)
    for texts in found.values():
        texts.sort()
    return found


def _external_urls(
    listed: Mapping[RecordKey, Sequence[str]],
    members: Mapping[int, Sequence[_Member]],
    profile_key: ProfileKey,
) -> dict[int, tuple[ExternalUrl, ...]]:
    by_key: dict[tuple[str, str], dict[int, ExternalUrl]] = defaultdict(dict)
    for performer_id, rows in sorted(members.items()):
        for row in rows:
            for url in listed.get((row.source, row.source_id), ()):
                key = profile_key(url)
                if key is not None:
                    external = ExternalUrl(*key, url, row.source, row.first_seen_at)
                    by_key[key].setdefault(performer_id, external)
    found: dict[int, list[ExternalUrl]] = defaultdict(list)
    for _, holders in sorted(by_key.items()):
        # A profile that several people list is a shared page: it identifies nobody, and the table wants one owner.
        if len(holders) == 1:
            ((performer_id, external),) = holders.items()
            found[performer_id].append(external)
    return {performer_id: tuple(urls) for performer_id, urls in found.items()}


def _read_gone(
    connection: sa.Connection, hosts: Mapping[str, str]
) -> dict[RecordKey, tuple[str, Instant | None]]:
    columns = source_performers.c
    query = sa.select(
        columns.source, columns.source_id, columns.merged_into, _instant(columns.deleted_at)
    ).where(columns.merged_into.is_not(None), columns.source.in_(sorted(hosts)))
    return {
        (source, source_id): (target, deleted_at)
        for source, source_id, target, deleted_at in streamed(connection, query)
    }


def _merged_ids(
    gone: Mapping[RecordKey, tuple[str, Instant | None]], members: Mapping[int, Sequence[_Member]]
) -> dict[int, tuple[MergedId, ...]]:
    owner = {(row.source, row.source_id): number for number, rows in members.items() for row in rows}
    found: dict[int, list[MergedId]] = defaultdict(list)
    for (source, source_id), (target, deleted_at) in sorted(gone.items()):
        seen = {source_id}
        while (source, target) in gone and target not in seen:
            seen.add(target)
            target = gone[source, target][0]
        performer_id = owner.get((source, target))
        if performer_id is not None and (source, source_id) not in owner:
            found[performer_id].append(MergedId(source, source_id, deleted_at))
    return {performer_id: tuple(merged) for performer_id, merged in found.items()}


def _performer(
    performer_id: int,
    rows: Sequence[_Member],
    own_faces: Sequence[ReleasedFace],
    created_at: Instant,
    hosts: Mapping[str, str],
    aliases: Mapping[RecordKey, Sequence[str]],
    urls: tuple[ExternalUrl, ...],
    merged: tuple[MergedId, ...],
    pictures: Mapping[RecordKey, str],
) -> ReleasedPerformer:
    names = [name for row in rows if (name := _clean(row.name or ""))]
    if not names:
        raise ReleaseError(
            f"performer {performer_id} has faces but no name in any record; refresh its sources"
        )
    boxes = [row for row in rows if row.source in hosts]
    return ReleasedPerformer(
        performer_id=performer_id,
        name=names[0],
        fields=_first_known(rows),
        stashdb_updated_at=next((row.updated_at for row in rows if row.source == "stashdb"), None),
        face_count=len(own_faces),
        image_url=_image_url(own_faces, boxes, pictures),
        created_at=created_at,
        updated_at=max(row.changed_at for row in rows),
        stash_box_ids=tuple(StashBoxId(row.source, row.source_id, row.first_seen_at) for row in boxes),
        aliases=_aliases(names[0], rows, aliases, hosts),
        urls=urls,
        merged_ids=merged,
    )


def _clean(text: str) -> str:
    """Some sources deliver HTML entities in names; people read these."""
    return (html.unescape(text) if "&" in text else text).strip()


def _first_known(rows: Sequence[_Member]) -> dict[str, str | int | None]:
    """The fields of PERSONAL_FIELDS, each from the first record that has it."""
    fields: dict[str, str | int | None] = dict.fromkeys(PERSONAL_FIELDS)
    for row in reversed(rows):
        for field, value in zip(PERSONAL_FIELDS, row.known, strict=True):
            if value is not None and value != "":
                fields[field] = _clean(value) if isinstance(value, str) else int(value)
    return fields


def _aliases(
    name: str,
    rows: Sequence[_Member],
    aliases: Mapping[RecordKey, Sequence[str]],
    hosts: Mapping[str, str],
) -> tuple[tuple[str, str, Instant], ...]:
    """Aliases and other names of all records but the name itself, each with the best source that has it.

    Only what a stash-box lists or a second source has: one site alone may take a legal name for a stage name.
    """
    found: dict[str, tuple[str, str, Instant]] = {}
    first_said_by: dict[str, str] = {}
    believed: set[str] = set()
    for row in rows:
        source = row.source
        for text in (row.name or "", *aliases.get((source, row.source_id), ())):
            alias = _clean(text)
            folded = alias.casefold()
            if source in hosts or first_said_by.setdefault(folded, source) != source:
                believed.add(folded)
            if alias and alias != name:
                found.setdefault(alias, (alias, source, row.first_seen_at))
    return tuple(found[alias] for alias in sorted(found) if alias.casefold() in believed)


def _without_box_faces(
    by_performer: Mapping[int, Sequence[ReleasedFace]],
    members: Mapping[int, Sequence[_Member]],
    hosts: Mapping[str, str],
) -> set[RecordKey]:
    """The stash-box records of performers who have no face of a stash-box of theirs."""
    found: set[RecordKey] = set()
    for performer_id, own_faces in by_performer.items():
        boxes = [row for row in members[performer_id] if row.source in hosts]
        if {row.source for row in boxes}.isdisjoint(face.source for face in own_faces):
            found.update((row.source, row.source_id) for row in boxes)
    return found


def _read_pictures(connection: sa.Connection, records: Collection[RecordKey]) -> dict[RecordKey, str]:
    """The first URL of the pictures of each record that has some."""
    shown = performer_images.c
    query = (
        sa.select(shown.source, shown.source_id, sa.func.min(source_images.c.url))
        .join(
            source_images,
            (shown.source == source_images.c.source) & (shown.image_id == source_images.c.image_id),
        )
        .group_by(shown.source, shown.source_id)
    )
    return {
        (source, source_id): url
        for some in of_records(shown.source, shown.source_id, records)
        for source, source_id, url in connection.execute(query.where(some))
    }


def _image_url(
    own_faces: Sequence[ReleasedFace], boxes: Sequence[_Member], pictures: Mapping[RecordKey, str]
) -> str:
    """Picture of the best face from the record that names the person, else from another stash-box, else any picture there.

    The sidecar asks a stash-box over the network, once a match, wherever this is missing.
    """
    order = {row.source: place for place, row in reversed(list(enumerate(boxes)))}
    seen = [(order[face.source], place) for place, face in enumerate(own_faces) if face.source in order]
    if seen:
        return own_faces[min(seen)[1]].image_url
    listed = (pictures.get((row.source, row.source_id)) for row in boxes)
    return next((url for url in listed if url), own_faces[0].image_url)
