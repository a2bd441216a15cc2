"""Cleans the faces of all people until nothing changes: first within each person, then between people.

The scheme is that of CAST (Zhu et al., WebFace260M, CVPR 2021): outliers within a person are removed, then faces that
belong to another person, and both again with the cleaner templates. Faces are only ever removed, so that it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, CollisionRow
from stash_sense_pipeline.catalog.queries.site_records import Rejection
from stash_sense_pipeline.identity.face_matching.accepted_faces import accept
from stash_sense_pipeline.identity.face_matching.collisions import FaceSum, FaceSums, Neighbours
from stash_sense_pipeline.identity.face_matching.performer_faces import LeftOut, PerformerFaces, Reason
from stash_sense_pipeline.identity.face_matching.shared_pictures import ShownPicture, copies_between_people
from stash_sense_pipeline.identity.face_matching.trust_policy import ChoiceRules, TrustPolicy
from stash_sense_pipeline.identity.face_matching.usable_faces import batches_with_vectors
from stash_sense_pipeline.records.record_key import RecordKey

# Two or three rounds are usual. Each reads all vectors, and late rounds remove a face here and there.
_MOST_ROUNDS = 8


@dataclass
class CleanFaces:
    """The faces left of each performer with their sums, what was found on the way, and the number of rounds.

    `rejected` are records of reference sites of which no face agrees with the performer's.
    """

    rows: dict[int, list[CandidateRow]] = field(default_factory=dict)
    sums: dict[int, FaceSum] = field(default_factory=dict)
    collisions: dict[int, CollisionRow] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    rounds: int = 0


@dataclass(frozen=True)
class _Round:
    """What a round compares: all faces with all templates, or in later rounds only what the one before `changed`."""

    sums: FaceSums
    before: FaceSums
    changed: Collection[int] | None = None

    def compare(self, batch: Sequence[PerformerFaces], near: Counter[int], policy: TrustPolicy) -> Neighbours:
        """Compares a batch, and brings `near`, the number of people near each face, up to date for its faces."""
        if self.changed is None:
            found = self.sums.compare(self.sums.compared(batch, policy), policy)
            near.update(found.near)
            return found
        fresh = [each for each in batch if each.rows[0].performer_id in self.changed]
        known = [each for each in batch if each.rows[0].performer_id not in self.changed]
        for each in fresh:
            for row in each.rows:
                near.pop(row.face_id, None)
        # The sums of performers without a change are those of the round before.
        faces = self.sums.compared(known, policy)
        near.subtract(self.before.compare(faces, policy, self.changed).near)
        found = self.sums.compare(faces, policy, self.changed)
        found.update(self.sums.compare(self.sums.compared(fresh, policy), policy))
        near.update(found.near)
        return found


@dataclass(frozen=True)
class _Acceptance:
    """Accepts faces within each person. `left_out` gets the others."""

    reads: ShortReads
    rules: ChoiceRules
    unproven: frozenset[RecordKey]
    left_out: LeftOut

    def keep(
        self,
        people: CleanFaces,
        rows: Mapping[int, list[CandidateRow]],
        rejected: list[Rejection] | None = None,
    ) -> None:
        """Adds the faces of each performer that agree with each other."""
        for performer in self.with_vectors(rows):
            found = accept(performer, self.rules, self.left_out, self.unproven, rejected)
            if found.rows:
                performer_id = found.rows[0].performer_id
                people.rows[performer_id], people.sums[performer_id] = found.rows, FaceSum.of(found)

    def keep_only(self, people: CleanFaces, left: Mapping[int, list[CandidateRow]]) -> None:
        """Replaces the faces of some performers by those of the ones `left` that agree with each other."""
        for performer_id in left:
            del people.rows[performer_id], people.sums[performer_id]
        self.keep(people, {performer_id: rows for performer_id, rows in left.items() if rows})
        people.rows = dict(sorted(people.rows.items()))

    def with_vectors(self, rows: Mapping[int, list[CandidateRow]]) -> Iterator[PerformerFaces]:
        """The performers with the vectors of these faces."""
        for batch in self.batches(rows):
            yield from batch

    def batches(self, rows: Mapping[int, list[CandidateRow]]) -> Iterator[list[PerformerFaces]]:
        """The performers with the vectors of these faces, in batches."""
        return batches_with_vectors(self.reads, rows, self.rules.models, self.left_out)


def clean(
    reads: ShortReads,
    usable: Mapping[int, list[CandidateRow]],
    rules: ChoiceRules,
    unproven: frozenset[RecordKey],
    left_out: LeftOut,
) -> CleanFaces:
    """The usable faces without outliers, faces of other people and hubs, at a fixed point.

    Each round removes what the templates of the round before show, and accepts the faces again of those who lost one.
    It ends with the first round that removes nothing, and after some rounds in any case. The vectors are read in each
    round, so that only those of one batch are in memory.
    """
    people = CleanFaces()
    acceptance = _Acceptance(reads, rules, unproven, left_out)
    acceptance.keep(people, usable, people.rejected if rules.sites else None)
    acceptance.keep_only(people, _without_copies(people, acceptance))
    hub_limit = max(rules.policy.hub_people, rules.policy.hub_share * len(people.rows))
    near: Counter[int] = Counter()
    sums = FaceSums.of(people.sums)
    work = _Round(sums, sums)
    while people.rounds < _MOST_ROUNDS:
        people.rounds += 1
        left: dict[int, list[CandidateRow]] = {}
        for batch in acceptance.batches(people.rows):
            found = work.compare(batch, near, rules.policy)
            asked = (row.face_id for performer in batch for row in performer.rows)
            hubs = {face_id: near[face_id] for face_id in asked if near[face_id] >= hub_limit}
            found.collisions = {
                face_id: row for face_id, row in found.collisions.items() if face_id not in hubs
            }
            people.collisions.update(found.collisions)
            for performer in batch:
                kept = _own_faces(performer, found, hubs, left_out)
                if len(kept) < len(performer.rows):
                    left[performer.rows[0].performer_id] = kept
        if not left:
            break
        acceptance.keep_only(people, left)
        work = _Round(FaceSums.of(people.sums), work.sums, left.keys())
    return people


def _without_copies(people: CleanFaces, acceptance: _Acceptance) -> dict[int, list[CandidateRow]]:
    """The rows of the performers who lose a copy: a picture stays with the one with the most similar other faces.

    In one source people with one picture are two, and usable_faces leaves the picture out. In several sources they are
    often one person who is not joined yet. So the picture stays once: of equal ones, with the lower performer id.
    """
    rows = [row for listed in people.rows.values() for row in listed]
    shown = [ShownPicture(row.source, row.image_id, row.performer_id, None, row.picture_hash) for row in rows]
    group_of = {
        rows[place].face_id: number
        for number, group in enumerate(copies_between_people(shown))
        for place in group
    }
    involved = sorted({row.performer_id for row in rows if row.face_id in group_of})
    best: dict[int, tuple[float, int]] = {}
    for performer in acceptance.with_vectors({each: people.rows[each] for each in involved}):
        for number, support in _support(performer, group_of).items():
            mine = (support, -performer.rows[0].performer_id)
            best[number] = max(mine, best.get(number, mine))
    left: dict[int, list[CandidateRow]] = {}
    for performer_id in involved:
        lost = [
            row
            for row in people.rows[performer_id]
            if row.face_id in group_of and -best[group_of[row.face_id]][1] != performer_id
        ]
        for row in lost:
            acceptance.left_out.add(row, Reason.COPY)
        if lost:
            left[performer_id] = [row for row in people.rows[performer_id] if row not in lost]
    return left


def _support(performer: PerformerFaces, group_of: Mapping[int, int]) -> dict[int, float]:
    """For each group of copies, the mean cosine of its faces to the performer's faces in other pictures; -1 without."""
    found: dict[int, float] = {}
    numbers = [group_of.get(row.face_id) for row in performer.rows]
    for number in sorted({each for each in numbers if each is not None}):
        inside = [i for i, each in enumerate(numbers) if each == number]
        outside = [i for i, each in enumerate(numbers) if each != number]
        found[number] = (
            round(float(np.mean([model[inside] @ model[outside].T for model in performer.vectors])), 4)
            if outside
            else -1.0
        )
    return found


def _own_faces(
    performer: PerformerFaces, found: Neighbours, hubs: Mapping[int, int], left_out: LeftOut
) -> list[CandidateRow]:
    """The rows of a performer without hubs and collisions, which are added to `left_out`."""
    kept: list[CandidateRow] = []
    for row in performer.rows:
        if row.face_id in hubs:
            left_out.add(row, Reason.HUB, hubs[row.face_id])
        elif row.face_id in found.collisions:
            left_out.add(row, Reason.COLLISION)
        else:
            kept.append(row)
    return kept
