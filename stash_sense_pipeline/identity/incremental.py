"""The incremental run: recomputes what changed records can affect, with the result of a full run.

Evidence on a pair depends on the two records and on the other holders of their shared keys. The decision on a pair
depends on the records that evidence ties to it, directly or in a chain. So an incremental run loads the changed
records, the records that hold a key which a changed record has or had, and the records tied to any of these.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries import face_templates as template_store
from stash_sense_pipeline.catalog.queries.identity import identities as store
from stash_sense_pipeline.catalog.queries.identity import identity_runs as runs
from stash_sense_pipeline.catalog.queries.identity.identities import (
    EvidenceChanges,
    EvidenceKey,
    EvidenceState,
)
from stash_sense_pipeline.catalog.queries.identity.identity_runs import Run
from stash_sense_pipeline.identity.changed_faces import ChangedFaces, find_changed_faces
from stash_sense_pipeline.identity.face_matching.calibration import Calibration
from stash_sense_pipeline.identity.face_matching.face_agreement import find_mismatches
from stash_sense_pipeline.identity.face_matching.face_templates import models_digest
from stash_sense_pipeline.identity.face_matching.template_set import TemplateSet
from stash_sense_pipeline.identity.linkage.blocking import (
    KeyKind,
    digest,
    is_hub,
    survivor,
)
from stash_sense_pipeline.identity.linkage.candidates import Candidates, find_candidates
from stash_sense_pipeline.identity.linkage.clustering import cluster
from stash_sense_pipeline.identity.linkage.comparisons import FoldedNames, name_agreement
from stash_sense_pipeline.identity.linkage.evidence import Evidence, FaceComparison, Faces, Kind, Pair
from stash_sense_pipeline.identity.linkage.learned_weights import LearnedWeights
from stash_sense_pipeline.identity.linkage.weighing import weigh
from stash_sense_pipeline.identity.loaded_records import LoadedRecords
from stash_sense_pipeline.identity.override_resolution import resolve_overrides
from stash_sense_pipeline.identity.run_steps import (
    Basis,
    Clustered,
    Done,
    IdentityChanges,
    Plan,
    RunRules,
    SharedPictures,
    evidence_rows,
    groups_with_stash_box,
    plan_identities,
    run_detail,
)
from stash_sense_pipeline.records.record_key import RecordKey

# With more changes than this, or than this share of all records, a full run is as fast.
_MOST_CHANGES = 3_000
_MOST_CHANGED_SHARE = 0.1
_FEW = 20
# When the number of templates has grown by this factor, the thresholds are calibrated again.
_CALIBRATION_GROWTH = 1.25
# When the number of records has grown by this factor, the weights are learned again.
_LEARNING_GROWTH = 1.25


def update_identities(reads: ShortReads, basis: Basis, rules: RunRules, now: datetime) -> Plan | Done | None:
    """Computes an incremental run from the catalog in the state `basis`: a Plan to write, or Done without changes.

    Returns None when a full run is needed: before the first run, under other rules, after an erasure, after very many
    changes, and when the number of templates requires a new calibration. Raises LookupError when another process removes
    records during the run.
    """
    last = reads(runs.last_run)
    if last is None or last.rules != rules.digest():
        return None
    records, seen = reads(runs.count_records)
    if seen != last.records or records > _FEW + _LEARNING_GROWTH * last.detail["weights"]["records"]:
        return None
    shared = SharedPictures.find(reads, rules.overrides)
    changed = reads(runs.changes, rules.models, shared.of_records)
    if len(changed) > min(_MOST_CHANGES, max(_FEW, _MOST_CHANGED_SHARE * records)):
        return None
    calibration = Calibration.from_detail(last.detail["calibration"])
    learned = LearnedWeights.from_detail(last.detail["weights"], rules.weights)
    # The weights of the last full run hold: so an incremental run and a full one with these weights agree.
    rules = replace(rules, weights=learned.weights)
    if not changed:
        return Done(0, {}, True, 0, last.detail["templates"], calibration, learned)
    loaded = LoadedRecords(reads, rules.boxes, shared)
    loaded.load(changed)
    faces = find_changed_faces(loaded, rules, calibration, changed)
    if faces.count > _FEW + _CALIBRATION_GROWTH * last.detail["calibrated_on"]:
        return None
    found = _recompute(loaded, rules, calibration, changed, faces)
    decided = _decide(loaded, basis, rules, found, now)
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
        run=Run(
            last.rules, records, run_detail(calibration, learned, faces.count, last.detail["calibrated_on"])
        ),
        news=True,
        done=Done(0, events, True, recomputed, faces.count, calibration, learned),
    )


@dataclass(frozen=True)
class _Found:
    """New evidence among the records `inside`. It replaces the stored evidence among these, and of `dirty` records."""

    dirty: set[RecordKey]
    inside: set[RecordKey]
    evidence: tuple[Evidence, ...]
    stored: Mapping[EvidenceKey, EvidenceState]
    cannot_link: tuple[Pair, ...]
    new_keys: Mapping[RecordKey, list[int]]
    hubs: Mapping[int, tuple[str, int]]
    asked: set[int]

    def replaces(self, a: RecordKey, b: RecordKey) -> bool:
        """True when stored evidence on this pair is replaced."""
        return a in self.dirty or b in self.dirty or (a in self.inside and b in self.inside)


def _recompute(
    loaded: LoadedRecords,
    rules: RunRules,
    calibration: Calibration,
    changed: Collection[RecordKey],
    faces: ChangedFaces,
) -> _Found:
    dirty = _with_merge_targets(loaded, changed)
    overrides = rules.overrides
    loaded.load(key for row in (*overrides.must_link, *overrides.cannot_link) for key in (row.a, row.b))
    resolved = resolve_overrides(overrides, loaded.records)
    held = loaded.blocking_keys(dirty)
    old = loaded.index.digests_of(dirty)
    live = set(held)
    live |= _key_holders(loaded, dirty, held, old)
    live |= {side for pair in resolved.must_link if dirty & set(pair) for side in pair}
    live |= faces.around | {side for pair in faces.matches for side in pair}
    stored = loaded.reads(store.read_evidence, live | dirty)
    live |= {
        side
        for key in stored
        if key.kind == Kind.FACE and faces.around & set(_pair(key))
        for side in _pair(key)
    }
    loaded.load(live)
    live = {key for key in live if key in loaded.records and loaded.records[key].live}
    candidates, asked = _candidates(loaded, rules, live, dirty, resolved.must_link)
    stored = loaded.reads(store.read_evidence, live | dirty)
    comparisons = Faces()
    if calibration.thresholds:
        comparisons = Faces(
            _matches_inside(candidates, faces, stored),
            find_mismatches(_templates(loaded, rules, candidates, faces), calibration, candidates.shared),
        )
    found = weigh(candidates, comparisons, rules.weights)
    hubs = {digest(KeyKind.PAGE + hub.key): (hub.key, len(hub.holders)) for hub in found.hubs}
    hubs.update(_remaining_hubs(loaded, old - asked, dirty))
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


def _with_merge_targets(loaded: LoadedRecords, changed: Collection[RecordKey]) -> set[RecordKey]:
    """The changed records, and the records that they are, or were, merged into: the keys of these change too."""
    own = {
        digest(f"{KeyKind.PAGE}{source}:{identifier.casefold()}"): source
        for source, identifier in changed
        if source in loaded.boxes.sources
    }
    owners = {
        key for number, keys in loaded.index.holders(own).items() for key in keys if key[0] == own[number]
    }
    loaded.load(owners)
    survivors = {survivor(loaded.records, key) for key in changed} - {None}
    return {*changed, *owners, *(key for key in survivors if key is not None)}


def _key_holders(
    loaded: LoadedRecords, dirty: set[RecordKey], held: Mapping[RecordKey, tuple[str, ...]], old: set[int]
) -> set[RecordKey]:
    """The records that hold a key which a dirty record has or had. A key that is a hub without these stays a hub.

    A birth date is evidence only together with a name, and it does not affect other pairs. So of the holders of a birth
    date only namesakes of a dirty record count.
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
    for keys in loaded.index.holders(old | new).values():
        others = keys - dirty
        if not is_hub(others, loaded.boxes):
            found |= others
    born = loaded.index.holders(dates)
    loaded.load(key for keys in born.values() for key in keys)
    folded = FoldedNames(loaded.records)
    for number, keys in born.items():
        found.update(
            other
            for other in keys - dirty
            if other in loaded.records
            and any(
                other[0] != key[0] and name_agreement(other, key, folded) is not None for key in dates[number]
            )
        )
    return found


def _candidates(
    loaded: LoadedRecords,
    rules: RunRules,
    live: set[RecordKey],
    dirty: set[RecordKey],
    must_link: Iterable[Pair],
) -> tuple[Candidates, set[int]]:
    """Candidate pairs among the live records, and the digests of all their keys."""
    inside = {key: loaded.records[key] for key in loaded.load_merged_into(live) if key in loaded.records}
    texts = {digest(text): text for held in loaded.blocking_keys(live).values() for text in held}
    elsewhere = {texts[number]: keys - live - dirty for number, keys in loaded.index.holders(texts).items()}
    pairs = [(a, b) for a, b in must_link if a in live and b in live]
    return find_candidates(inside, loaded.boxes, pairs, rules.weights, elsewhere), set(texts)


def _matches_inside(
    candidates: Candidates, faces: ChangedFaces, stored: Mapping[EvidenceKey, EvidenceState]
) -> dict[Pair, FaceComparison]:
    """The matches among the candidates: computed again around changed templates, and as stored for other pairs."""
    matches = dict(faces.matches)
    for key in stored:
        pair = _pair(key)
        if key.kind != Kind.FACE or key.key.startswith("face_differs") or faces.around & set(pair):
            continue
        if pair[0] in candidates.keys and pair[1] in candidates.keys:
            matches[pair] = FaceComparison(key.key.partition(":")[0], key.key)
    return matches


def _templates(
    loaded: LoadedRecords, rules: RunRules, candidates: Candidates, faces: ChangedFaces
) -> TemplateSet:
    """The templates of the candidates, those of changed records as rebuilt."""
    stored = loaded.reads(template_store.read_templates, models_digest(rules.models), candidates.keys.keys())
    kept = {key: row for key, row in stored.items() if key not in faces.changed}
    return TemplateSet.of(kept | dict(faces.rebuilt), rules.models)


def _remaining_hubs(
    loaded: LoadedRecords, digests: set[int], dirty: set[RecordKey]
) -> dict[int, tuple[str, int]]:
    """The keys that dirty records had and do not have now, and that are still hubs."""
    keys = {number: key for number, key, _ in loaded.reads(runs.read_hubs) if number in digests}
    left = {number: found - dirty for number, found in loaded.index.holders(keys).items()}
    return {
        number: (keys[number], len(found)) for number, found in left.items() if is_hub(found, loaded.boxes)
    }


def _decide(
    loaded: LoadedRecords, basis: Basis, rules: RunRules, found: _Found, now: datetime
) -> tuple[EvidenceChanges, IdentityChanges, int] | None:
    """Clusters all records tied to new or replaced evidence. Returns the changes and the number of live records.

    Returns None when an identity among them has members that no evidence ties to them: then something else than
    identity runs has changed the catalog.
    """
    stored = dict(found.stored)
    read = set(found.dirty) | {key for key in found.inside if loaded.records[key].live}
    region = set(read)
    news = {side for row in found.evidence for side in (row.a, row.b)} | {
        side for key in stored for side in _pair(key)
    }
    while news := news - read:
        read |= news
        region |= news
        more = loaded.reads(store.read_evidence, news)
        stored.update(more)
        news = {side for key in more for side in _pair(key)}
    loaded.load(region)
    rows = [
        *found.evidence,
        *(
            Evidence(key.kind, *_pair(key), key.key, state.weight)
            for key, state in stored.items()
            if not found.replaces(*_pair(key))
        ),
    ]
    records = {key: loaded.records[key] for key in region if key in loaded.records}
    cannot_link = [pair for pair in found.cannot_link if pair[0] in records and pair[1] in records]
    components = cluster(records, rows, cannot_link, rules.weights)
    previous = loaded.reads(store.read_members, region)
    if loaded.reads(store.count_members, set(previous.values())) != len(previous):
        return None
    groups = groups_with_stash_box(components.groups, rules.hosts)
    evidence = store.evidence_changes(stored, evidence_rows(rows, components))
    clustered = Clustered(loaded.records, groups, rows)
    identities = plan_identities(loaded.reads, basis, clustered, previous, now)
    return evidence, identities, sum(record.live for record in records.values())


def _pair(key: EvidenceKey) -> Pair:
    return (key.source_a, key.source_id_a), (key.source_b, key.source_id_b)
