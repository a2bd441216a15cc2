"""What the suggestions are computed from: records, identities and face templates as the last runs stored them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.face_templates import read_templates
from stash_sense_pipeline.catalog.queries.identity.identities import read_members
from stash_sense_pipeline.catalog.queries.identity.identity_runs import last_run
from stash_sense_pipeline.identity.face_matching.calibration import NOT_CALIBRATED, Calibration
from stash_sense_pipeline.identity.face_matching.face_templates import models_digest
from stash_sense_pipeline.identity.face_matching.template_set import TemplateSet
from stash_sense_pipeline.identity.linkage.blocking import KeyKind, StashBoxes, blocking_keys, merged_into
from stash_sense_pipeline.identity.linkage.comparisons import FoldedNames, Record
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Weights
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.run_steps import read_population
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class SuggestionRules:
    """The inputs of the list besides the catalog.

    `hosts`: universal-id host of each stash-box by source name. `models`: embedder name to the digest of its file.
    `overrides`: pairs that the operator declared two people are no duplicates.
    """

    hosts: Mapping[str, str]
    models: Mapping[str, str]
    overrides: Overrides = field(default_factory=Overrides)
    weights: Weights = field(default=WEIGHTS)


@dataclass(frozen=True)
class IdentityState:
    """Live records with their performer ids, blocking keys and templates.

    `members`: the performer id of each record in an identity. `pages`: each page to the live records that list or are it.
    """

    records: Mapping[RecordKey, Record]
    members: Mapping[RecordKey, int]
    pages: Mapping[str, tuple[RecordKey, ...]]
    boxes: StashBoxes
    templates: TemplateSet
    calibration: Calibration
    overrides: Overrides
    weights: Weights

    @classmethod
    def read(cls, reads: ShortReads, rules: SuggestionRules) -> IdentityState:
        """The state that the last identity run stored."""
        population, members, calibration, templates = reads(_read, rules)
        boxes = StashBoxes.of(rules.hosts, rules.overrides.pages_without_proof)
        merged = merged_into(population)
        live = {key: record for key, record in sorted(population.items()) if record.live}
        pages: dict[str, list[RecordKey]] = defaultdict(list)
        for key, record in live.items():
            for text in blocking_keys(record, merged.get(key, ()), boxes):
                if text[0] == KeyKind.PAGE:
                    pages[text[1:]].append(key)
        return cls(
            records=live,
            members={key: number for key, number in members.items() if key in live},
            pages={page: tuple(holders) for page, holders in pages.items() if len(holders) > 1},
            boxes=boxes,
            templates=templates,
            calibration=calibration,
            overrides=rules.overrides,
            weights=rules.weights,
        )

    @cached_property
    def names(self) -> FoldedNames:
        """The folded names of the records."""
        return FoldedNames(self.records)

    @cached_property
    def template_of(self) -> Mapping[RecordKey, int]:
        """The row of each record in `templates`."""
        return {key: row for row, key in enumerate(self.templates.records)}

    @cached_property
    def two_people(self) -> frozenset[frozenset[RecordKey]]:
        """The pairs that the operator declared two people."""
        return frozenset(frozenset((pair.a, pair.b)) for pair in self.overrides.cannot_link)

    @cached_property
    def records_of(self) -> Mapping[int, tuple[RecordKey, ...]]:
        """The records of each performer id, sorted."""
        found: dict[int, list[RecordKey]] = defaultdict(list)
        for key, performer_id in sorted(self.members.items()):
            found[performer_id].append(key)
        return {performer_id: tuple(keys) for performer_id, keys in found.items()}

    def person(self, key: RecordKey) -> int | RecordKey:
        """The performer id of a record; the record itself when it is in no identity."""
        return self.members.get(key, key)

    def nearest_to(self, source: str, keys: Collection[RecordKey]) -> RecordKey:
        """The record of these that an editor of `source` can compare best: of that source, else of a stash-box."""
        return min(keys, key=lambda key: (key[0] != source, key[0] not in self.boxes.sources, key))


def _read(
    connection: sa.Connection, rules: SuggestionRules
) -> tuple[dict[RecordKey, Record], dict[RecordKey, int], Calibration, TemplateSet]:
    population = read_population(connection, ())
    run = last_run(connection)
    calibration = NOT_CALIBRATED if run is None else Calibration.from_detail(run.detail["calibration"])
    if tuple(row.model for row in calibration.thresholds) != tuple(sorted(rules.models)):
        # The thresholds of other embedders say nothing about these.
        calibration = NOT_CALIBRATED if calibration.thresholds else calibration
    templates = read_templates(connection, models_digest(rules.models)) if rules.models else {}
    live = {
        key: template for key, template in templates.items() if key in population and population[key].live
    }
    return population, read_members(connection), calibration, TemplateSet.of(live, rules.models)
