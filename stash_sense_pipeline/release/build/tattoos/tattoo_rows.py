"""The tattoos of a release: which of the catalog's are in it, and the rows of performers.db about them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import streamed
from stash_sense_pipeline.catalog.queries.tattoos.released import (
    SearchedPerson,
    TattooRow,
    searched_people,
    tattoos_of_trusted_faces,
)
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels
from stash_sense_pipeline.catalog.schema import tattoo_embeddings, tattoo_scans, trusted_faces
from stash_sense_pipeline.release.contract import SIDECAR_TATTOO_K

# Of numbers in detections_json. A pixel of the largest pictures is 0.00005 of their width.
_DECIMALS = 6
_UNKNOWN_PLACE = "unknown"


@dataclass(frozen=True)
class TattooSpec:
    """Tattoos of a release: the pack and the networks that made them, and the share of searched people that is required.

    `min_coverage`: from 0 to 1, see ReleasedTattoos.coverage.
    """

    pack: str
    models: TattooModels
    min_coverage: float


class TattooDetections(NamedTuple):
    """A row of the table tattoo_detections: a person with at least one searched picture."""

    performer_id: int
    has_tattoos: int
    confidence: float
    detections_json: str


@dataclass(frozen=True)
class ReleasedTattoos:
    """The tattoos in pictures of trusted faces. Position i of the tattoo index is `entries[i]`.

    `detections`: one row for each person with a searched picture. `people`: everyone with trusted faces. `searched`: those
    of them with a searched picture and without a tattoo that waits for its vector. `waiting`: tattoos without a vector.
    `searched_faces`: the faces with a searched picture without a waiting tattoo. `left_out`: why the release has no
    tattoos; None when it has them.
    """

    entries: tuple[TattooRow, ...]
    detections: tuple[TattooDetections, ...]
    people: int
    searched: int
    waiting: int
    searched_faces: frozenset[int]
    left_out: str | None

    @property
    def coverage(self) -> float:
        """The share of people who are searched. The sidecar lowers the scores of people without an entry."""
        return self.searched / self.people if self.people else 0.0

    @property
    def digest(self) -> str | None:
        """SHA-256 of the entries without their vectors, and of the rows of performers.db. None when they are left out."""
        if self.left_out is not None:
            return None
        state = hashlib.sha256()
        for entry in self.entries:
            state.update(f"{(entry.performer_id, entry.source, entry.image_id)}\n".encode())
        for row in self.detections:
            state.update(f"{row}\n".encode())
        return state.hexdigest()


def read_tattoos(connection: sa.Connection, spec: TattooSpec | None) -> ReleasedTattoos:
    """The tattoos that the networks of `spec` found and embedded. Without `spec` the release has none."""
    if spec is None:
        return ReleasedTattoos(
            (), (), 0, 0, 0, frozenset(), "faces.tattoos is off, or the model pack has no tattoo networks"
        )
    rows = tattoos_of_trusted_faces(connection, spec.models.detector)
    people = searched_people(connection, spec.models.detector)
    embedded = _embedded(connection, spec)
    entries = tuple(row for row in rows if row.tattoo_id in embedded)
    waiting = [row for row in rows if row.tattoo_id not in embedded]
    unfinished = {row.performer_id for row in waiting}
    searched = sum(person.searched > 0 and person.performer_id not in unfinished for person in people)
    return ReleasedTattoos(
        entries=entries,
        detections=tuple(_detections(people, rows)),
        people=len(people),
        searched=searched,
        waiting=len(waiting),
        searched_faces=_searched_faces(connection, spec) - {row.face_id for row in waiting},
        left_out=_reason(len(entries), searched, len(people), spec.min_coverage),
    )


def _reason(entries: int, searched: int, people: int, min_coverage: float) -> str | None:
    if searched < min_coverage * people:
        return (
            f"pictures of {searched} of {people} people are searched for tattoos, and "
            f"export.min_tattoo_coverage is {min_coverage}; run aligned_faces and tattoo_embeddings"
        )
    if entries < SIDECAR_TATTOO_K:
        return f"{entries} tattoos are embedded, and the sidecar asks for {SIDECAR_TATTOO_K} in every query"
    return None


def _embedded(connection: sa.Connection, spec: TattooSpec) -> frozenset[int]:
    made_here = (tattoo_embeddings.c.model_digest == spec.models.embedder) & (
        tattoo_embeddings.c.pack == spec.pack
    )
    query = sa.select(tattoo_embeddings.c.tattoo_id).where(made_here)
    return frozenset(tattoo_id for (tattoo_id,) in streamed(connection, query))


def _searched_faces(connection: sa.Connection, spec: TattooSpec) -> frozenset[int]:
    query = (
        sa.select(tattoo_scans.c.face_id)
        .join(trusted_faces, trusted_faces.c.face_id == tattoo_scans.c.face_id)
        .where(tattoo_scans.c.detector_digest == spec.models.detector, tattoo_scans.c.tattoos.is_not(None))
    )
    return frozenset(face_id for (face_id,) in streamed(connection, query))


def _detections(people: Sequence[SearchedPerson], rows: Sequence[TattooRow]) -> Iterable[TattooDetections]:
    found: Mapping[int, list[TattooRow]] = defaultdict(list)
    for row in rows:
        found[row.performer_id].append(row)
    for person in people:
        if person.searched:
            own = found[person.performer_id]
            yield TattooDetections(
                person.performer_id,
                int(bool(own)),
                round(max((row.confidence for row in own), default=0.0), _DECIMALS),
                json.dumps([_as_read(row) for row in own], separators=(",", ":"), sort_keys=True),
            )


def _as_read(row: TattooRow) -> dict[str, object]:
    """A detection as the sidecar's reader expects it: the box is 0..1 of the picture."""
    box = {"x": row.x, "y": row.y, "w": row.width, "h": row.height}
    return {
        "bbox": {side: round(value, _DECIMALS) for side, value in box.items()},
        "confidence": round(row.confidence, _DECIMALS),
        "location_hint": row.location_hint or _UNKNOWN_PLACE,
    }
