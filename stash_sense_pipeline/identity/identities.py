"""Permanent performer ids for the components: allocated once, merged with a redirect, split, retired, revived."""

from __future__ import annotations

import gc
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import identities as store
from stash_sense_pipeline.catalog.engine import reading, writing
from stash_sense_pipeline.catalog.identities import EvidenceKey, EvidenceState, IdentityRow, LogEntry
from stash_sense_pipeline.identity.comparing import Record, RecordKey
from stash_sense_pipeline.identity.evidence import WEIGHTS, Evidence, Findings, Hub, Weights, find_evidence
from stash_sense_pipeline.identity.graph import Components, connect
from stash_sense_pipeline.identity.keys import survivor
from stash_sense_pipeline.identity.overrides import Overrides, resolve_overrides

# Reasons kept in a log entry; the evidence table has them all.
_REASONS_LOGGED = 5
# Computing goes on beside running syncs; after so many that were overtaken, one is done while they wait.
_ATTEMPTS = 3


@dataclass(frozen=True)
class IdentityReport:
    """What a run found and changed. `identities` have at least one live stash-box record; `joined_sources` counts
    those with records of two sources or more. `evidence` and `refused` count pairs' rows by kind and reason."""

    identities: int
    records: int
    joined_sources: int
    evidence: Mapping[str, int]
    refused: Mapping[str, int]
    hubs: tuple[Hub, ...]
    events: Mapping[str, int]
    rows_written: int
    seconds: float

    @property
    def changed(self) -> bool:
        """Did the run write anything?"""
        return self.rows_written > 0

    @property
    def created(self) -> int:
        """New performer ids."""
        return self.events.get("created", 0)

    @property
    def merged(self) -> int:
        """Performer ids that now redirect to another one."""
        return self.events.get("merged", 0)

    @property
    def split(self) -> int:
        """Performer ids that lost a part to another one."""
        return self.events.get("split", 0)

    @property
    def retired(self) -> int:
        """Performer ids without members, merged ones included."""
        return self.events.get("retired", 0)


@dataclass(frozen=True)
class Assignment:
    """Which component has which performer id, and what happened on the way.

    `ids[i]` is the id of component i; None = to be allocated. `redirects`: retired id to component index or None.
    `revived` are ids that come back.
    """

    ids: tuple[int | None, ...]
    redirects: Mapping[int, int | None]
    revived: frozenset[int] = field(default_factory=frozenset)


def rebuild_identities(
    engine: sa.Engine,
    hosts: Mapping[str, str],
    overrides: Overrides,
    now: datetime,
    weights: Weights = WEIGHTS,
) -> IdentityReport:
    """Computes all identities from what the catalog holds and stores the differences, in one transaction.

    `hosts`: universal-id host of each stash-box by source name; records of other sources join identities, but never
    make one. A run without changes writes nothing. Raises ConfigurationError for overrides that cannot be kept.
    """
    begin = time.monotonic()
    for attempt in range(_ATTEMPTS):
        with reading(engine) as connection, _collector_paused():
            computed = _compute(connection, hosts, overrides, weights)
        with writing(engine) as connection, _collector_paused():
            if store.population_state(connection) != computed.state:
                # A sync wrote meanwhile. Only the last attempt keeps it waiting for as long as it takes to compute.
                if attempt < _ATTEMPTS - 1:
                    continue
                computed = _compute(connection, hosts, overrides, weights)
            written = store.store_evidence(
                connection, store.read_evidence(connection), computed.evidence, now
            )
            members, events, touched = _store_identities(connection, computed, now)
        break
    verdicts = Counter(state.reason.split(":")[0] for state in computed.evidence.values() if state.reason)
    return IdentityReport(
        identities=len(computed.groups),
        records=len(members),
        joined_sources=sum(len(group) > 1 for group in computed.groups),
        evidence=dict(sorted(Counter(key[0] for key in computed.evidence).items())),
        refused=dict(sorted(verdicts.items())),
        hubs=computed.findings.hubs,
        events=dict(sorted(events.items())),
        rows_written=written + touched,
        seconds=time.monotonic() - begin,
    )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without Python's cycle collector: it took a third of the time to find nothing among millions of tuples."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class _Computed:
    """Everything that follows from the records, and the state of the catalog it was computed from."""

    state: tuple[Any, ...]
    records: Mapping[RecordKey, Record]
    findings: Findings
    groups: list[tuple[RecordKey, ...]]
    evidence: dict[EvidenceKey, EvidenceState]


def _compute(
    connection: sa.Connection, hosts: Mapping[str, str], overrides: Overrides, weights: Weights
) -> _Computed:
    state = store.population_state(connection)
    records = read_population(connection)
    resolved = resolve_overrides(overrides, records)
    findings = find_evidence(records, hosts, resolved.must_link, weights)
    components = connect(records, findings.evidence, resolved.cannot_link, weights)
    groups = [group for group in components.groups if any(source in hosts for source, _ in group)]
    return _Computed(state, records, findings, groups, _evidence_rows(findings, components))


def read_population(connection: sa.Connection) -> dict[RecordKey, Record]:
    """All records of the catalog with their aliases, URLs and images."""
    aliases, urls = store.read_aliases(connection), store.read_urls(connection)
    images = store.read_images(connection)
    found: dict[RecordKey, Record] = {}
    for row in store.read_records(connection):
        key = (row.source, row.source_id)
        found[key] = Record(
            source=row.source,
            source_id=row.source_id,
            name=row.name,
            gender=row.gender,
            birth_date=row.birth_date,
            country=row.country,
            live=bool(row.live),
            merged_into=row.merged_into,
            aliases=tuple(sorted(aliases.get(key, ()))),
            urls=tuple(sorted(urls.get(key, ()))),
            also_known_by=tuple(name for name in (row.slug, row.number) if name),
            images=tuple(sorted(images.get(key, ()))),
        )
    return found


def assign(
    groups: list[tuple[RecordKey, ...]],
    previous: Mapping[RecordKey, int],
    last_members: Mapping[int, tuple[RecordKey, ...]],
    follow: Mapping[RecordKey, RecordKey],
) -> Assignment:
    """Gives each component a performer id that its members had, or None.

    `previous`: membership before. `last_members`: members of the retired ids when they were retired. `follow`: a
    record that is no longer live to the one it was merged into. An id goes with the largest part of its members,
    the part with the smallest key on a tie; a component takes the id most of its members had, the oldest on a tie.
    Only a component that gets none this way revives a retired id.
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
    """(old id, component index) to the old id's members that are in the component now."""
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


def _evidence_rows(findings: Findings, components: Components) -> dict[EvidenceKey, EvidenceState]:
    rows: dict[EvidenceKey, EvidenceState] = {}
    for row in findings.evidence:
        decision = components.decisions[row.a, row.b]
        key = (row.kind, *row.a, *row.b, row.key)
        rows[key] = EvidenceState(row.weight, decision.verdict, decision.reason)
    return rows


def _store_identities(
    connection: sa.Connection, computed: _Computed, now: datetime
) -> tuple[dict[RecordKey, int], Counter[str], int]:
    """Allocates and stores. Gives the memberships, the number of each event, and how many rows were written."""
    records, groups = computed.records, computed.groups
    previous = store.read_members(connection)
    known = {row.performer_id: row for row in store.read_identities(connection)}
    # A record that was erased is not in `records`; it just leaves.
    follow = {
        key: target
        for key in previous
        if key in records and (target := survivor(records, key)) is not None and target != key
    }
    assignment = assign(groups, previous, store.read_last_members(connection), follow)
    fresh = iter(store.allocate(connection, assignment.ids.count(None), now))
    ids = [old if old is not None else next(fresh) for old in assignment.ids]
    members = {key: ids[index] for index, group in enumerate(groups) for key in group}
    if members == previous and not assignment.redirects:
        return members, Counter(), 0
    entries = list(
        _log(groups, ids, assignment, previous, members, records, follow, computed.findings.evidence)
    )
    store.set_state(
        connection,
        [
            *((performer_id, None, None) for performer_id in sorted(assignment.revived)),
            *_retirements(assignment, ids, known, now),
        ],
    )
    touched = store.store_members(connection, previous, members)
    store.write_log(connection, entries, now)
    return members, Counter(entry.event for entry in entries), touched + len(entries)


def _retirements(
    assignment: Assignment, ids: list[int], known: Mapping[int, IdentityRow], now: datetime
) -> Iterable[tuple[int, datetime, int | None]]:
    """New states of the ids retired now, and of earlier redirects that led to one of them: no chains."""
    for old, index in assignment.redirects.items():
        yield old, now, None if index is None else ids[index]
    for row in known.values():
        target = row.redirect_to
        if (
            row.retired_at is not None
            and target is not None
            and target in assignment.redirects
            and row.performer_id not in assignment.revived
        ):
            index = assignment.redirects[target]
            yield row.performer_id, row.retired_at, None if index is None else ids[index]


def _log(
    groups: list[tuple[RecordKey, ...]],
    ids: list[int],
    assignment: Assignment,
    previous: Mapping[RecordKey, int],
    members: Mapping[RecordKey, int],
    records: Mapping[RecordKey, Record],
    follow: Mapping[RecordKey, RecordKey],
    evidence: tuple[Evidence, ...],
) -> Iterable[LogEntry]:
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
                yield LogEntry(old, "left", {"member": key, "because": _why_gone(key, records, follow)})
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
    evidence: tuple[Evidence, ...], moved: set[RecordKey], members: Mapping[RecordKey, int]
) -> dict[RecordKey, list[Evidence]]:
    """What ties each moved record to the others of its identity."""
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


def _why_gone(
    key: RecordKey, records: Mapping[RecordKey, Record], follow: Mapping[RecordKey, RecordKey]
) -> str:
    if key in follow:
        return f"merged into {':'.join(follow[key])} by its source"
    if key not in records:
        return "erased"
    return "deleted by its source" if not records[key].live else "no stash-box record is left beside it"
