"""The difference of two releases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stash_sense_pipeline.privacy.redaction.mentions import ERASED
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.release.snapshot import (
    COMPARED,
    Snapshot,
    face_changes,
    merged_performers,
    read_snapshot,
)


@dataclass(frozen=True)
class PerformerChange:
    """A changed performer. `detail`: the changed fields, or the performers that were merged into it or split from it."""

    performer_id: int
    name: str
    detail: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReleaseDiff:
    """What changed from `old` to `new`. Merged and split performers are not listed as changed too."""

    old: str
    new: str
    added: tuple[PerformerChange, ...]
    removed: tuple[PerformerChange, ...]
    changed: tuple[PerformerChange, ...]
    merged: tuple[PerformerChange, ...]
    split: tuple[PerformerChange, ...]
    faces_added: int
    faces_removed: int
    faces_moved: int

    @property
    def empty(self) -> bool:
        """True when the releases hold the same people, data and faces."""
        people = (self.added, self.removed, self.changed, self.merged, self.split)
        return not any(people) and not (self.faces_added or self.faces_removed or self.faces_moved)


def diff_releases(old: Path, new: Path, suppressions: Suppressions = NO_SUPPRESSIONS) -> ReleaseDiff:
    """Compares two release directories by permanent performer ids, their stash-box records, and the pictures of faces.

    They may be of other programs and versions. A suppressed performer of the old release is counted like the others, but
    not named. Raises ReleaseError when a release cannot be read.
    """
    before, after = _without_names(read_snapshot(old), suppressions), read_snapshot(new)
    into, out_of = merged_performers(before, after), merged_performers(after, before)
    merged, split = _merged_or_split(into, after, before), _merged_or_split(out_of, before, after)
    merged_or_split = into.keys() | out_of.keys()
    # A performer that was merged into another, or split from one, is listed in the entry of the other.
    gone = before.people.keys() - after.people.keys() - merged_or_split.union(*into.values())
    come = after.people.keys() - before.people.keys() - merged_or_split.union(*out_of.values())
    changed = []
    for performer_id in sorted((before.people.keys() & after.people.keys()) - merged_or_split):
        fields = _changed_fields(before, after, performer_id)
        if fields:
            changed.append(PerformerChange(performer_id, after.name(performer_id), fields))
    faces = face_changes(before, after)
    return ReleaseDiff(
        old=before.version,
        new=after.version,
        added=tuple(PerformerChange(p, after.name(p)) for p in sorted(come)),
        removed=tuple(PerformerChange(p, before.name(p)) for p in sorted(gone)),
        changed=tuple(changed),
        merged=merged,
        split=split,
        faces_added=faces.added,
        faces_removed=len(faces.lost),
        faces_moved=faces.moved,
    )


def _without_names(held: Snapshot, suppressions: Suppressions) -> Snapshot:
    """The snapshot with the names of suppressed performers replaced."""
    people = {
        performer_id: {**person, "canonical_name": ERASED}
        if any(suppressions.covers_record(*record) for record in held.records[performer_id])
        else person
        for performer_id, person in held.people.items()
    }
    return replace(held, people=people)


def _merged_or_split(
    others_of: Mapping[int, set[int]], performers: Snapshot, others: Snapshot
) -> tuple[PerformerChange, ...]:
    """The merged or split performers, each with the names and ids of the others in the other snapshot."""
    return tuple(
        PerformerChange(p, performers.name(p), tuple(f"{others.name(o)} ({o})" for o in sorted(of)))
        for p, of in sorted(others_of.items())
    )


def _changed_fields(before: Snapshot, after: Snapshot, performer_id: int) -> tuple[str, ...]:
    old, new = before.people[performer_id], after.people[performer_id]
    fields = [field for field in COMPARED if old[field] != new[field]]
    if before.aliases[performer_id] != after.aliases[performer_id]:
        fields.append("aliases")
    if before.records[performer_id] != after.records[performer_id]:
        fields.append("stash-box records")
    return tuple(fields)
