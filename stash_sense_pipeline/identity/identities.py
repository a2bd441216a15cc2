"""A run of identity: evidence and components from what the catalog holds, and the differences stored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import identities as store
from stash_sense_pipeline.catalog import identity_runs as runs
from stash_sense_pipeline.catalog import templates as template_store
from stash_sense_pipeline.catalog.engine import reading, writing
from stash_sense_pipeline.catalog.identity_runs import Run, State
from stash_sense_pipeline.catalog.templates import Template
from stash_sense_pipeline.collector import collector_paused
from stash_sense_pipeline.identity.agreement import (
    NOT_CALIBRATED,
    Calibration,
    TemplateSet,
    agree,
    calibrate,
    unlike,
)
from stash_sense_pipeline.identity.comparing import RecordKey
from stash_sense_pipeline.identity.evidence import (
    WEIGHTS,
    Candidates,
    Faces,
    Findings,
    Weights,
    find_candidates,
    weigh,
)
from stash_sense_pipeline.identity.graph import Components, connect
from stash_sense_pipeline.identity.incremental import update_identities
from stash_sense_pipeline.identity.keys import Sort, digest
from stash_sense_pipeline.identity.overrides import Overrides, resolve_overrides
from stash_sense_pipeline.identity.steps import (
    Done,
    Rules,
    evidence_rows,
    groups_with_stash_box,
    read_population,
    run_detail,
    store_identities,
)
from stash_sense_pipeline.identity.templates import build_templates, models_digest

# Computing goes on beside running syncs; after so many that were overtaken, one is done while they wait.
_ATTEMPTS = 3


@dataclass(frozen=True)
class IdentityReport:
    """What a run found and changed. `identities` have at least one live stash-box record; `joined_sources` counts
    those with records of two sources or more. `evidence` and `refused` count rows by kind and reason.
    `recomputed`: live records that were looked at, all of them in a full run. `calibration`: the face thresholds."""

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
    """Brings all identities up to date with what the catalog holds and stores the differences, in one transaction.

    `hosts`: universal-id host of each stash-box by source name; records of other sources join identities, but never
    make one. `models`: the embedders whose faces count; none means that faces say nothing. Where few records changed
    since the last run, only what they touch is computed, with the same result as `full`. A run without changes
    writes nothing. Raises ConfigurationError for overrides that cannot be kept.
    """
    begin = time.monotonic()
    rules = Rules(hosts, overrides, weights, models or {})
    done: Done | None = None
    if not full:
        with writing(engine) as connection, collector_paused():
            done = update_identities(connection, rules, now)
    if done is None:
        done = _everything(engine, rules, now)
    with reading(engine) as connection:
        return _report(connection, done, time.monotonic() - begin)


@dataclass(frozen=True)
class _Computed:
    """Everything that follows from the records, and the state of the catalog it was computed from."""

    state: tuple[Any, ...]
    states: Mapping[RecordKey, State]
    candidates: Candidates
    findings: Findings
    components: Components
    templates: Mapping[RecordKey, Template]
    calibration: Calibration


def _everything(engine: sa.Engine, rules: Rules, now: datetime) -> Done:
    for attempt in range(_ATTEMPTS):
        with reading(engine) as connection, collector_paused():
            computed = _compute(connection, rules)
        with writing(engine) as connection, collector_paused():
            if store.population_state(connection) != computed.state:
                # A sync wrote meanwhile. Only the last attempt keeps it waiting for as long as it takes to compute.
                if attempt < _ATTEMPTS - 1:
                    continue
                computed = _compute(connection, rules)
            return _store(connection, rules, computed, now)
    raise AssertionError("the last attempt always ends")


def _compute(connection: sa.Connection, rules: Rules) -> _Computed:
    state = store.population_state(connection)
    states = runs.states(connection, rules.models)
    records = read_population(connection)
    resolved = resolve_overrides(rules.overrides, records)
    candidates = find_candidates(records, rules.boxes, resolved.must_link, rules.weights)
    templates = {
        key: template
        for key, template in build_templates(connection, rules.models).items()
        if key in candidates.keys
    }
    calibration, faces = _hear_faces(templates, rules, candidates)
    findings = weigh(candidates, faces, rules.weights)
    components = connect(records, findings.evidence, resolved.cannot_link, rules.weights)
    return _Computed(state, states, candidates, findings, components, templates, calibration)


def _hear_faces(
    templates: Mapping[RecordKey, Template], rules: Rules, candidates: Candidates
) -> tuple[Calibration, Faces]:
    if not templates:
        return NOT_CALIBRATED, Faces()
    stacked = TemplateSet.of(templates, rules.models)
    hard = candidates.hard(rules.weights)
    calibration = calibrate(stacked, hard, rules.hosts, candidates.strangers)
    return calibration, Faces(agree(stacked, calibration), unlike(stacked, calibration, candidates.shared))


def _store(connection: sa.Connection, rules: Rules, computed: _Computed, now: datetime) -> Done:
    records = computed.candidates.records
    wanted = evidence_rows(computed.findings.evidence, computed.components)
    written = store.store_evidence(connection, store.read_evidence(connection), wanted, now)
    groups = groups_with_stash_box(computed.components.groups, rules.hosts)
    events, touched = store_identities(
        connection, records, groups, store.read_members(connection), computed.findings.evidence, now
    )
    keys = {key: map(digest, held) for key, held in computed.candidates.keys.items()}
    written += touched + runs.store_seen(connection, computed.states, keys, everything=True)
    hubs = {digest(Sort.PAGE + hub.key): (hub.key, len(hub.holders)) for hub in computed.findings.hubs}
    written += runs.store_hubs(connection, hubs, None)
    written += template_store.store_templates(
        connection, models_digest(rules.models), computed.templates, None
    )
    calibration = computed.calibration
    run = Run(
        rules.digest(),
        len(computed.states),
        run_detail(calibration, len(computed.templates), len(computed.templates)),
    )
    if written or runs.last_run(connection) != run:
        runs.store_run(connection, run, now)
    live = len(computed.candidates.keys)
    return Done(written, events, False, live, len(computed.templates), calibration)


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
        seconds=seconds,
    )
