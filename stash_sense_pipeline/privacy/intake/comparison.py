"""Comparison of a record with the suppression list and with held records, and what the list keeps of a refused one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import rows_of
from stash_sense_pipeline.catalog.schema import performer_urls
from stash_sense_pipeline.privacy.intake.parsed_record import ParsedRecord, digests_of
from stash_sense_pipeline.privacy.intake.persona_texts import persona_hits
from stash_sense_pipeline.privacy.suppression.suppression_hashes import PERSONA, record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    ASSOCIATED,
    NAMED,
    HashRow,
    Suppressions,
    store_hashes,
)


@dataclass(frozen=True)
class Findings:
    """How a record matches suppressed people.

    `degree` is that of its ids and pages (NAMED, ASSOCIATED, or None for no match), `by_id` that of its own ids alone.
    `is_like`: its name and birth date, or a page on an unknown site, match a suppressed person. `is_linked`: it shares
    evidence with a held record.
    """

    degree: int | None = None
    by_id: int | None = None
    is_like: bool = False
    is_linked: bool = False

    @property
    def is_held(self) -> bool:
        """True when the record must wait for the operator's review."""
        return self.degree is None and (self.is_like or self.is_linked)


NOTHING = Findings()


def compare(suppressions: Suppressions, record: ParsedRecord) -> Findings:
    """Compares a record with the suppression list.

    A record that the operator has declared another person matches only by its ids, or by evidence of a named record.
    """
    known = suppressions
    if not known.knows_evidence:
        return NOTHING
    key, evidence = known.key, record.evidence
    own_hash = record.own_hash
    ids = {own_hash, *(record_hash(key, evidence.source, each) for each in evidence.merged_ids)}
    called = {record_hash(key, evidence.source, each) for each in evidence.other_ids}
    pages = digests_of(record.pages)
    # A suppressed record that lists the page of this one may be wrong: this record is held, not refused.
    own = digests_of(record.own_pages) - ids
    by_id = _degree(known, ids & known.records)
    hashes = ids | called | pages
    degree = _degree(known, (hashes & known.records) | (pages & known.urls))
    if own_hash in known.others:
        return Findings(degree if degree == NAMED or by_id is not None else None, by_id)
    if degree is not None:
        return Findings(degree, by_id)
    is_like = (
        not known.urls.isdisjoint(own)
        or not known.personas.isdisjoint(pages | own)
        or (bool(known.personas) and any(True for _ in persona_hits(key, evidence, known.personas)))
    )
    return Findings(None, None, is_like, _is_linked(known, record, hashes | own))


def remember_personas(
    connection: sa.Connection, suppressions: Suppressions, refused: Collection[ParsedRecord], now: datetime
) -> None:
    """Stores hashes of the names of refused records, and of their pages on unknown sites that no stored record lists."""
    unknown = {each.page.url: each.plain_hash for record in refused for each in record.compared_as_written}
    table = performer_urls
    listed = {url for (url,) in rows_of(connection, sa.select(table.c.url).distinct(), table.c.url, unknown)}
    hashes = {digest for url, digest in unknown.items() if url not in listed}
    hashes = hashes.union(*(record.persona_hashes for record in refused))
    reason = "a name of a suppressed person"
    rows = [HashRow(PERSONA, digest, reason, now, applied_at=now) for digest in hashes]
    store_hashes(connection, suppressions.key, rows)


def _degree(known: Suppressions, hits: set[str]) -> int | None:
    return None if not hits else NAMED if hits - known.associated else ASSOCIATED


def _is_linked(known: Suppressions, record: ParsedRecord, hashes: set[str]) -> bool:
    """True when another held record shares one of these hashes, or a name and birth date."""
    if not known.held:
        return False
    own = known.withheld_hash(*record.evidence.record)
    hits = (hashes & known.held.keys()) | set(persona_hits(known.key, record.evidence, known.held.keys()))
    return any(known.held[each] - {own} for each in hits)
