"""What a full and an incremental run of identity have in common: the rules, reading records, storing what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b, sha256
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import identities as store
from stash_sense_pipeline.catalog.identities import EvidenceKey, EvidenceState
from stash_sense_pipeline.identity.agreement import Calibration
from stash_sense_pipeline.identity.comparing import Record, RecordKey
from stash_sense_pipeline.identity.evidence import Evidence, Weights
from stash_sense_pipeline.identity.graph import Components
from stash_sense_pipeline.identity.keys import StashBoxes, survivor
from stash_sense_pipeline.identity.overrides import Overrides
from stash_sense_pipeline.identity.permanence import assign, log_entries, retirements
from stash_sense_pipeline.identity.templates import models_digest
from stash_sense_pipeline.profile_urls import SITES

_MAX_KEY_BYTES, _KEY_SHOWN = 1000, 900


@dataclass(frozen=True)
class Rules:
    """All that the result depends on beside the records. `models`: embedder name to the digest of its file."""

    hosts: Mapping[str, str]
    overrides: Overrides
    weights: Weights
    models: Mapping[str, str]

    @property
    def boxes(self) -> StashBoxes:
        """The stash-boxes."""
        return StashBoxes.of(self.hosts)

    def digest(self) -> str:
        """Another text for other rules."""
        pairs = [
            sorted((row.a, row.b) for row in rows)
            for rows in (self.overrides.must_link, self.overrides.cannot_link)
        ]
        sites = [
            (
                *(row.name, row.hosts, row.identity_grade, row.singular, sorted(row.reserved)),
                *((form.pattern.pattern, form.key) for form in row.forms),
            )
            for row in SITES
        ]
        parts = (sorted(self.hosts.items()), pairs, self.weights, models_digest(self.models), sites)
        return sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """What a run did."""

    rows_written: int
    events: Mapping[str, int]
    incremental: bool
    recomputed: int
    templates: int
    calibration: Calibration


def run_detail(calibration: Calibration, templates: int, calibrated_on: int) -> dict[str, Any]:
    """What the catalog keeps of a run: the face thresholds, how many templates there are, and were then."""
    return {
        "calibration": calibration.as_detail(),
        "templates": templates,
        "calibrated_on": calibrated_on,
    }


def read_population(
    connection: sa.Connection, wanted: Collection[RecordKey] | None = None
) -> dict[RecordKey, Record]:
    """All records of the catalog, or the wanted ones, with their aliases, URLs and images."""
    aliases, urls = store.read_aliases(connection, wanted), store.read_urls(connection, wanted)
    images = store.read_images(connection, wanted)
    found: dict[RecordKey, Record] = {}
    for row in store.read_records(connection, wanted):
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


def groups_with_stash_box(
    groups: Sequence[tuple[RecordKey, ...]], hosts: Mapping[str, str]
) -> list[tuple[RecordKey, ...]]:
    """The groups that make an identity: those with a record of a stash-box."""
    return [group for group in groups if any(source in hosts for source, _ in group)]


def evidence_rows(evidence: Sequence[Evidence], components: Components) -> dict[EvidenceKey, EvidenceState]:
    """Evidence as it is stored, each row with the verdict on its pair."""
    rows: dict[EvidenceKey, EvidenceState] = {}
    for row in evidence:
        decision = components.decisions[row.a, row.b]
        key = EvidenceKey(*row.a, *row.b, row.kind, _key_for_index(row.key))
        rows[key] = EvidenceState(row.weight, decision.verdict, decision.reason)
    return rows


def _key_for_index(text: str) -> str:
    """What two records share, cut where it is too long for an index; a digest of the whole keeps it distinct.

    An index row of PostgreSQL has at most 2,704 bytes, of which two record keys take up to 728. Folding makes up to
    eleven bytes of one, so that a name that may be stored can be longer.
    """
    data = text.encode()
    if len(data) <= _MAX_KEY_BYTES:
        return text
    return f"{data[:_KEY_SHOWN].decode(errors='ignore')}... #{blake2b(data, digest_size=8).hexdigest()}"


def store_identities(
    connection: sa.Connection,
    records: Mapping[RecordKey, Record],
    groups: Sequence[tuple[RecordKey, ...]],
    previous: Mapping[RecordKey, int],
    evidence: Sequence[Evidence],
    now: datetime,
) -> tuple[Counter[str], int]:
    """Allocates ids for the groups and stores them, over the memberships `previous`: all, or all of the same region.

    Gives the number of each event, and how many rows were written.
    """
    # A record that was erased is not in `records`; it just leaves.
    follow = {
        key: target
        for key in previous
        if key in records and (target := survivor(records, key)) is not None and target != key
    }
    assignment = assign(groups, previous, {}, follow)
    if None in assignment.ids:
        assignment = assign(groups, previous, store.read_last_members(connection), follow)
    fresh = iter(store.allocate(connection, assignment.ids.count(None), now))
    ids = [old if old is not None else next(fresh) for old in assignment.ids]
    members = {key: ids[index] for index, group in enumerate(groups) for key in group}
    if members == previous and not assignment.redirects:
        return Counter(), 0
    entries = list(log_entries(groups, ids, assignment, previous, members, records, follow, evidence))
    redirected = store.redirected_to(connection, assignment.redirects.keys())
    store.set_state(
        connection,
        [
            *((performer_id, None, None) for performer_id in sorted(assignment.revived)),
            *retirements(assignment, ids, redirected, now),
        ],
    )
    touched = store.store_members(connection, previous, members)
    store.write_log(connection, entries, now)
    return Counter(entry.event for entry in entries), touched + len(entries)
