"""Pictures of a record with a face of another person: near that person's template, far from its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import trusted_faces as store
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, CollisionRow
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.identity.face_matching.calibration import BORDERLINE, MARGIN
from stash_sense_pipeline.identity.face_matching.template_set import above
from stash_sense_pipeline.identity.face_matching.trust_policy import TrustPolicy
from stash_sense_pipeline.identity.source_suggestions.identity_state import IdentityState
from stash_sense_pipeline.identity.source_suggestions.pair_facts import cosines, may_be_one_person
from stash_sense_pipeline.identity.source_suggestions.suggestion import Suggestion, SuggestionKind

Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]

# The vectors of two models with 512 dimensions of so many faces take 80 MB.
_FACES_AT_ONCE = 20_000
# A face must be nearer to the other person by this in every model, as for the collisions of trusted faces.
_NEARER_BY = TrustPolicy().collision_margin


def find_misplaced_pictures(
    reads: ShortReads, state: IdentityState, models: Mapping[str, str]
) -> list[Suggestion]:
    """The pictures with one face that show another person, by templates and by the stored collisions.

    A trusted face agrees with its own performer and is not compared again. Of the others, only those that are far from
    all templates of their own person are searched for among all templates. That search is exact: it costs the number of
    such faces times the number of records. A face of two records that may be one person shows that identity split the
    person: that is no mistake of the source. A picture with a verdict is decided and not listed. Without calibrated
    thresholds faces say nothing, and nothing is found.
    """
    if not state.calibration.thresholds:
        return []
    rows, trusted, collisions = reads(_read)
    decided = {verdict.image for verdict in state.overrides.face_verdicts}
    asked = [
        row for row in rows if row.source in state.boxes.sources and (row.source, row.image_id) not in decided
    ]
    found: dict[tuple[int, str], Suggestion] = {}
    for row in asked:
        collision = collisions.get(row.face_id)
        if collision is not None and _is_valid(state, row, collision):
            collided = _collided(state, row, collision)
            if not may_be_one_person(state, collided.record, collided.other):
                found[row.face_id, row.source_id] = collided
    unproven = [row for row in asked if (row.face_id, row.performer_id) not in trusted]
    search = _Search(state)
    for batch in batched(unproven, _FACES_AT_ONCE):
        for row, suggestion in search.suggestions(*_with_vectors(reads, batch, models)):
            found[row.face_id, row.source_id] = suggestion
    return list(found.values())


def _read(
    connection: sa.Connection,
) -> tuple[list[CandidateRow], set[tuple[int, int]], dict[int, CollisionRow]]:
    """The faces that are alone in their picture; (face_id, performer_id) of the trusted ones; the collisions."""
    rows = store.read_candidates(connection)
    shown = {(row.source, row.image_id, row.face_id) for row in rows}
    faces = Counter((source, image_id) for source, image_id, _ in shown)
    trusted = {(face_id, row.performer_id) for face_id, row in store.read_trusted(connection).items()}
    alone = [row for row in rows if faces[row.source, row.image_id] == 1]
    return alone, trusted, store.read_collisions(connection)


def _is_valid(state: IdentityState, row: CandidateRow, collision: CollisionRow) -> bool:
    """True when the face and the people of a stored collision are the same, and it is about as near as a match is."""
    if collision.nearer_similarity < _match_threshold(state) - BORDERLINE:
        return False
    same = collision[:3] == (row.performer_id, row.source, row.source_id)
    return same and collision.nearer_to in state.records_of and (row.source, row.source_id) in state.records


def _match_threshold(state: IdentityState) -> float:
    """The mean over the models, as collisions have it."""
    return float(np.mean([row.match_threshold for row in state.calibration.thresholds]))


def _collided(state: IdentityState, row: CandidateRow, collision: CollisionRow) -> Suggestion:
    own, near = collision.similarity, collision.nearer_similarity
    facts = (
        f"the face has cosine {near:.2f} to the faces of the other person",
        f"cosine {own:.2f} to the other faces of its own person",
    )
    other = state.nearest_to(row.source, state.records_of[collision.nearer_to])
    weights, matches = state.weights, near >= _match_threshold(state)
    score = weights.face_single if matches else weights.face_borderline
    return Suggestion(
        SuggestionKind.PICTURE, (row.source, row.source_id), other, facts, score, picture=row.image_id
    )


def _with_vectors(
    reads: ShortReads, rows: Sequence[CandidateRow], models: Mapping[str, str]
) -> tuple[list[CandidateRow], Vectors]:
    """The rows with usable vectors of every model, and the vectors (rows, dims of all models), unit in each model."""
    ids = sorted({row.face_id for row in rows})
    of_model = [reads(store.read_vectors, model, models[model], ids) for model in sorted(models)]
    known = [row for row in rows if all(row.face_id in vectors for vectors in of_model)]
    if not known:
        return [], np.zeros((0, 0), np.float32)
    stacks = [np.stack([vectors[row.face_id] for row in known]) for vectors in of_model]
    norms = [np.linalg.norm(stack, axis=1) for stack in stacks]
    usable = np.flatnonzero(np.all([np.isfinite(norm) & (norm > 0) for norm in norms], axis=0))
    units = [stack[usable] / norm[usable, None] for stack, norm in zip(stacks, norms, strict=True)]
    return [known[i] for i in usable.tolist()], np.concatenate(units, axis=1, dtype=np.float32)


@dataclass(frozen=True)
class _Match:
    """The nearest template of another person: its row, and the cosines of each model to it and to the own templates."""

    template: int
    near: Vectors
    own: Vectors


class _Search:
    """Compares faces with the templates of their own person, and those that are far from them with all templates."""

    def __init__(self, state: IdentityState) -> None:
        self._state = state
        self._limits = np.array([row.match_threshold for row in state.calibration.thresholds], np.float32)
        self._people = [state.person(key) for key in state.templates.records]
        self._own: dict[int | tuple[str, str], list[int]] = {}
        for template, person in enumerate(self._people):
            self._own.setdefault(person, []).append(template)

    def suggestions(
        self, rows: Sequence[CandidateRow], vectors: Vectors
    ) -> Iterator[tuple[CandidateRow, Suggestion]]:
        """The faces of `rows` that are another person's. `vectors` as `_with_vectors` returns them."""
        judged = [i for i, row in enumerate(rows) if row.performer_id in self._own]
        if not judged:
            return
        own = self._nearest_own([rows[i].performer_id for i in judged], vectors[judged])
        far = np.flatnonzero(np.all(own < self._limits - _NEARER_BY, axis=1))
        places = [judged[i] for i in far.tolist()]
        people = [rows[i].performer_id for i in places]
        for i, match in self._nearest_others(people, vectors[places], own[far]).items():
            row = rows[places[i]]
            nearest = self._state.templates.records[match.template]
            if not may_be_one_person(self._state, (row.source, row.source_id), nearest):
                yield row, self._suggestion(row, match)

    def _nearest_own(self, people: Sequence[int], vectors: Vectors) -> Vectors:
        """The highest cosine of each face to a template of its own person, (faces, models)."""
        own = [self._own[person] for person in people]
        starts = np.cumsum([0, *(len(each) for each in own)])[:-1]
        faces = np.repeat(np.arange(len(people)), [len(each) for each in own])
        templates = np.array([template for each in own for template in each], dtype=np.int64)
        return np.maximum.reduceat(self._cosines(vectors, faces, templates), starts, axis=0)

    def _nearest_others(self, people: Sequence[int], vectors: Vectors, own: Vectors) -> dict[int, _Match]:
        """Face to the template of another person that it matches, unless a third person's is about as near."""
        least = np.maximum(self._limits, own + np.float32(_NEARER_BY))
        # Products of blocks are not exact to the last bit.
        floor = (least.sum(axis=1) - 1e-4).astype(np.float32)
        templates = self._state.templates
        hits: dict[int, list[tuple[float, int, Vectors]]] = {}
        every = range(len(templates.records))
        for faces, found, _ in above(templates.vectors, range(len(vectors)), every, floor, vectors):
            near = self._cosines(vectors, faces, found)
            for hit in np.flatnonzero(np.all(near >= least[faces], axis=1)).tolist():
                face, template = int(faces[hit]), int(found[hit])
                if self._people[template] != people[face]:
                    value = round(float(near[hit].mean()), 5)
                    hits.setdefault(face, []).append((value, template, near[hit]))
        matches: dict[int, _Match] = {}
        for face, listed in sorted(hits.items()):
            value, template, near = min(listed, key=lambda hit: (-hit[0], hit[1]))
            person = self._people[template]
            if all(value - other >= MARGIN for other, row, _ in listed if self._people[row] != person):
                matches[face] = _Match(template, near, own[face])
        return matches

    def _cosines(self, vectors: Vectors, faces: Indices, templates: Indices) -> Vectors:
        """The cosines of pairs of faces and templates in each model, (pairs, models)."""
        models = self._state.templates.models
        width = vectors.shape[1] // len(models)
        found = np.empty((len(faces), len(models)), np.float32)
        for begin in range(0, len(faces), _FACES_AT_ONCE):
            part = slice(begin, begin + _FACES_AT_ONCE)
            for place in range(len(models)):
                ours = vectors[:, place * width : (place + 1) * width][faces[part]]
                theirs = self._state.templates.of_model(place)[templates[part]]
                found[part, place] = np.einsum("ij,ij->i", ours, theirs)
        return found

    def _suggestion(self, row: CandidateRow, match: _Match) -> Suggestion:
        state = self._state
        models, pictures = state.templates.models, int(state.templates.faces[match.template])
        nearest = state.templates.records[match.template]
        person = state.person(nearest)
        theirs = state.records_of[person] if isinstance(person, int) else (nearest,)
        other = state.nearest_to(row.source, theirs)
        source = ":".join(nearest)
        facts = (
            f"the face agrees with {pictures} {'picture' if pictures == 1 else 'pictures'} of {source}:"
            f" {cosines(models, match.near)}",
            f"its own person's pictures differ: {cosines(models, match.own)}",
        )
        weights = state.weights
        total = weights.face if pictures > 1 else weights.face_single
        unlike = np.array(state.calibration.mismatch_thresholds)
        if len(unlike) and np.all(match.own < unlike):
            total -= weights.face_differs
        return Suggestion(
            SuggestionKind.PICTURE,
            (row.source, row.source_id),
            other,
            facts,
            round(total, 3),
            picture=row.image_id,
        )
