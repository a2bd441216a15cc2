"""Candidate faces that may be trusted, by performer, and their vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import trusted_faces as store
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow
from stash_sense_pipeline.identity.face_matching.performer_faces import LeftOut, PerformerFaces, Reason
from stash_sense_pipeline.identity.face_matching.shared_pictures import ShownPicture, shared_pictures
from stash_sense_pipeline.identity.face_matching.trust_policy import ChoiceRules
from stash_sense_pipeline.records.record_key import ImageKey

# The vectors of so many faces are in memory at a time: 2 models of 512 dimensions take 80 MB.
_FACES_AT_ONCE = 20_000
# The most trusted first.
_TRUST = ("high", "medium", "low")


def usable_faces(
    rows: Sequence[CandidateRow],
    embedded: set[int],
    disowned: Collection[tuple[ImageKey, int]],
    rules: ChoiceRules,
    left_out: LeftOut,
) -> dict[int, list[CandidateRow]]:
    """Candidates by performer, best quality first, each face once and the bytes of each image once.

    Leaves out pictures that several performers of one source show, and bytes that several performers have in any
    source, and the faces that verdicts of the operator name. `embedded` are the ids of faces with a vector of every model.
    `disowned` are images with the performer that they do not show. Adds the faces left out to `left_out`.
    """
    shared = shared_pictures(
        ShownPicture(row.source, row.image_id, row.performer_id, row.sha256, row.picture_hash) for row in rows
    )
    owners_of_bytes: dict[str, set[int]] = defaultdict(set)
    faces_of_image: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        faces_of_image[row.source, row.image_id].add(row.face_id)
        if row.sha256 is not None:
            owners_of_bytes[row.sha256].add(row.performer_id)
    first: dict[int, CandidateRow] = {}
    for row in rows:
        first.setdefault(row.face_id, row)
    kept: dict[int, list[CandidateRow]] = defaultdict(list)
    seen_bytes: set[tuple[str, int]] = set()
    for row in sorted(first.values(), key=lambda row: _place(row, rules)):
        image = (row.source, row.image_id)
        several = len(faces_of_image[image]) > 1
        if row.source not in rules.trust or rules.source_caps.get(row.source, 0) < 1:
            left_out.add(row, "source not in use")
        elif image in rules.verdicts.no_faces:
            left_out.add(row, Reason.NOT_A_FACE)
        elif (image, row.performer_id) in disowned:
            left_out.add(row, Reason.NOT_THIS_PERSON)
        elif image in shared or (row.sha256 and len(owners_of_bytes[row.sha256]) > 1):
            left_out.add(row, Reason.SEVERAL_PEOPLE)
        elif several and rules.trust_of(row) == "high":
            left_out.add(row, Reason.SEVERAL_FACES)
        elif row.face_id not in embedded:
            left_out.add(row, "no embedding")
        elif row.sha256 and not several and (row.sha256, row.performer_id) in seen_bytes:
            left_out.add(row, "same image")
        else:
            if row.sha256:
                seen_bytes.add((row.sha256, row.performer_id))
            kept[row.performer_id].append(row)
    for row in rows:
        if left_out.reason_of(first[row.face_id]) == Reason.SEVERAL_PEOPLE:
            left_out.note(row, Reason.SEVERAL_PEOPLE)
    return dict(sorted(kept.items()))


def _place(row: CandidateRow, rules: ChoiceRules) -> tuple[object, ...]:
    """Sort key of a candidate: the best quality first, then the most trusted source, then the picture.

    Copies of a picture have one quality. Which of them is kept must not depend on the order in which they arrived, so
    that face_id decides only between faces of one picture, which are numbered by their place in it.
    """
    trust = _TRUST.index(rules.trust_of(row)) if row.source in rules.trust else len(_TRUST)
    return -row.quality, trust, row.source, row.image_id, row.face_id


def batches_with_vectors(
    reads: ShortReads,
    faces: Mapping[int, list[CandidateRow]],
    models: Mapping[str, str],
    left_out: LeftOut,
) -> Iterator[list[PerformerFaces]]:
    """Performers with the vectors of their `faces`, in batches of some thousand faces.

    Adds faces without usable vectors to `left_out`.
    """
    batch: list[list[CandidateRow]] = []
    size = 0
    for rows in faces.values():
        batch.append(rows)
        size += len(rows)
        if size >= _FACES_AT_ONCE:
            yield list(_load(reads, batch, models, left_out))
            batch, size = [], 0
    yield list(_load(reads, batch, models, left_out))


def _load(
    reads: ShortReads,
    batch: Sequence[list[CandidateRow]],
    models: Mapping[str, str],
    left_out: LeftOut,
) -> Iterator[PerformerFaces]:
    ids = sorted(row.face_id for rows in batch for row in rows)
    found = [reads(store.read_vectors, model, digest, ids) for model, digest in sorted(models.items())]
    embedded = set(ids).intersection(*found)
    if len(embedded) < len(ids):
        left_out.counts["no embedding"] += len(ids) - len(embedded)
    kept = [row.face_id for rows in batch for row in rows if row.face_id in embedded]
    if not kept:
        return
    # One matrix of each model: numpy takes as long for the few faces of a performer as for thousands.
    stacks = [np.stack([vectors[face_id] for face_id in kept]) for vectors in found]
    del found
    norms = [np.linalg.norm(stack, axis=1) for stack in stacks]
    good = np.all([np.isfinite(norm) & (norm > 0) for norm in norms], axis=0)
    if not good.all():
        left_out.counts["unusable vector"] += int((~good).sum())
        stacks, norms = ([part[good] for part in parts] for parts in (stacks, norms))
    for stack, norm in zip(stacks, norms, strict=True):
        stack /= norm[:, None]
    usable = {face_id for face_id, fine in zip(kept, good.tolist(), strict=True) if fine}
    begin = 0
    for listed in batch:
        rows = [row for row in listed if row.face_id in usable]
        if rows:
            end = begin + len(rows)
            yield PerformerFaces(rows, [stack[begin:end] for stack in stacks])
            begin = end
