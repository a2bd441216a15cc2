"""Records of one person before identities know them: what links to given records by the rules of identity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity import identities as store
from stash_sense_pipeline.identity.linkage.blocking import StashBoxes, blocking_keys, merged_into
from stash_sense_pipeline.identity.linkage.candidates import find_candidates
from stash_sense_pipeline.identity.linkage.clustering import cluster
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Evidence, Kind, Weights
from stash_sense_pipeline.identity.linkage.overrides import Overrides, load_overrides
from stash_sense_pipeline.identity.linkage.weighing import weigh
from stash_sense_pipeline.identity.override_resolution import ResolvedOverrides, resolve_overrides
from stash_sense_pipeline.identity.run_steps import read_population
from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings


@dataclass(frozen=True)
class _Linked:
    """The records to search from `seeds`, and the rules of the search."""

    records: Mapping[RecordKey, Record]
    seeds: set[RecordKey]
    overrides: ResolvedOverrides
    boxes: StashBoxes


@dataclass(frozen=True)
class IdentityRelatives:
    """Finds the relatives of records: the records that would be in one identity with them.

    `hosts` are the universal-id hosts of the stash-boxes, by source name. `overrides_file` is identity_overrides.yaml.
    It is read at each search, so that an error in it stops only runs that search.
    """

    hosts: Mapping[str, str]
    overrides_file: Path | None = None
    weights: Weights = field(default=WEIGHTS)

    @classmethod
    def for_settings(cls, settings: Settings, environment: Environment) -> Self:
        """The search with the stash-boxes of sources.yaml and the operator's overrides."""
        hosts = {name: box.host for name, box in settings.stash_boxes.items()}
        return cls(hosts, environment.overrides_file)

    def of(
        self,
        connection: sa.Connection,
        stored: Collection[RecordKey],
        unstored: Collection[RecordEvidence],
        is_other: Callable[[RecordKey], bool],
    ) -> set[RecordKey]:
        """The stored live records that link to one of these, directly or through others.

        Computed from the records, and from the comparisons of faces that the last identity run stored. Records with
        `is_other` True link to none. Reads the whole catalog: some seconds for 100,000 records. Raises
        ConfigurationError for an overrides file that cannot be read.
        """
        population = {
            key: record
            for key, record in read_population(connection, ()).items()
            if key in stored or not is_other(key)
        }
        live = {key for key, record in population.items() if record.live}
        records = population | identity_records(unstored)
        seeds = {key for key in (*stored, *(told.record for told in unstored)) if key in records}
        given = Overrides() if self.overrides_file is None else load_overrides(self.overrides_file)
        # Lines on other records are not refused: an identity run reports them.
        overrides = resolve_overrides(given.among(records.keys()), records)
        boxes = StashBoxes.of(self.hosts, given.pages_without_proof)
        return (self._region(connection, _Linked(records, seeds, overrides, boxes)) & live) - {
            told.record for told in unstored
        }

    def disowned(self, records: Collection[RecordKey]) -> set[ImageKey]:
        """The images with a `not_a_face` verdict, and with a `not_this_person` verdict that names one of `records`.

        Raises ConfigurationError for an overrides file that cannot be read.
        """
        verdicts = () if self.overrides_file is None else load_overrides(self.overrides_file).face_verdicts
        return {verdict.image for verdict in verdicts if verdict.record is None or verdict.record in records}

    def _region(self, connection: sa.Connection, linked: _Linked) -> set[RecordKey]:
        records, overrides, boxes = linked.records, linked.overrides, linked.boxes
        merged = merged_into(records)
        keys = {
            key: blocking_keys(each, merged.get(key, ()), boxes) for key, each in records.items() if each.live
        }
        holders: dict[str, list[RecordKey]] = defaultdict(list)
        for key, held in keys.items():
            for text in held:
                holders[text].append(key)
        pairs = defaultdict[RecordKey, set[RecordKey]](set)
        for a, b in overrides.must_link:
            pairs[a].add(b)
            pairs[b].add(a)
        region = {key for key in linked.seeds if key in keys}
        while True:
            near = region | {other for key in region for text in keys[key] for other in holders[text]}
            near |= {other for key in near for other in pairs[key]}
            tombstones = {(key[0], each) for key in near for each in merged.get(key, ())}
            some = {key: records[key] for key in near | tombstones}
            elsewhere = {
                text: [key for key in holders[text] if key not in near] for key in near for text in keys[key]
            }
            must = [pair for pair in overrides.must_link if near.issuperset(pair)]
            cannot = [pair for pair in overrides.cannot_link if near.issuperset(pair)]
            candidates = find_candidates(some, boxes, must, self.weights, elsewhere)
            evidence = [*weigh(candidates, weights=self.weights).evidence, *_faces(connection, region, near)]
            groups = cluster(some, evidence, cannot, self.weights).groups
            joined = {key for group in groups if not region.isdisjoint(group) for key in group}
            if joined <= region:
                return region
            region |= joined


def identity_records(unstored: Collection[RecordEvidence]) -> dict[RecordKey, Record]:
    """Records in memory in the form of stored ones, with tombstones of the records that were merged into them."""
    found: dict[RecordKey, Record] = {}
    for told in unstored:
        for each in told.merged_ids:
            found[told.source, each] = Record(told.source, each, live=False, merged_into=told.source_id)
    for told in unstored:
        found[told.record] = Record(
            told.source,
            told.source_id,
            name=told.name or None,
            gender=told.gender,
            birth_date=told.birth_date,
            country=told.country,
            aliases=tuple(sorted(told.aliases)),
            urls=tuple(sorted(told.urls)),
            also_known_by=told.other_ids,
        )
    return found


def _faces(
    connection: sa.Connection, region: Collection[RecordKey], near: Collection[RecordKey]
) -> list[Evidence]:
    """The evidence of faces on these records from the last run."""
    stored = store.read_evidence(connection, region)
    return [
        Evidence(
            row.kind, (row.source_a, row.source_id_a), (row.source_b, row.source_id_b), row.key, state.weight
        )
        for row, state in stored.items()
        if row.kind == Kind.FACE
        and (row.source_a, row.source_id_a) in near
        and (row.source_b, row.source_id_b) in near
    ]
