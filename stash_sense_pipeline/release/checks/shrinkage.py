"""Shrinkage: people and faces lost since the last release, with and without a known cause."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import source_performers
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.snapshot import (
    merged_performers,
    read_face_sources,
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
    lost = [face for face in old.faces.items() if face[0] not in new.faces]
    sources = read_face_sources(before) if lost else {}

    def ended(record: RecordKey) -> bool:
        return record in deleted or suppressions.covers_record(*record) or suppressions.is_held(*record)

    def explained(face_id: int, url: str, performer: int) -> bool:
        records = old.records[performer]
        at_source = [record for record in records if record[0] == sources[face_id]]
        return (
            performer in merged
            or (performer in vanished and all(ended(record) or record in new.owner for record in records))
            or (bool(at_source) and all(map(ended, at_source)))
            or suppressions.covers_url(url)
        )

    unexplained = [owner for (face_id, url), owner in lost if not explained(face_id, url, owner)]
    return Losses(
        performers_before=len(old.people),
        performers=len(new.people),
        performers_gone=len(vanished),
        faces_before=len(old.faces),
        faces=len(new.faces),
        explained_performers=len(vanished - set(unexplained)),
        explained_faces=len(lost) - len(unexplained),
    )


def shrink_check(losses: Losses, *, allowed: float, accepted: bool = False) -> CheckResult:
    """Fails when more than the share `allowed` of people or faces is lost without explanation, unless `accepted`."""
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
                detail += "; look at the last refreshes, then accept the loss with build --accept-shrink"
            return CheckResult("no_unexplained_shrink", accepted, detail, numbers=numbers)
    return CheckResult(
        "no_unexplained_shrink",
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
