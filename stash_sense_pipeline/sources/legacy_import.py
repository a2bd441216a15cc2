"""Imports the predecessor's data as records that the sources must still confirm.

The rules of the import:

- Performers become live records without a content hash and a time of change, so that the first refresh of their
  source, a backfill, reads each of them. No watermark and no sync time is set.
- Merged ids become tombstones.
- The performer ids of performers.db are kept when the catalog has not allocated any; otherwise new ids are allocated.
- Vectors and faces are not imported here; release.bootstrap takes over those of a release that it can prove. The images
  of all performers are still fetched. The predecessor's counts only order performers with equally many faces here: those
  with enough faces there come first (their images are known to show faces, and a release without them is a regression),
  those with too few come last until they have more images than the predecessor processed, the rest is in between.
- Records that the catalog has, live, as tombstones or withheld, are not changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries import performer_import
from stash_sense_pipeline.catalog.queries.identity import identities
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.privacy.intake.adults import is_adult
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.sources.legacy_data import Legacy, LegacyPerson


@dataclass(frozen=True)
class ImportedSource:
    """Numbers of new `records` and `tombstones` of a source, and of live records with `noted` face counts."""

    source: str
    records: int
    tombstones: int
    noted: int


@dataclass(frozen=True)
class LegacyReport:
    """The result: imports by source, kept `performer_ids`, and people left out (`suppressed`, `not_adult`)."""

    sources: tuple[ImportedSource, ...]
    performer_ids: int
    suppressed: int
    not_adult: int


@dataclass(frozen=True)
class TakenOver:
    """The result of `take_over`: its report, the people that may be in the catalog, and the new records."""

    report: LegacyReport
    people: tuple[LegacyPerson, ...]
    added: tuple[RecordKey, ...]


def import_legacy(
    engine: sa.Engine, legacy: Legacy, suppressions: Suppressions, now: datetime
) -> LegacyReport:
    """Imports the records that the catalog does not know, in one transaction. A second import changes nothing."""
    with writing(engine) as connection:
        return take_over(connection, legacy, suppressions, now).report


def take_over(
    connection: sa.Connection,
    legacy: Legacy,
    suppressions: Suppressions,
    now: datetime,
    because: str = "import-legacy",
) -> TakenOver:
    """Imports as `import_legacy` does, in the caller's transaction. `because` names the command in the identity log."""
    suppressions = suppressions.refreshed(connection)
    verdicts = {id(person): _verdict(person, suppressions, now.date()) for person in legacy.people}
    people = [person for person in legacy.people if verdicts[id(person)] is None]
    left_out = Counter(verdicts.values())
    sources, added = _store(connection, people, legacy.faces_and_images, suppressions, now)
    numbered = {
        person.performer_id: list(person.records) for person in people if person.performer_id is not None
    }
    kept = identities.import_performer_ids(connection, numbered, legacy.used_up_to, now, because)
    report = LegacyReport(sources, kept, left_out["suppressed"], left_out["not adult"])
    return TakenOver(report, tuple(people), tuple(added))


def _verdict(person: LegacyPerson, suppressions: Suppressions, today: date) -> str | None:
    """The reason why a person must not be in the catalog; None when there is none."""
    keys = (*person.records, *person.merged)
    listed = any(suppressions.covers_record(*key) for key in keys)
    if listed or suppressions.degree("", (), person.links) is not None:
        return "suppressed"
    return None if is_adult(person.birth_date, person.career_start_year, today) else "not adult"


def _store(
    connection: sa.Connection,
    people: list[LegacyPerson],
    known: Mapping[tuple[str, str], tuple[int, int | None]],
    suppressions: Suppressions,
    now: datetime,
) -> tuple[tuple[ImportedSource, ...], list[RecordKey]]:
    """Stores the records and tombstones that the catalog does not know. Returns their numbers by source, and their keys."""
    records: dict[str, list[PerformerRecord]] = defaultdict(list)
    gone: dict[str, dict[str, str | None]] = defaultdict(dict)
    for person in people:
        for (source, _), record in person.records.items():
            records[source].append(record)
        for (source, source_id), survivor in person.merged.items():
            gone[source][source_id] = survivor
    report: list[ImportedSource] = []
    new: list[RecordKey] = []
    for source in sorted({*records, *gone}):
        hashed = partial(suppressions.withheld_hash, source)
        added = performer_import.seed_records(connection, source, records[source], now, hashed)
        tombstones = performer_import.seed_tombstones(connection, source, gone[source], now, hashed)
        faces = {
            record.source_id: known[source, record.source_id]
            for record in records[source]
            if (source, record.source_id) in known
        }
        noted = performer_import.note_predecessor(connection, source, faces)
        report.append(ImportedSource(source, len(added), len(tombstones), noted))
        new += [(source, source_id) for source_id in (*added, *tombstones)]
    return tuple(report), new
