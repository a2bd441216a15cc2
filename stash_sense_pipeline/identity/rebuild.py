"""Brings identities up to date with the catalog, incrementally or from scratch.

No transaction is open during the computation, and the catalog may change meanwhile. So the transaction that writes
first compares the state of the catalog with the state that was read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.face_templates import Template
from stash_sense_pipeline.catalog.queries.identity import identities as store
from stash_sense_pipeline.catalog.queries.identity import identity_runs as runs
from stash_sense_pipeline.catalog.queries.identity.identity_runs import Run, State
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.identity.face_matching.calibration import NOT_CALIBRATED, Calibration, calibrate
from stash_sense_pipeline.identity.face_matching.face_agreement import find_matches, find_mismatches
from stash_sense_pipeline.identity.face_matching.face_templates import build_templates, models_digest
from stash_sense_pipeline.identity.face_matching.template_set import TemplateSet
from stash_sense_pipeline.identity.incremental import update_identities
from stash_sense_pipeline.identity.linkage.blocking import KeyKind, digest
from stash_sense_pipeline.identity.linkage.candidates import Candidates, find_candidates
from stash_sense_pipeline.identity.linkage.clustering import cluster
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Faces, Weights
from stash_sense_pipeline.identity.linkage.learned_weights import LearnedWeights, learn
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.linkage.weighing import weigh
from stash_sense_pipeline.identity.override_resolution import resolve_overrides
from stash_sense_pipeline.identity.run_steps import (
    Basis,
    Clustered,
    Done,
    Plan,
    RunRules,
    SharedPictures,
    evidence_rows,
    groups_with_stash_box,
    plan_identities,
    read_population,
    run_detail,
    write_plan,
)
from stash_sense_pipeline.records.record_key import RecordKey

# Syncs may write during the computation. For so many attempts the result must be that of the newest state. After that
# it is stored as if the run had ended before the sync, and the next run processes the changes.
_ATTEMPTS = 3
# A result that contains a removed record is never stored. Erasures are rare, so that few attempts are needed.
_MOST_ATTEMPTS = 10


@dataclass(frozen=True)
class IdentityReport:
    """The results and changes of a run.

    `identities` have at least one live stash-box record; `joined_sources` counts those with records of two or more
    sources. `evidence` and `refused` count rows by kind and reason. `recomputed` counts the live records that were
    processed, which are all of them in a full run. `calibration` has the face thresholds, `learned` the weights of fields.
    """

    identities: int
    records: int
    joined_sources: int
    evidence: Mapping[str, int]
    refused: Mapping[str, int]
    hubs: int
    templates: int
    events: Mapping[str, int]
    rows_written: int
    incremental: bool
    recomputed: int
    calibration: Calibration
    learned: LearnedWeights
    seconds: float

    @property
    def changed(self) -> bool:
        """True when the run wrote anything."""
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


def rebuild_identities(
    engine: sa.Engine,
    hosts: Mapping[str, str],
    overrides: Overrides,
    now: datetime,
    weights: Weights = WEIGHTS,
    models: Mapping[str, str] | None = None,
    *,
    full: bool = False,
) -> IdentityReport:
    """Brings all identities up to date with the catalog, and stores the differences in one transaction.

    `hosts`: universal-id host of each stash-box by source name. Records of other sources join identities, but do not
    create them. `models`: the embedders with vectors that count; without models faces are no evidence. When few records
    changed since the last run, only the records that they affect are computed, with the same result as with `full`. A
    run without changes writes nothing. An override that contradicts another one or the catalog has no effect:
    `refused_overrides` names it.
    """
    begin = time.monotonic()
    rules = RunRules(hosts, overrides, weights, models or {})
    done = _update(engine, rules, now, full=full)
    with reading(engine) as connection:
        return _report(connection, done, time.monotonic() - begin)


def _update(engine: sa.Engine, rules: RunRules, now: datetime, *, full: bool) -> Done:
    reads = ShortReads(engine)
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        newest = attempt < _ATTEMPTS
        with collector_paused():
            found = None if full or not newest else _incremental_plan(reads, rules, now)
            if isinstance(found, Done):
                return found
            plan = found or _full_plan(reads, rules, now)
            with writing(engine) as connection:
                store.lock_identity_writers(connection)
                valid = _still_valid(connection, rules, plan, newest=newest)
                if valid is not None:
                    return write_plan(connection, valid, now)
    raise CatalogError(
        f"records were removed from the catalog during each of {_MOST_ATTEMPTS} tries to compute identities; run it again"
    )


def _incremental_plan(reads: ShortReads, rules: RunRules, now: datetime) -> Plan | Done | None:
    basis = reads(Basis.read)
    try:
        return update_identities(reads, basis, rules, now)
    except LookupError:
        # A record that one read found may be gone in the next one.
        if reads(Basis.read) == basis:
            raise
        return None


def _still_valid(connection: sa.Connection, rules: RunRules, plan: Plan, *, newest: bool) -> Plan | None:
    """The plan, or the part of it that is still valid for the catalog; None when it must be computed again."""
    basis = Basis.read(connection)
    if basis == plan.basis:
        return plan
    if newest or (basis.run, basis.last_id) != (plan.basis.run, plan.basis.last_id):
        return None
    states = runs.states(connection, rules.models, plan.shared.of_records)
    if not plan.states.keys() <= states.keys():
        return None
    # Templates of records with other pictures are left out: some of their faces may have been erased.
    templates = {
        key: template
        for key, template in plan.templates.items()
        if states[key].pictures == plan.states[key].pictures
    }
    return replace(plan, templates=templates)


def _read(
    connection: sa.Connection, rules: RunRules, shared: SharedPictures
) -> tuple[Run | None, dict[RecordKey, State], dict[RecordKey, Record]]:
    return (
        runs.last_run(connection),
        runs.states(connection, rules.models, shared.of_records),
        read_population(connection, shared.images),
    )


def _full_plan(reads: ShortReads, rules: RunRules, now: datetime) -> Plan:
    basis = reads(Basis.read)
    shared = SharedPictures.find(reads, rules.overrides)
    last, states, records = reads(_read, rules, shared)
    resolved = resolve_overrides(rules.overrides, records)
    candidates = find_candidates(records, rules.boxes, resolved.must_link, rules.weights)
    templates = {
        key: template
        for key, template in build_templates(reads, rules.models, shared.images).items()
        if key in candidates.keys
    }
    calibration, faces = _compare_faces(templates, rules, candidates)
    learned = learn(candidates, rules.hosts, rules.weights)
    findings = weigh(candidates, faces, learned.weights)
    components = cluster(records, findings.evidence, resolved.cannot_link, learned.weights)
    wanted = evidence_rows(findings.evidence, components)
    groups = groups_with_stash_box(components.groups, rules.hosts)
    previous = reads(store.read_members)
    clustered = Clustered(candidates.records, groups, findings.evidence)
    identities = plan_identities(reads, basis, clustered, previous, now)
    keys = {key: map(digest, held) for key, held in candidates.keys.items()}
    hubs = {digest(KeyKind.PAGE + hub.key): (hub.key, len(hub.holders)) for hub in findings.hubs}
    run = Run(rules.digest(), len(states), run_detail(calibration, learned, len(templates), len(templates)))
    events = Counter(entry.event for entry in identities.log)
    return Plan(
        basis=basis,
        shared=shared,
        states=states,
        evidence=store.evidence_changes(reads(store.read_evidence), wanted),
        identities=identities,
        seen=runs.seen_changes(reads(runs.read_seen), states, keys),
        hubs=runs.hub_changes(reads(runs.read_hubs), hubs, None),
        models=models_digest(rules.models),
        templates=templates,
        with_templates=None,
        run=run,
        news=last != run,
        done=Done(0, events, False, len(candidates.keys), len(templates), calibration, learned),
    )


def _compare_faces(
    templates: Mapping[RecordKey, Template], rules: RunRules, candidates: Candidates
) -> tuple[Calibration, Faces]:
    if not templates:
        return NOT_CALIBRATED, Faces()
    stacked = TemplateSet.of(templates, rules.models)
    certain = candidates.certain_pairs(rules.weights)
    calibration = calibrate(stacked, certain, rules.hosts, candidates.are_distinct)
    return calibration, Faces(
        find_matches(stacked, calibration), find_mismatches(stacked, calibration, candidates.shared)
    )


def _report(connection: sa.Connection, done: Done, seconds: float) -> IdentityReport:
    identities, records, joined = store.count_identities(connection)
    kinds, refused = store.count_evidence(connection)
    return IdentityReport(
        identities=identities,
        records=records,
        joined_sources=joined,
        evidence=kinds,
        refused=refused,
        hubs=runs.count_hubs(connection),
        templates=done.templates,
        events=dict(sorted(done.events.items())),
        rows_written=done.rows_written,
        incremental=done.incremental,
        recomputed=done.recomputed,
        calibration=done.calibration,
        learned=done.learned,
        seconds=seconds,
    )
