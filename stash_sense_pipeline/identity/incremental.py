"""The incremental run: recomputes what changed records can affect, with the result of a full run.

Evidence on a pair depends on the two records and on who else holds the keys they share; what is decided on a pair
depends on the records that evidence ties to it, directly or in a chain. So an incremental run loads the records that
changed, those that hold a key which these have or had, and those tied to any of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries import face_templates as template_store
from stash_sense_pipeline.catalog.queries.face_templates import Template
from stash_sense_pipeline.catalog.queries.identity import identities as store
from stash_sense_pipeline.catalog.queries.identity import identity_input
from stash_sense_pipeline.catalog.queries.identity import identity_runs as runs
from stash_sense_pipeline.catalog.queries.identity.identities import (
    EvidenceChanges,
    EvidenceKey,
    EvidenceState,
)
from stash_sense_pipeline.catalog.queries.identity.identity_runs import KeyIndex, Run
from stash_sense_pipeline.identity.face_matching.face_agreement import (
    Calibration,
    TemplateSet,
    agree_around,
    neighbours,
    unlike,
)
from stash_sense_pipeline.identity.face_matching.face_templates import build_templates, models_digest
from stash_sense_pipeline.identity.linkage.blocking import (
    KeyKind,
    StashBoxes,
    blocking_keys,
    digest,
    is_hub,
    merged_into,
    survivor,
)
from stash_sense_pipeline.identity.linkage.clustering import cluster
from stash_sense_pipeline.identity.linkage.comparisons import FoldedNames, Record, name_agreement
from stash_sense_pipeline.identity.linkage.evidence import (
    Candidates,
    Evidence,
    FaceComparison,
    Faces,
    Kind,
    Pair,
    find_candidates,
    weigh,
)
from stash_sense_pipeline.identity.linkage.overrides import resolve_overrides
from stash_sense_pipeline.identity.run_steps import (
    Basis,
    Done,
    IdentityChanges,
    Plan,
    RunRules,
    SharedPictures,
    evidence_rows,
    groups_with_stash_box,
    plan_identities,
    read_population,
    run_detail,
)
from stash_sense_pipeline.records.record_key import RecordKey

# With more changes than this, or this share of all records, a full run is as quick.
_MOST_CHANGES = 3_000
_MOST_CHANGED_SHARE = 0.1
_FEW = 20
# With so many more templates than were calibrated on, the thresholds are due again.
_CALIBRATION_GROWTH = 1.25


def update_identities(reads: ShortReads, basis: Basis, rules: RunRules, now: datetime) -> Plan | Done | None:
    """An incremental run, from the catalog in the state `basis`: what is to be written, or what was done where nothing is.

    None where only a full run will do: before the first one, under other rules, after an erasure, after very many
    changes, and when so many faces came that the thresholds are due again. Raises LookupError where another process
    removes what was read before.
    """
    last = reads(runs.last_run)
    if last is None or last.rules != rules.digest():
        return None
    records, seen = reads(runs.count_records)
    if seen != last.records:
        return None
    shared = SharedPictures.find(reads)
    changed = reads(runs.changes, rules.models, shared.of_records)
    if len(changed) > min(_MOST_CHANGES, max(_FEW, _MOST_CHANGED_SHARE * records)):
        return None
    calibration = Calibration.from_detail(last.detail["calibration"])
    if not changed:
        return Done(0, {}, True, 0, last.detail["templates"], calibration)
    world = _World(reads, rules.boxes, shared)
    world.load(changed)
    faces = _changed_faces(world, rules, calibration, changed)
    if faces.count > _FEW + _CALIBRATION_GROWTH * last.detail["calibrated_on"]:
        return None
    found = _recompute(world, rules, calibration, changed, faces)
    decided = _decide(world, basis, rules, found, now)
    if decided is None:
        return None
    evidence, identities, recomputed = decided
    written = changed.keys() | found.new_keys.keys()
    events = Counter(entry.event for entry in identities.log)
    return Plan(
        basis=basis,
        shared=shared,
        states=changed,
        evidence=evidence,
        identities=identities,
        seen=runs.seen_changes(reads(runs.read_seen, written), changed, found.new_keys),
        hubs=runs.hub_changes(reads(runs.read_hubs), found.hubs, found.asked),
        models=models_digest(rules.models),
        templates=faces.rebuilt,
        with_templates=changed if rules.models else (),
        run=Run(last.rules, records, run_detail(calibration, faces.count, last.detail["calibrated_on"])),
        news=True,
        done=Done(0, events, True, recomputed, faces.count, calibration),
    )


@dataclass(frozen=True)
class _ChangedFaces:
    """Templates of the changed records, the records whose nearest may be others now, and what theirs are."""

    changed: Collection[RecordKey] = ()
    count: int = 0
    rebuilt: Mapping[RecordKey, Template] = field(default_factory=dict)
    around: frozenset[RecordKey] = frozenset()
    alike: Mapping[Pair, FaceComparison] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """New evidence among the records `inside`, which replaces what is stored of these and of the `dirty` ones."""

    dirty: set[RecordKey]
    inside: set[RecordKey]
    evidence: tuple[Evidence, ...]
    stored: Mapping[EvidenceKey, EvidenceState]
    cannot_link: tuple[Pair, ...]
    new_keys: Mapping[RecordKey, list[int]]
    hubs: Mapping[int, tuple[str, int]]
    asked: set[int]

    def replaces(self, a: RecordKey, b: RecordKey) -> bool:
        """Is the stored evidence on this pair out of date?"""
        return a in self.dirty or b in self.dirty or (a in self.inside and b in self.inside)


class _World:
    """Records of the catalog, each loaded once, when it is asked for."""

    def __init__(self, reads: ShortReads, boxes: StashBoxes, shared: SharedPictures) -> None:
        self.reads = reads
        self.shared = shared
        self.boxes = boxes
        self.index = KeyIndex.of(reads(runs.read_keys))
        self.records: dict[RecordKey, Record] = {}
        self._asked: set[RecordKey] = set()

    def load(self, keys: Iterable[RecordKey]) -> None:
        """The records, and those that tombstones among them were merged into, to the end of the chain."""
        missing = set(keys) - self._asked
        while missing:
            self._asked |= missing
            news = self.reads(read_population, self.shared.images, missing)
            self.records.update(news)
            targets = {
                (record.source, record.merged_into)
                for record in news.values()
                if not record.live and record.merged_into is not None
            }
            missing = targets - self._asked

    def load_merged_into(self, keys: Iterable[RecordKey]) -> set[RecordKey]:
        """All that was merged into these records, directly or in a chain, is loaded too. Gives all of them together."""
        found = set(keys)
        news = set(found)
        while news:
            news = set(self.reads(identity_input.read_merged_into, news)) - found
            found |= news
        self.load(found)
        return found

    def blocking_keys(self, keys: Collection[RecordKey]) -> dict[RecordKey, tuple[str, ...]]:
        """The keys of the live ones among these records."""
        merged = merged_into(
            {key: self.records[key] for key in self.load_merged_into(keys) if key in self.records}
        )
        return {
            key: blocking_keys(self.records[key], merged.get(key, ()), self.boxes)
            for key in keys
            if key in self.records and self.records[key].live
        }


def _changed_faces(
    world: _World, rules: RunRules, calibration: Calibration, changed: Collection[RecordKey]
) -> _ChangedFaces:
    if not rules.models:
        return _ChangedFaces()
    models = models_digest(rules.models)
    live = {key for key in changed if key in world.records and world.records[key].live}
    rebuilt = build_templates(world.reads, rules.models, world.shared.images, live)
    stored = world.reads(template_store.read_templates, models, changed)
    count = world.reads(template_store.count_templates, models) - len(stored) + len(rebuilt)
    differs = {key for key in rebuilt.keys() | stored.keys() if not _same(rebuilt.get(key), stored.get(key))}
    if not differs or not calibration.thresholds:
        return _ChangedFaces(changed, count, rebuilt)
    everybody = world.reads(template_store.read_templates, models)
    old = [everybody[key].vector for key in differs if key in everybody]
    now = {key: row for key, row in everybody.items() if key not in changed} | rebuilt
    templates = TemplateSet.of(now, rules.models)
    new = [rebuilt[key].vector for key in differs if key in rebuilt]
    around = differs | neighbours(templates, calibration, np.stack(old + new).astype(np.float32))
    return _ChangedFaces(
        changed, count, rebuilt, frozenset(around), agree_around(templates, calibration, around)
    )


def _same(a: Template | None, b: Template | None) -> bool:
    return a is not None and b is not None and a.faces == b.faces and a.vector.tobytes() == b.vector.tobytes()


def _recompute(
    world: _World,
    rules: RunRules,
    calibration: Calibration,
    changed: Collection[RecordKey],
    faces: _ChangedFaces,
) -> _Found:
    dirty = _with_kin(world, changed)
    overrides = rules.overrides
    world.load(key for row in (*overrides.must_link, *overrides.cannot_link) for key in (row.a, row.b))
    resolved = resolve_overrides(overrides, world.records)
    held = world.blocking_keys(dirty)
    old = world.index.digests_of(dirty)
    live = set(held)
    live |= _sharing(world, dirty, held, old)
    live |= {side for pair in resolved.must_link if dirty & set(pair) for side in pair}
    live |= faces.around | {side for pair in faces.alike for side in pair}
    stored = world.reads(store.read_evidence, live | dirty)
    live |= {
        side
        for key in stored
        if key.kind == Kind.FACE and faces.around & set(_pair(key))
        for side in _pair(key)
    }
    world.load(live)
    live = {key for key in live if key in world.records and world.records[key].live}
    candidates, asked = _candidates(world, rules, live, dirty, resolved.must_link)
    stored = world.reads(store.read_evidence, live | dirty)
    opinions = _opinions(world, rules, calibration, candidates, faces, stored)
    found = weigh(candidates, opinions, rules.weights)
    hubs = {digest(KeyKind.PAGE + hub.key): (hub.key, len(hub.holders)) for hub in found.hubs}
    hubs.update(_hubs_left(world, old - asked, dirty))
    return _Found(
        dirty=dirty,
        inside=set(candidates.records),
        evidence=found.evidence,
        stored=stored,
        cannot_link=resolved.cannot_link,
        new_keys={key: [digest(text) for text in texts] for key, texts in held.items()},
        hubs=hubs,
        asked=asked | old,
    )


def _with_kin(world: _World, changed: Collection[RecordKey]) -> set[RecordKey]:
    """The changed records and those that have other keys for it: what they are, or were, merged into."""
    own = {
        digest(f"{KeyKind.PAGE}{source}:{identifier.casefold()}"): source
        for source, identifier in changed
        if source in world.boxes.sources
    }
    owners = {
        key for number, keys in world.index.holders(own).items() for key in keys if key[0] == own[number]
    }
    world.load(owners)
    survivors = {survivor(world.records, key) for key in changed} - {None}
    return {*changed, *owners, *(key for key in survivors if key is not None)}


def _sharing(
    world: _World, dirty: set[RecordKey], held: Mapping[RecordKey, tuple[str, ...]], old: set[int]
) -> set[RecordKey]:
    """Who holds a key that a dirty record has or had. A key that is a hub without them was and stays one.

    A birth date says nothing without a name, and nothing about other pairs: only namesakes of a dirty record count.
    """
    dates: dict[int, set[RecordKey]] = defaultdict(set)
    new: set[int] = set()
    for key, texts in held.items():
        for text in texts:
            if text[0] == KeyKind.BIRTH_DATE:
                dates[digest(text)].add(key)
            else:
                new.add(digest(text))
    found: set[RecordKey] = set()
    for keys in world.index.holders(old | new).values():
        others = keys - dirty
        if not is_hub(others, world.boxes):
            found |= others
    born = world.index.holders(dates)
    world.load(key for keys in born.values() for key in keys)
    folded = FoldedNames(world.records)
    for number, keys in born.items():
        found.update(
            other
            for other in keys - dirty
            if other in world.records
            and any(
                other[0] != key[0] and name_agreement(other, key, folded) is not None for key in dates[number]
            )
        )
    return found


def _candidates(
    world: _World,
    rules: RunRules,
    live: set[RecordKey],
    dirty: set[RecordKey],
    must_link: Iterable[Pair],
) -> tuple[Candidates, set[int]]:
    """Candidate pairs among the live records, and the digests of all their keys."""
    inside = {key: world.records[key] for key in world.load_merged_into(live) if key in world.records}
    texts = {digest(text): text for held in world.blocking_keys(live).values() for text in held}
    elsewhere = {texts[number]: keys - live - dirty for number, keys in world.index.holders(texts).items()}
    pairs = [(a, b) for a, b in must_link if a in live and b in live]
    return find_candidates(inside, world.boxes, pairs, rules.weights, elsewhere), set(texts)


def _opinions(
    world: _World,
    rules: RunRules,
    calibration: Calibration,
    candidates: Candidates,
    faces: _ChangedFaces,
    stored: Mapping[EvidenceKey, EvidenceState],
) -> Faces:
    """What faces say on pairs inside: found anew around changed templates, as stored elsewhere."""
    if not calibration.thresholds:
        return Faces()
    alike = dict(faces.alike)
    for key in stored:
        pair = _pair(key)
        if key.kind != Kind.FACE or key.key.startswith("face_differs") or faces.around & set(pair):
            continue
        if pair[0] in candidates.keys and pair[1] in candidates.keys:
            alike[pair] = FaceComparison(key.key.partition(":")[0], key.key)
    some = world.reads(template_store.read_templates, models_digest(rules.models), candidates.keys.keys())
    some = {key: row for key, row in some.items() if key not in faces.changed} | dict(faces.rebuilt)
    return Faces(alike, unlike(TemplateSet.of(some, rules.models), calibration, candidates.shared))


def _hubs_left(world: _World, digests: set[int], dirty: set[RecordKey]) -> dict[int, tuple[str, int]]:
    """Those of the keys, which no dirty record holds any longer, that are hubs all the same."""
    keys = {number: key for number, key, _ in world.reads(runs.read_hubs) if number in digests}
    left = {number: found - dirty for number, found in world.index.holders(keys).items()}
    return {
        number: (keys[number], len(found)) for number, found in left.items() if is_hub(found, world.boxes)
    }


def _decide(
    world: _World, basis: Basis, rules: RunRules, found: _Found, now: datetime
) -> tuple[EvidenceChanges, IdentityChanges, int] | None:
    """Components of all that is tied to new or outdated evidence: what changes, and how many records were looked at.

    None where an identity of theirs has other members, which nothing ties to them: another hand has changed the catalog.
    """
    stored = dict(found.stored)
    read = set(found.dirty) | {key for key in found.inside if world.records[key].live}
    region = set(read)
    news = {side for row in found.evidence for side in (row.a, row.b)} | {
        side for key in stored for side in _pair(key)
    }
    while news := news - read:
        read |= news
        region |= news
        more = world.reads(store.read_evidence, news)
        stored.update(more)
        news = {side for key in more for side in _pair(key)}
    world.load(region)
    rows = [
        *found.evidence,
        *(
            Evidence(key.kind, *_pair(key), key.key, state.weight)
            for key, state in stored.items()
            if not found.replaces(*_pair(key))
        ),
    ]
    records = {key: world.records[key] for key in region if key in world.records}
    cannot_link = [pair for pair in found.cannot_link if pair[0] in records and pair[1] in records]
    components = cluster(records, rows, cannot_link, rules.weights)
    previous = world.reads(store.read_members, region)
    if world.reads(store.count_members, set(previous.values())) != len(previous):
        return None
    groups = groups_with_stash_box(components.groups, rules.hosts)
    evidence = store.evidence_changes(stored, evidence_rows(rows, components))
    identities = plan_identities(world.reads, basis, world.records, groups, previous, rows, now)
    return evidence, identities, sum(record.live for record in records.values())


def _pair(key: EvidenceKey) -> Pair:
    return (key.source_a, key.source_id_a), (key.source_b, key.source_id_b)
