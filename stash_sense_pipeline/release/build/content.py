"""Reads the content of a release, except vectors, in one transaction."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.build.body_places import (
    NO_PLACES,
    BodyPlaces,
    RecordPlaces,
    StatedPlaces,
    merged_places,
)
from stash_sense_pipeline.release.build.content_rows import (
    Instant,
    Member,
    ReleasedFace,
    Rows,
    check_owners,
    read_pictures,
    read_rows,
)
from stash_sense_pipeline.release.build.face_order import FaceOrder
from stash_sense_pipeline.release.contract import PERSONAL_FIELDS, endpoint_rank
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY
from stash_sense_pipeline.sources.cleaning.text import without_entities

# Maps a profile URL to (site, id on that site), or None when the URL is not a person's profile.
ProfileKey = Callable[[str], tuple[str, str] | None]


# Made once: json.dumps with options makes an encoder a call, which takes longer than the encoding.
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
_FACES_A_DIGEST, _PERFORMERS_A_DIGEST = 1_000, 300


# What users see of a face: all fields but its id in the catalog and its record.
_shown_of_face = attrgetter("performer_id", "source", "image_url", "quality", "yaw")


class StashBoxId(NamedTuple):
    """A live stash-box record of a performer."""

    source: str
    source_id: str
    created_at: Instant | None


class ExternalUrl(NamedTuple):
    """A profile of a performer on a site, with its canonical key on that site."""

    site: str
    key: str
    url: str
    source: str
    created_at: Instant | None


class MergedId(NamedTuple):
    """A record that its stash-box merged into one of the performer's records."""

    source: str
    source_id: str


class ReleasedPerformer(NamedTuple):
    """A person with at least one trusted face. `fields` has the metadata columns of performers.db by name.

    Times are those that the sources state of the records; None where no source states one.
    """

    performer_id: int
    name: str
    fields: Mapping[str, str | int | None]
    stashdb_updated_at: Instant | None
    face_count: int
    image_url: str
    created_at: Instant | None
    updated_at: Instant | None
    stash_box_ids: tuple[StashBoxId, ...]
    aliases: tuple[tuple[str, str, Instant | None], ...]
    urls: tuple[ExternalUrl, ...]
    merged_ids: tuple[MergedId, ...]
    places: BodyPlaces = NO_PLACES


@dataclass(frozen=True)
class ReleaseContent:
    """Faces in release order, and performers by id."""

    faces: tuple[ReleasedFace, ...]
    performers: tuple[ReleasedPerformer, ...]

    @property
    def order(self) -> FaceOrder:
        """The order of the faces. Its digest must be that of the order in which the indices were built."""
        return FaceOrder(
            np.array([face.face_id for face in self.faces], dtype=np.int64),
            np.array([face.performer_id for face in self.faces], dtype=np.int64),
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Short names of all sources with a stash-box record or a face in the release, sorted."""
        names = {face.source for face in self.faces}
        names |= {box.source for performer in self.performers for box in performer.stash_box_ids}
        return tuple(sorted(names))

    @property
    def digest(self) -> str:
        """SHA-256 of what users see. Times are left out: an upstream edit often changes nothing else in a release."""
        state = hashlib.sha256()
        for start in range(0, len(self.faces), _FACES_A_DIGEST):
            faces = self.faces[start : start + _FACES_A_DIGEST]
            state.update(_canonical([_shown_of_face(face) for face in faces]))
        for start in range(0, len(self.performers), _PERFORMERS_A_DIGEST):
            performers = self.performers[start : start + _PERFORMERS_A_DIGEST]
            state.update(_canonical([_shown_of_performer(performer) for performer in performers]))
        return state.hexdigest()


def _shown_of_performer(performer: ReleasedPerformer) -> tuple[Any, ...]:
    ids = [(box.source, box.source_id) for box in performer.stash_box_ids]
    aliases = [(alias, source) for alias, source, _ in performer.aliases]
    urls = [(url.site, url.key, url.url, url.source) for url in performer.urls]
    merged = [(gone.source, gone.source_id) for gone in performer.merged_ids]
    person = (performer.performer_id, performer.name, performer.fields, performer.image_url)
    shown = (person, ids, aliases, urls, merged)
    places = {
        table: [(each.place, each.source) for each in listed] for table, listed in performer.places.items()
    }
    return (*shown, places) if places else shown


def _canonical(value: Any) -> bytes:
    return _ENCODER.encode(value).encode() + b"\n"


def read_content(
    engine: sa.Engine,
    hosts: Mapping[str, str],
    profile_key: ProfileKey | None = None,
    priority: Sequence[str] = ENDPOINT_PRIORITY,
) -> ReleaseContent:
    """Reads the content of a release. `hosts` maps each stash-box's short name to its universal-id host.

    `priority`: stash-boxes; a performer takes its name and its other fields from the first of these that has them.

    One transaction reads all rows but the image URLs of performers without a face from a stash-box, which a second one
    reads. No transaction is open while the content is put together. Without `profile_key` there are no external URLs.
    Raises ReleaseError when there are no faces, when a face belongs to a performer without a live stash-box record, or
    when a performer has no name.
    """
    reads = ShortReads(engine)
    with collector_paused():
        rows = reads(read_rows, hosts, with_urls=profile_key is not None)
        return _content(reads, rows, hosts, profile_key, priority)


@dataclass(frozen=True)
class _GroupedRows:
    """The rows by performer id or by record.

    `members` are sorted by priority of their sources, `faces` by rank. `pictures` has an image URL of the stash-box
    records of performers without a face from a stash-box.
    """

    hosts: Mapping[str, str]
    members: Mapping[int, Sequence[Member]]
    faces: Mapping[int, Sequence[ReleasedFace]]
    aliases: Mapping[RecordKey, Sequence[str]]
    urls: Mapping[int, tuple[ExternalUrl, ...]]
    merged: Mapping[int, tuple[MergedId, ...]]
    places: Mapping[RecordKey, RecordPlaces]
    pictures: Mapping[RecordKey, str]


def _content(
    reads: ShortReads,
    rows: Rows,
    hosts: Mapping[str, str],
    profile_key: ProfileKey | None,
    priority: Sequence[str],
) -> ReleaseContent:
    members = _members_by_priority(rows.members, hosts, priority)
    nameable = {number for number, known in members.items() if any(row.source in hosts for row in known)}
    check_owners(rows, nameable)
    by_performer: dict[int, list[ReleasedFace]] = defaultdict(list)
    for face in rows.faces:
        by_performer[face.performer_id].append(face)
    without_box_faces = _without_box_faces(by_performer, members, hosts)
    grouped = _GroupedRows(
        hosts=hosts,
        members=members,
        faces=by_performer,
        aliases=_texts_by_record(rows.aliases),
        urls=_external_urls(_texts_by_record(rows.urls), members, profile_key)
        if profile_key is not None
        else {},
        merged=_merged_ids(rows.merged_upstream, members),
        places=rows.places,
        pictures=reads(read_pictures, without_box_faces),
    )
    performers = tuple(_performer(performer_id, grouped) for performer_id in sorted(by_performer))
    return ReleaseContent(rows.faces, performers)


def _members_by_priority(
    members: Sequence[Member], hosts: Mapping[str, str], priority: Sequence[str]
) -> dict[int, list[Member]]:
    """The records of each performer, by priority of their sources."""
    found: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        found[member.performer_id].append(member)
    for rows in found.values():
        if len(rows) > 1:
            rows.sort(key=lambda row: (endpoint_rank(row.source, hosts, priority), row.source_id))
    return found


def _texts_by_record(rows: Sequence[tuple[str, str, str]]) -> dict[RecordKey, list[str]]:
    found: dict[RecordKey, list[str]] = defaultdict(list)
    for source, source_id, text in rows:
        found[source, source_id].append(text)
    for texts in found.values():
        texts.sort()
    return found


def _external_urls(
    listed: Mapping[RecordKey, Sequence[str]],
    members: Mapping[int, Sequence[Member]],
    profile_key: ProfileKey,
) -> dict[int, tuple[ExternalUrl, ...]]:
    by_key: dict[tuple[str, str], dict[int, ExternalUrl]] = defaultdict(dict)
    for performer_id, rows in sorted(members.items()):
        for row in rows:
            for url in listed.get((row.source, row.source_id), ()):
                key = profile_key(url)
                if key is not None:
                    external = ExternalUrl(*key, url, row.source, row.created_at)
                    by_key[key].setdefault(performer_id, external)
    found: dict[int, list[ExternalUrl]] = defaultdict(list)
    for _, holders in sorted(by_key.items()):
        # A profile that several people list is a shared page. It identifies no person, and the table allows one owner.
        if len(holders) == 1:
            ((performer_id, external),) = holders.items()
            found[performer_id].append(external)
    return {performer_id: tuple(urls) for performer_id, urls in found.items()}


def _merged_ids(
    gone: Mapping[RecordKey, str], members: Mapping[int, Sequence[Member]]
) -> dict[int, tuple[MergedId, ...]]:
    owner = {(row.source, row.source_id): number for number, rows in members.items() for row in rows}
    found: dict[int, list[MergedId]] = defaultdict(list)
    for (source, source_id), target in sorted(gone.items()):
        seen = {source_id}
        while (source, target) in gone and target not in seen:
            seen.add(target)
            target = gone[source, target]
        performer_id = owner.get((source, target))
        if performer_id is not None and (source, source_id) not in owner:
            found[performer_id].append(MergedId(source, source_id))
    return {performer_id: tuple(merged) for performer_id, merged in found.items()}


def _performer(performer_id: int, grouped: _GroupedRows) -> ReleasedPerformer:
    rows, own_faces = grouped.members[performer_id], grouped.faces[performer_id]
    names = [name for row in rows if (name := _clean(row.name or ""))]
    if not names:
        raise ReleaseError(
            f"performer {performer_id} has faces but no name in any record; refresh its sources"
        )
    boxes = [row for row in rows if row.source in grouped.hosts]
    return ReleasedPerformer(
        performer_id=performer_id,
        name=names[0],
        fields=_personal_fields(rows),
        stashdb_updated_at=next((row.updated_at for row in rows if row.source == "stashdb"), None),
        face_count=len(own_faces),
        image_url=_image_url(own_faces, boxes, grouped.pictures),
        created_at=min(filter(None, (row.created_at for row in rows)), default=None),
        updated_at=max(filter(None, (row.updated_at for row in rows)), default=None),
        stash_box_ids=tuple(StashBoxId(row.source, row.source_id, row.created_at) for row in boxes),
        aliases=_aliases(names[0], rows, grouped.aliases, grouped.hosts),
        urls=grouped.urls.get(performer_id, ()),
        merged_ids=grouped.merged.get(performer_id, ()),
        places=merged_places(
            [
                StatedPlaces(stated, row.source, row.created_at)
                for row in rows
                if (stated := grouped.places.get((row.source, row.source_id))) is not None
            ]
        ),
    )


def _clean(text: str) -> str:
    """The text without HTML entities, which some sources deliver in names, and without outer space."""
    return (without_entities(text) if "&" in text else text).strip()


def _personal_fields(rows: Sequence[Member]) -> dict[str, str | int | None]:
    """The PERSONAL_FIELDS, each from the first record that has a value."""
    fields: dict[str, str | int | None] = dict.fromkeys(PERSONAL_FIELDS)
    for row in reversed(rows):
        for field, value in zip(PERSONAL_FIELDS, row.known, strict=True):
            if value is not None and value != "":
                fields[field] = _clean(value) if isinstance(value, str) else int(value)
    return fields


def _aliases(
    name: str,
    rows: Sequence[Member],
    aliases: Mapping[RecordKey, Sequence[str]],
    hosts: Mapping[str, str],
) -> tuple[tuple[str, str, Instant | None], ...]:
    """The aliases and other names of all records without `name`, each with the first source that has it.

    An alias counts when a stash-box or a second source has it: a single site may list a legal name as a stage name.
    """
    found: dict[str, tuple[str, str, Instant | None]] = {}
    first_source: dict[str, str] = {}
    confirmed: set[str] = set()
    # Most people have records of stash-boxes only, which need no folding.
    folded = not all(row.source in hosts for row in rows)
    for row in rows:
        source = row.source
        for text in (row.name or "", *aliases.get((source, row.source_id), ())):
            alias = _clean(text)
            if folded:
                key = alias.casefold()
                if source in hosts or first_source.setdefault(key, source) != source:
                    confirmed.add(key)
            if alias and alias != name:
                found.setdefault(alias, (alias, source, row.created_at))
    return tuple(found[alias] for alias in sorted(found) if not folded or alias.casefold() in confirmed)


def _without_box_faces(
    by_performer: Mapping[int, Sequence[ReleasedFace]],
    members: Mapping[int, Sequence[Member]],
    hosts: Mapping[str, str],
) -> set[RecordKey]:
    """The stash-box records of performers without a face from one of their stash-boxes."""
    found: set[RecordKey] = set()
    for performer_id, own_faces in by_performer.items():
        boxes = [row for row in members[performer_id] if row.source in hosts]
        if {row.source for row in boxes}.isdisjoint(face.source for face in own_faces):
            found.update((row.source, row.source_id) for row in boxes)
    return found


def _image_url(
    own_faces: Sequence[ReleasedFace], boxes: Sequence[Member], pictures: Mapping[RecordKey, str]
) -> str:
    """The image of the best face from the performer's first stash-box that has one, else any image of a stash-box.

    Without either it is the image of the best face from any source. The sidecar needs a URL here: for a performer
    without one it asks the stash-box over the network at every match.
    """
    order = {row.source: place for place, row in reversed(list(enumerate(boxes)))}
    seen = [(order[face.source], place) for place, face in enumerate(own_faces) if face.source in order]
    if seen:
        return own_faces[min(seen)[1]].image_url
    listed = (pictures.get((row.source, row.source_id)) for row in boxes)
    return next((url for url in listed if url), own_faces[0].image_url)
