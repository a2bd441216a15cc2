"""Templates of changed records, and the matches that may change with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from stash_sense_pipeline.catalog.queries import face_templates as template_store
from stash_sense_pipeline.catalog.queries.face_templates import Template
from stash_sense_pipeline.identity.face_matching.calibration import Calibration
from stash_sense_pipeline.identity.face_matching.face_agreement import find_matches_around, neighbours
from stash_sense_pipeline.identity.face_matching.face_templates import build_templates, models_digest
from stash_sense_pipeline.identity.face_matching.template_set import TemplateSet
from stash_sense_pipeline.identity.linkage.evidence import FaceComparison, Pair
from stash_sense_pipeline.identity.loaded_records import LoadedRecords
from stash_sense_pipeline.identity.run_steps import (
    RunRules,
)
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class ChangedFaces:
    """The `rebuilt` templates of the `changed` records, and the matches that may differ because of them.

    `count` is the number of all templates. `around` are the records that may have another nearest record now, and
    `matches` are their matches.
    """

    changed: Collection[RecordKey] = ()
    count: int = 0
    rebuilt: Mapping[RecordKey, Template] = field(default_factory=dict)
    around: frozenset[RecordKey] = frozenset()
    matches: Mapping[Pair, FaceComparison] = field(default_factory=dict)


def find_changed_faces(
    loaded: LoadedRecords, rules: RunRules, calibration: Calibration, changed: Collection[RecordKey]
) -> ChangedFaces:
    """Builds the templates of the changed records, and finds the matches around those that differ."""
    if not rules.models:
        return ChangedFaces()
    models = models_digest(rules.models)
    live = {key for key in changed if key in loaded.records and loaded.records[key].live}
    rebuilt = build_templates(loaded.reads, rules.models, loaded.shared.images, live)
    stored = loaded.reads(template_store.read_templates, models, changed)
    count = loaded.reads(template_store.count_templates, models) - len(stored) + len(rebuilt)
    differs = {key for key in rebuilt.keys() | stored.keys() if not _same(rebuilt.get(key), stored.get(key))}
    if not differs or not calibration.thresholds:
        return ChangedFaces(changed, count, rebuilt)
    all_stored = loaded.reads(template_store.read_templates, models)
    old = [all_stored[key].vector for key in differs if key in all_stored]
    now = {key: row for key, row in all_stored.items() if key not in changed} | rebuilt
    templates = TemplateSet.of(now, rules.models)
    new = [rebuilt[key].vector for key in differs if key in rebuilt]
    around = differs | neighbours(templates, calibration, np.stack(old + new).astype(np.float32))
    return ChangedFaces(
        changed, count, rebuilt, frozenset(around), find_matches_around(templates, calibration, around)
    )


def _same(a: Template | None, b: Template | None) -> bool:
    return a is not None and b is not None and a.faces == b.faces and a.vector.tobytes() == b.vector.tobytes()
