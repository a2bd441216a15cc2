"""Steps that full and incremental runs share: rules, loading records, storing results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import blake2b, sha256
from itertools import count
from typing import Any

import sqlalchemy as sa

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
    LogEntry,
    MemberChanges,
)
from stash_sense_pipeline.catalog.queries.identity.identity_runs import HubChanges, Run, SeenChanges, State
from stash_sense_pipeline.identity.face_matching.calibration import Calibration
from stash_sense_pipeline.identity.face_matching.face_templates import models_digest
from stash_sense_pipeline.identity.face_matching.shared_pictures import ShownPicture, shared_pictures
from stash_sense_pipeline.identity.linkage.blocking import StashBoxes, survivor
from stash_sense_pipeline.identity.linkage.clustering import Components
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.evidence import Evidence, Weights
from stash_sense_pipeline.identity.linkage.face_verdicts import resolve_verdicts
from stash_sense_pipeline.identity.linkage.learned_weights import LearnedWeights
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.linkage.permanent_ids import (
    MembershipChange,
    assign,
    log_entries,
    retirements,
)
from stash_sense_pipeline.records.profile_sites import SITES
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

_MAX_KEY_BYTES, _KEY_SHOWN = 1000, 900


@dataclass(frozen=True)
class RunRules:
    """All inputs of a run except the records. `models`: embedder name to the digest of its file."""

    hosts: Mapping[str, str]
    overrides: Overrides
    weights: Weights
    models: Mapping[str, str]

    @property
    def boxes(self) -> StashBoxes:
        """The stash-boxes."""
        return StashBoxes.of(self.hosts, self.overrides.pages_without_proof)

    def digest(self) -> str:
        """A digest of all rules; it differs for different rules."""
        pairs = [
            sorted((row.a, row.b) for row in rows)
            for rows in (self.overrides.must_link, self.overrides.cannot_link)
        ]
        sites = [
            (
                *(row.name, row.hosts, row.identity_grade, row.singular, sorted(row.reserved)),
                *((form.expression, form.key) for form in row.forms),
            )
            for row in SITES
        ]
        verdicts = sorted((row.image, row.record or ()) for row in self.overrides.face_verdicts)
        pages = sorted(self.overrides.pages_without_proof)
        parts = (
            sorted(self.hosts.items()),
            pairs,
            verdicts,
            pages,
            self.weights,
            models_digest(self.models),
            sites,
        )
        return sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """The result of a run."""

    rows_written: int
    events: Mapping[str, int]
    incremental: bool
    recomputed: int
    templates: int
    calibration: Calibration
    learned: LearnedWeights


@dataclass(frozen=True)
class Basis:
    """The state of the catalog that a run starts from: records and images, the last run, the last performer id."""

    population: tuple[Any, ...]
    run: int
    last_id: int

    @classmethod
    def read(cls, connection: sa.Connection) -> Basis:
        """The current state."""
        return cls(
            identity_input.population_state(connection),
            runs.last_number(connection),
            store.last_id(connection),
        )


@dataclass(frozen=True)
class IdentityChanges:
    """Changes of identities: allocated ids, states (performer_id, retired_at, redirect_to), memberships, events."""

    new_ids: Sequence[int]
    states: Sequence[tuple[int, datetime | None, int | None]]
    members: MemberChanges
    log: Sequence[LogEntry]


NO_IDENTITY_CHANGES = IdentityChanges((), (), MemberChanges((), (), ()), ())


@dataclass(frozen=True)
class SharedPictures:
    """Pictures that several records of one source show, or that a verdict is on. They are no evidence about any record.

    `of_records`: for each record with such pictures, a digest of their image ids.
    """

    images: frozenset[ImageKey] = frozenset()
    of_records: Mapping[RecordKey, str] = field(default_factory=dict)

    @classmethod
    def find(cls, reads: ShortReads, overrides: Overrides) -> SharedPictures:
        """The shared pictures among all pictures of the catalog with a face, and those that verdicts leave out."""
        verdicts = resolve_verdicts(reads, overrides.path, overrides.face_verdicts)
        shown = [
            ShownPicture(source, image_id, source_id, digest, look)
            for source, image_id, source_id, digest, look in reads(_read_shown)
        ]
        images = shared_pictures(shown) | verdicts.silent
        found: dict[RecordKey, list[str]] = defaultdict(list)
        for row in shown:
            if (row.source, row.image_id) in images:
                found[row.source, str(row.person)].append(row.image_id)
        return cls(images, {key: _text_of(some) for key, some in found.items()})


def _read_shown(connection: sa.Connection) -> list[tuple[str, str, str, str | None, str | None]]:
    return list(template_store.read_shown_pictures(connection))


def _text_of(image_ids: Sequence[str]) -> str:
    return sha256("\0".join(sorted(image_ids)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """All that a run stores, computed from the catalog in the state `basis` before the transaction that writes it.

    `states`: the state of each record when it was read, with these `shared` pictures. `templates` replace those of the
    records `with_templates`, or of all records when that is None. `run` is stored together with other changes, or with
    `news` in any case.
    """

    basis: Basis
    shared: SharedPictures
    states: Mapping[RecordKey, State]
    evidence: EvidenceChanges
    identities: IdentityChanges
    seen: SeenChanges
    hubs: HubChanges
    models: str
    templates: Mapping[RecordKey, Template]
    with_templates: Collection[RecordKey] | None
    run: Run
    news: bool
    done: Done


def write_plan(connection: sa.Connection, plan: Plan, now: datetime) -> Done:
    """Writes the plan without further computation, and returns the result."""
    identities = plan.identities
    store.write_evidence(connection, plan.evidence, now)
    store.add_ids(connection, identities.new_ids, now)
    store.set_retirement(connection, identities.states)
    store.write_members(connection, identities.members)
    store.write_log(connection, identities.log, now)
    runs.write_seen(connection, plan.seen)
    runs.write_hubs(connection, plan.hubs)
    written = plan.evidence.rows + identities.members.rows + len(identities.log)
    written += len(plan.seen.rows) + plan.hubs.rows
    written += template_store.store_templates(connection, plan.models, plan.templates, plan.with_templates)
    if written or plan.news:
        runs.store_run(connection, plan.run, now)
    return replace(plan.done, rows_written=written)


def run_detail(
    calibration: Calibration, learned: LearnedWeights, templates: int, calibrated_on: int
) -> dict[str, Any]:
    """The details of a run in the catalog: face thresholds, number of templates and number at their calibration, weights."""
    return {
        "calibration": calibration.as_detail(),
        "weights": learned.as_detail(),
        "templates": templates,
        "calibrated_on": calibrated_on,
    }


def read_population(
    connection: sa.Connection, shared: Collection[ImageKey], wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, Record]:
    """All records of the catalog, or the wanted ones, with aliases, URLs, and images that are not `shared`."""
    aliases, urls = (
        identity_input.read_aliases(connection, wanted),
        identity_input.read_urls(connection, wanted),
    )
    images = identity_input.read_images(connection, shared, wanted)
    found: dict[RecordKey, Record] = {}
    for row in identity_input.read_records(connection, wanted):
        key = (row.source, row.source_id)
        found[key] = Record(
            source=row.source,
            source_id=row.source_id,
            name=row.name,
            gender=row.gender,
            birth_date=row.birth_date,
            country=row.country,
            ethnicity=row.ethnicity,
            eye_color=row.eye_color,
            height_cm=row.height_cm,
            live=bool(row.live),
            merged_into=row.merged_into,
            aliases=tuple(sorted(aliases.get(key, ()))),
            urls=tuple(sorted(urls.get(key, ()))),
            also_known_by=tuple(name for name in (row.slug, row.number) if name),
            images=tuple(sorted(images.get(key, ()))),
        )
    return found


def groups_with_stash_box(
    groups: Sequence[tuple[RecordKey, ...]], hosts: Mapping[str, str]
) -> list[tuple[RecordKey, ...]]:
    """The groups that become identities: those with a record of a stash-box."""
    return [group for group in groups if any(source in hosts for source, _ in group)]


def evidence_rows(evidence: Sequence[Evidence], components: Components) -> dict[EvidenceKey, EvidenceState]:
    """The rows of evidence for the catalog, each with the verdict on its pair."""
    rows: dict[EvidenceKey, EvidenceState] = {}
    for row in evidence:
        decision = components.decisions[row.a, row.b]
        key = EvidenceKey(*row.a, *row.b, row.kind, _key_for_index(row.key))
        rows[key] = EvidenceState(row.weight, decision.verdict, decision.reason)
    return rows


def _key_for_index(text: str) -> str:
    """The key of a row of evidence, shortened to fit an index. A digest of the whole keeps shortened keys distinct.

    An index row of PostgreSQL has at most 2,704 bytes, of which two record keys take up to 728. Folding can turn one
    byte into up to eleven, so that a stored name can exceed the limit.
    """
    data = text.encode()
    if len(data) <= _MAX_KEY_BYTES:
        return text
    return f"{data[:_KEY_SHOWN].decode(errors='ignore')}... #{blake2b(data, digest_size=8).hexdigest()}"


@dataclass(frozen=True)
class Clustered:
    """The groups that become identities, with all records and the evidence that formed them."""

    records: Mapping[RecordKey, Record]
    groups: Sequence[tuple[RecordKey, ...]]
    evidence: Sequence[Evidence]


def plan_identities(
    reads: ShortReads,
    basis: Basis,
    clustered: Clustered,
    previous: Mapping[RecordKey, int],
    now: datetime,
) -> IdentityChanges:
    """Performer ids for the groups, given the `previous` memberships: all of them, or all of one region."""
    records, groups = clustered.records, clustered.groups
    # An erased record is not in `records`; it leaves its identity.
    follow = {
        key: target
        for key in previous
        if key in records and (target := survivor(records, key)) is not None and target != key
    }
    assignment = assign(groups, previous, {}, follow)
    if None in assignment.ids:
        assignment = assign(groups, previous, reads(store.read_last_members), follow)
    fresh = count(basis.last_id + 1)
    ids = [old if old is not None else next(fresh) for old in assignment.ids]
    members = {key: ids[index] for index, group in enumerate(groups) for key in group}
    if members == previous and not assignment.redirects:
        return NO_IDENTITY_CHANGES
    change = MembershipChange(previous, members, records, follow)
    entries = log_entries(groups, ids, assignment, change, clustered.evidence)
    redirected = reads(store.redirected_to, assignment.redirects.keys())
    return IdentityChanges(
        range(basis.last_id + 1, next(fresh)),
        [
            *((performer_id, None, None) for performer_id in sorted(assignment.revived)),
            *retirements(assignment, ids, redirected, now),
        ],
        store.member_changes(previous, members),
        list(entries),
    )
