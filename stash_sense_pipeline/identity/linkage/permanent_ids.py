"""Permanent performer ids: allocated, merged, split, retired, revived."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stash_sense_pipeline.catalog.queries.identity.identities import IdentityRow, LogEntry
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.evidence import Evidence
from stash_sense_pipeline.records.record_key import RecordKey

# Reasons kept in a log entry; the evidence table has them all.
_REASONS_LOGGED = 5


@dataclass(frozen=True)
class Assignment:
    """The performer ids of components, and the ids that retire or return.

    `ids[i]` is the id of component i; None means that one must be allocated. `redirects`: retired id to the index of a
    component, or None. `revived` are retired ids that are in use again.
    """

    ids: tuple[int | None, ...]
    redirects: Mapping[int, int | None]
    revived: frozenset[int] = field(default_factory=frozenset)


def assign(
    groups: Sequence[tuple[RecordKey, ...]],
    previous: Mapping[RecordKey, int],
    last_members: Mapping[int, tuple[RecordKey, ...]],
    follow: Mapping[RecordKey, RecordKey],
) -> Assignment:
    """Assigns to each component a performer id that its members had, or None.

    `previous`: the stored memberships. `last_members`: members of the retired ids at their retirement. `follow`: a
    record that is not live to the record that it was merged into. An id goes to the largest part of its members; on a
    tie, to the part with the smallest key. A component takes the id that most of its members had; on a tie, the oldest.
    Only a component without an id revives a retired id.
    """
    component_of = {key: index for index, group in enumerate(groups) for key in group}
    owners: list[int | None] = [None] * len(groups)
    parts = _parts(previous.items(), component_of, follow)
    _take_greedily(owners, parts)
    active = set(previous.values())
    taken = {owner for owner in owners if owner is not None}
    retired_members = ((key, old) for old, keys in last_members.items() for key in keys)
    _take_greedily(
        owners,
        {
            (old, index): keys
            for (old, index), keys in _parts(retired_members, component_of, follow).items()
            if old not in active and owners[index] is None
        },
    )
    redirects: dict[int, int | None] = dict.fromkeys(sorted(active - taken))
    for old, index in sorted(parts, key=lambda part: (-len(parts[part]), min(parts[part]))):
        if old in redirects and redirects[old] is None:
            redirects[old] = index
    revived = frozenset(owner for owner in owners if owner is not None and owner not in taken)
    return Assignment(tuple(owners), redirects, revived)


def _parts(
    members: Iterable[tuple[RecordKey, int]],
    component_of: Mapping[RecordKey, int],
    follow: Mapping[RecordKey, RecordKey],
) -> dict[tuple[int, int], list[RecordKey]]:
    """(old id, component index) to the members of the old id that are in the component."""
    parts: dict[tuple[int, int], list[RecordKey]] = defaultdict(list)
    for key, old in members:
        index = component_of.get(follow.get(key, key))
        if index is not None:
            parts[old, index].append(key)
    return parts


def _take_greedily(owners: list[int | None], parts: Mapping[tuple[int, int], list[RecordKey]]) -> None:
    taken: set[int] = set()
    for old, index in sorted(parts, key=lambda part: (-len(parts[part]), part[0], min(parts[part]))):
        if old not in taken and owners[index] is None:
            owners[index] = old
            taken.add(old)


def retirements(
    assignment: Assignment, ids: list[int], redirected: Iterable[IdentityRow], now: datetime
) -> Iterable[tuple[int, datetime, int | None]]:
    """New states of the ids that retire, and of ids `redirected` to them earlier, so that redirects form no chains."""
    for old, index in assignment.redirects.items():
        yield old, now, None if index is None else ids[index]
    for row in redirected:
        target = row.redirect_to
        if row.retired_at is not None and target is not None and row.performer_id not in assignment.revived:
            index = assignment.redirects[target]
            yield row.performer_id, row.retired_at, None if index is None else ids[index]


@dataclass(frozen=True)
class MembershipChange:
    """The `previous` memberships and the new `members`, record to performer id.

    `follow`: a record that is not live to the record that it was merged into.
    """

    previous: Mapping[RecordKey, int]
    members: Mapping[RecordKey, int]
    records: Mapping[RecordKey, Record]
    follow: Mapping[RecordKey, RecordKey]


def log_entries(
    groups: Sequence[tuple[RecordKey, ...]],
    ids: list[int],
    assignment: Assignment,
    change: MembershipChange,
    evidence: Iterable[Evidence],
) -> Iterable[LogEntry]:
    """The events of each identity, with their reasons."""
    previous, members = change.previous, change.members
    before: dict[int, list[RecordKey]] = defaultdict(list)
    for key, old in sorted(previous.items()):
        before[old].append(key)
    moved = {key for key, new in members.items() if previous.get(key) != new}
    reasons = _reasons(evidence, moved, members)
    for group, performer_id, kept in zip(groups, ids, assignment.ids, strict=True):
        if kept is None or performer_id in assignment.revived:
            event = "created" if kept is None else "revived"
            yield LogEntry(performer_id, event, {"members": group, "because": _because(reasons, group)})
            continue
        for key in group:
            if key in moved:
                detail: dict[str, Any] = {"member": key, "because": _because(reasons, (key,))}
                if key in previous:
                    detail["from"] = previous[key]
                yield LogEntry(performer_id, "joined", detail)
    for old, keys in sorted(before.items()):
        parts: dict[int, list[RecordKey]] = defaultdict(list)
        for key in keys:
            new = members.get(key)
            if new is None:
                yield LogEntry(old, "left", {"member": key, "because": _why_gone(key, change)})
            elif new != old:
                parts[new].append(key)
        if old not in assignment.redirects:
            for new, lost in sorted(parts.items()):
                yield LogEntry(old, "split", {"members": lost, "to": new})
            continue
        index = assignment.redirects[old]
        if index is not None:
            detail = {"from": old, "members": parts.get(ids[index], []), "because": _because(reasons, keys)}
            yield LogEntry(ids[index], "merged", detail)
        yield LogEntry(
            old, "retired", {"members": keys, "redirect_to": None if index is None else ids[index]}
        )


def _reasons(
    evidence: Iterable[Evidence], moved: set[RecordKey], members: Mapping[RecordKey, int]
) -> dict[RecordKey, list[Evidence]]:
    """The evidence between each moved record and the other members of its identity."""
    found: dict[RecordKey, list[Evidence]] = defaultdict(list)
    for row in evidence:
        if row.weight <= 0 or members.get(row.a, 0) != members.get(row.b, -1):
            continue
        for key in (row.a, row.b):
            if key in moved:
                found[key].append(row)
    return found


def _because(reasons: Mapping[RecordKey, list[Evidence]], keys: Iterable[RecordKey]) -> list[str]:
    rows = {row for key in keys for row in reasons.get(key, ())}
    best = sorted(rows, key=lambda row: (-row.weight, row))[:_REASONS_LOGGED]
    return [" ".join(part for part in (row.kind, row.key, f"({_pair(row)})") if part) for row in best]


def _pair(row: Evidence) -> str:
    return f"{':'.join(row.a)}, {':'.join(row.b)}"


def _why_gone(key: RecordKey, change: MembershipChange) -> str:
    if key in change.follow:
        return f"merged into {':'.join(change.follow[key])} by its source"
    if key not in change.records:
        return "erased"
    return (
        "deleted by its source" if not change.records[key].live else "no stash-box record is left beside it"
    )
