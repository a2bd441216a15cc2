"""Imports the predecessor's data as records that the sources must still confirm.

What becomes of it:

- Performers become live records without a content hash and a time of change, so that the first refresh of their
  source, which is a backfill as always, reads each one. No watermark and no time of a sync is made up.
- Merged ids become tombstones.
- Performer ids of performers.db become ours if the catalog has allocated none; else new ones are allocated as always.
- Vectors and faces are not taken over: they were made without alignment and with another preprocessing. So nobody is
  complete for us, and everybody's images are still fetched. What the predecessor had only decides when, among people
  of whom we have equally many faces: those it had enough of come first (their images are known to show faces, and a
  release without them is a step back), those it had too few of come last until there are more images than it had
  looked at, the rest between.
- What the catalog knows already, live, gone or withheld, stays as it is.
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
from stash_sense_pipeline.sources.legacy_reader import Legacy, LegacyPerson


@dataclass(frozen=True)
class TakenOver:
    """What of one source was new: `records` and `tombstones`. `noted`: live records whose faces were noted."""

    source: str
    records: int
    tombstones: int
    noted: int


@dataclass(frozen=True)
class LegacyReport:
    """What was taken over. `performer_ids` were kept. `suppressed` and `not_adult` people were left out."""

    sources: tuple[TakenOver, ...]
    performer_ids: int
    suppressed: int
    not_adult: int


def import_legacy(
    engine: sa.Engine, legacy: Legacy, suppressions: Suppressions, now: datetime
) -> LegacyReport:
    """Takes over what the catalog does not know, in one transaction. Doing it again changes nothing."""
    with writing(engine) as connection:
        suppressions = suppressions.refreshed(connection)
        verdicts = {id(person): _verdict(person, suppressions, now.date()) for person in legacy.people}
        people = [person for person in legacy.people if verdicts[id(person)] is None]
        left_out = Counter(verdicts.values())
        sources = _store(connection, people, legacy.faces_and_images, suppressions, now)
        kept = identities.adopt(
            connection,
            {
                person.performer_id: list(person.records)
                for person in people
                if person.performer_id is not None
            },
            legacy.used_up_to,
            now,
        )
    return LegacyReport(sources, kept, left_out["suppressed"], left_out["not adult"])


def _verdict(person: LegacyPerson, suppressions: Suppressions, today: date) -> str | None:
    """Why a person must not be in the catalog; None if nothing is against it."""
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
) -> tuple[TakenOver, ...]:
    records: dict[str, list[PerformerRecord]] = defaultdict(list)
    gone: dict[str, dict[str, str | None]] = defaultdict(dict)
    for person in people:
        for (source, _), record in person.records.items():
            records[source].append(record)
        for (source, source_id), survivor in person.merged.items():
            gone[source][source_id] = survivor
    report = []
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
        report.append(TakenOver(source, added, tombstones, noted))
    return tuple(report)
