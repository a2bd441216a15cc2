"""Cleans the faces of all people until nothing changes: first within each person, then between people.

The scheme is that of CAST (Zhu et al., WebFace260M, CVPR 2021): outliers within a person are removed, then faces that
belong to another person, and both again with the cleaner templates. Faces are only ever removed, so that it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, CollisionRow
from stash_sense_pipeline.catalog.queries.site_records import Rejection
from stash_sense_pipeline.identity.face_matching.accepted_faces import accept
from stash_sense_pipeline.identity.face_matching.collisions import FaceSum, FaceSums, Neighbours
from stash_sense_pipeline.identity.face_matching.performer_faces import LeftOut, PerformerFaces, Reason
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
            found = self.sums.compare(batch, policy)
            near.update(found.near)
            return found
        fresh = [each for each in batch if each.rows[0].performer_id in self.changed]
        known = [each for each in batch if each.rows[0].performer_id not in self.changed]
        for each in fresh:
            for row in each.rows:
                near.pop(row.face_id, None)
        near.subtract(self.before.compare(known, policy, self.changed).near)
        found = self.sums.compare(known, policy, self.changed)
        found.update(self.sums.compare(fresh, policy))
        near.update(found.near)
        return found


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
    for performer in _with_vectors(reads, usable, rules, left_out):
        _keep(people, accept(performer, rules, left_out, unproven, people.rejected if rules.sites else None))
    hub_limit = max(rules.policy.hub_people, rules.policy.hub_share * len(people.rows))
    near: Counter[int] = Counter()
    sums = FaceSums.of(people.sums)
    work = _Round(sums, sums)
    while people.rounds < _MOST_ROUNDS:
        people.rounds += 1
        left: dict[int, list[CandidateRow]] = {}
        for batch in batches_with_vectors(reads, people.rows, rules.models, left_out):
            found = work.compare(batch, near, rules.policy)
            hubs = {face_id: count for face_id, count in near.items() if count >= hub_limit}
            people.collisions.update(
                {face_id: row for face_id, row in found.collisions.items() if face_id not in hubs}
            )
            for performer in batch:
                kept = _own_faces(performer, found, hubs, left_out)
                if len(kept) < len(performer.rows):
                    left[performer.rows[0].performer_id] = kept
        if not left:
            break
        for performer_id in left:
            del people.rows[performer_id], people.sums[performer_id]
        remaining = {performer_id: rows for performer_id, rows in left.items() if rows}
        for performer in _with_vectors(reads, remaining, rules, left_out):
            _keep(people, accept(performer, rules, left_out, unproven))
        people.rows = dict(sorted(people.rows.items()))
        work = _Round(FaceSums.of(people.sums), work.sums, left.keys())
    return people


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


def _keep(people: CleanFaces, performer: PerformerFaces) -> None:
    if performer.rows:
        people.rows[performer.rows[0].performer_id] = performer.rows
        people.sums[performer.rows[0].performer_id] = FaceSum.of(performer)


def _with_vectors(
    reads: ShortReads, rows: Mapping[int, list[CandidateRow]], rules: ChoiceRules, left_out: LeftOut
) -> Iterator[PerformerFaces]:
    for batch in batches_with_vectors(reads, rows, rules.models, left_out):
        yield from batch
