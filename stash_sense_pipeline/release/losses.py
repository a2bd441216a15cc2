"""Why people and faces of the last release are not in the next one: deleted upstream, merged, suppressed, or no reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import reading
from stash_sense_pipeline.catalog.schema import source_performers
from stash_sense_pipeline.privacy.suppression import Suppressions
from stash_sense_pipeline.release.held import Held, read_held, read_owners
from stash_sense_pipeline.release.verify import CheckResult

Record = tuple[str, str]


@dataclass(frozen=True)
class Losses:
    """People and faces of two releases. Explained are those lost to deletion upstream, to a merge or a suppression."""

    performers_before: int
    performers: int
    faces_before: int
    faces: int
    explained_performers: int
    explained_faces: int


def find_losses(engine: sa.Engine, before: Path, after: Path, suppressions: Suppressions) -> Losses:
    """Compares two release directories and asks the catalog and the suppression list why somebody is gone.

    A performer is explained when each of their records was deleted or merged upstream, is suppressed, or belongs to
    another performer now; a face, when its performer is, when its performer came together with another (their faces
    share one limit), or when its picture is suppressed. Raises ReleaseError when a database cannot be read.
    """
    old, new = read_held(before), read_held(after)
    gone = _deleted_upstream(engine)
    explained = {
        performer
        for performer in old.people.keys() - new.people.keys()
        if all(
            record in gone or record in new.owner or suppressions.covers_record(*record)
            for record in old.records[performer]
        )
    }
    merged = {
        performer
        for performer, records in old.records.items()
        if any(_came_together(old, new, new.owner[record]) for record in records if record in new.owner)
    }
    lost = [face for face in old.faces.items() if face[0] not in new.faces]
    explained_faces = sum(
        performer in explained or performer in merged or suppressions.covers_url(url)
        for (_, url), performer in lost
    )
    return Losses(
        performers_before=len(old.people),
        performers=len(new.people),
        faces_before=len(old.faces),
        faces=len(new.faces),
        explained_performers=len(explained),
        explained_faces=explained_faces,
    )


def shrink_check(losses: Losses, *, allowed: float, accepted: bool = False) -> CheckResult:
    """Fails when more than `allowed` of the people or faces vanished without explanation, unless that is `accepted`."""
    numbers = {
        "performers_before": losses.performers_before,
        "performers": losses.performers,
        "performers_explained": losses.explained_performers,
        "faces_before": losses.faces_before,
        "faces": losses.faces,
        "faces_explained": losses.explained_faces,
    }
    for what, before, now, explained in (
        ("performers", losses.performers_before, losses.performers, losses.explained_performers),
        ("faces", losses.faces_before, losses.faces, losses.explained_faces),
    ):
        lost = before - now - explained
        if lost > allowed * before:
            detail = (
                f"{what} fell from {before} to {now}, of which {explained} is explained by deletions, merges and "
                f"suppressions (limit {allowed:.0%})"
            )
            advice = "" if accepted else "; look at the last refreshes, then build with --accept-shrink"
            return CheckResult("no_unexplained_shrink", accepted, detail + advice, numbers=numbers)
    return CheckResult(
        "no_unexplained_shrink",
        True,
        f"performers {losses.performers_before} to {losses.performers}, faces {losses.faces_before} to {losses.faces}",
        numbers=numbers,
    )


def deleted_check(engine: sa.Engine, release: Path) -> CheckResult:
    """Nobody in performers.db goes by a record that its source has deleted or merged away."""
    owner = read_owners(release)
    gone = _deleted_upstream(engine)
    wrong = sorted(gone & owner.keys())
    numbers = {"records": len(owner), "deleted": len(wrong)}
    if wrong:
        return CheckResult(
            "nobody_deleted",
            False,
            f"{len(wrong)} records were deleted by their source, first of performer {owner[wrong[0]]}; publish again",
            numbers=numbers,
        )
    return CheckResult("nobody_deleted", True, f"all {len(owner)} records are live", numbers=numbers)


def _came_together(old: Held, new: Held, performer: int) -> bool:
    """Does this performer of the new release hold records of several of the old one?"""
    return len({old.owner[record] for record in new.records[performer] if record in old.owner}) > 1


def _deleted_upstream(engine: sa.Engine) -> set[Record]:
    columns = source_performers.c
    query = sa.select(columns.source, columns.source_id).where(columns.deleted_at.is_not(None))
    with reading(engine) as connection:
        return {(row.source, row.source_id) for row in connection.execute(query)}
