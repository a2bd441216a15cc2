"""Shrinkage: people and faces lost since the last release, of either format, with and without a known cause."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.sense2.ledger import Ledger
from stash_sense_pipeline.catalog.schema import source_performers
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.snapshot import (
    LostFace,
    face_changes,
    merged_performers,
    read_owners,
    read_snapshot,
)


@dataclass(frozen=True)
class Losses:
    """Numbers of people and faces in two releases, and of the losses that are explained.

    `performers_gone` counts the performers of the old release that are missing in the new one. New performers do not
    reduce it.
    """

    performers_before: int
    performers: int
    performers_gone: int
    faces_before: int
    faces: int
    explained_performers: int
    explained_faces: int


def find_losses(engine: sa.Engine, before: Path, after: Path, suppressions: Suppressions) -> Losses:
    """Compares two release directories, and explains losses by the catalog and the suppression list.

    A lost face is explained when one of these holds:

    - its performer was merged with another (their faces share one limit);
    - its performer is gone, and each of its records was deleted or merged upstream, is suppressed or held, or belongs to
      another performer now;
    - each record of its performer at the source of the face was deleted or merged upstream, is suppressed or held;
    - its image is suppressed.

    A lost performer is explained when all its lost faces are. Raises ReleaseError when a database cannot be read.
    """
    old, new = read_snapshot(before), read_snapshot(after)
    deleted = _deleted_upstream(engine)
    vanished = old.people.keys() - new.people.keys()
    merged = set().union(*merged_performers(old, new).values())
    lost = face_changes(old, new).lost

    def ended(record: RecordKey) -> bool:
        return record in deleted or suppressions.covers_record(*record) or suppressions.is_held(*record)

    def explained(face: LostFace) -> bool:
        records = old.records[face.performer_id]
        at_source = [record for record in records if record[0] == face.source]
        return (
            face.performer_id in merged
            or (
                face.performer_id in vanished
                and all(ended(record) or record in new.owner for record in records)
            )
            or (bool(at_source) and all(map(ended, at_source)))
            or suppressions.covers_url(face.url)
        )

    unexplained = [face.performer_id for face in lost if not explained(face)]
    return Losses(
        performers_before=len(old.people),
        performers=len(new.people),
        performers_gone=len(vanished),
        faces_before=old.face_count,
        faces=new.face_count,
        explained_performers=len(vanished - set(unexplained)),
        explained_faces=len(lost) - len(unexplained),
    )


def find_ledger_losses(
    engine: sa.Engine, ledger: Ledger, numbers: Collection[int], indices: Collection[int]
) -> Losses:
    """Compares a sense2 release that holds these performers and faces with the one before it, which the ledger knows.

    A lost face is explained when it was erased, or when its performer was erased, or deleted or merged by its stash-box.
    A lost performer is explained when it was erased, deleted or merged, or when all its lost faces are explained.
    """
    performers = [row for row in ledger.records if row.published]
    faces = [row for row in ledger.faces if row.published]
    lost = [row for row in faces if row.embedding_index not in indices]
    vanished = {row.number for row in performers if row.number not in numbers}
    deleted = _deleted_upstream(engine)
    ended = {
        row.number
        for row in ledger.records
        if row.source is None or row.source_id is None or (row.source, row.source_id) in deleted
    }
    unexplained = [row for row in lost if row.source is not None and row.owner not in ended]
    owners = {row.owner for row in unexplained}
    return Losses(
        performers_before=len(performers),
        performers=len(numbers),
        performers_gone=len(vanished),
        faces_before=len(faces),
        faces=len(indices),
        explained_performers=sum(number in ended or number not in owners for number in vanished),
        explained_faces=len(lost) - len(unexplained),
    )


def shrink_check(
    losses: Losses,
    *,
    allowed: float,
    accepted: bool = False,
    name: str = "no_unexplained_shrink",
    remedy: str = "look at the last refreshes, then accept the loss with build --accept-shrink",
) -> CheckResult:
    """Fails when more than the share `allowed` of people or faces is lost without explanation, unless `accepted`.

    `remedy`: what the operator must do after a failure.
    """
    numbers = {
        "performers_before": losses.performers_before,
        "performers": losses.performers,
        "performers_gone": losses.performers_gone,
        "performers_explained": losses.explained_performers,
        "faces_before": losses.faces_before,
        "faces": losses.faces,
        "faces_explained": losses.explained_faces,
    }
    # People are compared one by one: a new person does not replace a lost one. Faces are compared by number: better photos
    # replace others.
    for what, before, now, gone, explained in (
        (
            "performers",
            losses.performers_before,
            losses.performers,
            losses.performers_gone,
            losses.explained_performers,
        ),
        (
            "faces",
            losses.faces_before,
            losses.faces,
            losses.faces_before - losses.faces,
            losses.explained_faces,
        ),
    ):
        if gone - explained > allowed * before:
            detail = (
                f"{gone} of {before} {what} are gone ({now} now), of which {explained} are explained by deletions, merges "
                f"and suppressions (limit {allowed:.0%})"
            )
            if not accepted:
                detail += f"; {remedy}"
            return CheckResult(name, accepted, detail, numbers=numbers)
    return CheckResult(
        name,
        True,
        f"performers {losses.performers_before} to {losses.performers}, faces {losses.faces_before} to {losses.faces}",
        numbers=numbers,
    )


def deleted_check(engine: sa.Engine, release: Path) -> CheckResult:
    """No record in performers.db was deleted or merged into another by its source."""
    owner = read_owners(release)
    gone = _deleted_upstream(engine)
    wrong = sorted(gone & owner.keys())
    numbers = {"records": len(owner), "deleted": len(wrong)}
    if wrong:
        return CheckResult(
            "no_deleted_records",
            False,
            f"{len(wrong)} records were deleted by their source, the first is of performer {owner[wrong[0]]}; publish again",
            numbers=numbers,
        )
    return CheckResult("no_deleted_records", True, f"all {len(owner)} records are live", numbers=numbers)


def _deleted_upstream(engine: sa.Engine) -> set[RecordKey]:
    columns = source_performers.c
    query = sa.select(columns.source, columns.source_id).where(columns.deleted_at.is_not(None))
    with reading(engine) as connection:
        return {(row.source, row.source_id) for row in connection.execute(query)}
