"""Intake check: decides which records of a batch may be stored, and deletes and notes the others.

A record is withheld when it belongs to a suppressed person, when it does not show an adult, or when it must wait for
the operator's review. The methods run inside a transaction of the caller's, which commits what they wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.performer_rows import of_other_genders
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.privacy.erasure import erase_alone, erase_awaited, erase_records
from stash_sense_pipeline.privacy.intake.adults import why_no_adult
from stash_sense_pipeline.privacy.intake.comparison import compare, remember_personas
from stash_sense_pipeline.privacy.intake.holding import (
    SUPPRESSED,
    reason_of,
    release_allowed,
    remember_held,
)
from stash_sense_pipeline.privacy.intake.parsed_record import HashedPage, ParsedRecord
from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence, Relatives
from stash_sense_pipeline.privacy.linked_records import own_pages
from stash_sense_pipeline.privacy.suppression.suppression_hashes import RECORD, URL, record_hash, url_hashes
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    ASSOCIATED,
    NAMED,
    HashRow,
    Suppressions,
    store_hashes,
)
from stash_sense_pipeline.privacy.url_forms import record_page
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.record_key import OTHER_IDS, RecordKey
from stash_sense_pipeline.settings.schema import GENDERS

# Reasons of records that a source's gender_filter leaves out begin with it; the gender follows.
_GENDER = "gender_"
# A record that does not show an adult now may show one later.
_WITHHELD_FOR = timedelta(days=30)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class WithheldIds:
    """The ids of the records that a run withheld, by reason. The sets grow while the run reads."""

    suppressed: set[str]
    not_adult: set[str]
    held: set[str]
    other_gender: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Admitted:
    """The records of a batch that may be stored, without their suppressed images.

    `traces` are the texts by which erased records can be found in files: remove them before the commit.
    """

    records: list[PerformerRecord]
    traces: tuple[str, ...]


@dataclass(frozen=True)
class AdmittedTombstones:
    """The tombstones that may be written, as `gone` of admit_tombstones. `traces` as in Admitted."""

    gone: dict[str, str | None]
    traces: tuple[str, ...]


class _Refusal(NamedTuple):
    """Why a record is not stored, and what of it the list keeps.

    `is_person`: the record is a record of the suppressed person itself. `is_near`: it shares evidence with a named
    record, or its id was added to the list before. `is_chained`: it is two hops away, or held for review.
    """

    reason: str
    is_person: bool = False
    is_near: bool = False
    is_chained: bool = False


class _Withheld(NamedTuple):
    """A record that is not stored, as it was parsed for the decision."""

    record: PerformerRecord
    parsed: ParsedRecord
    why: _Refusal


def _gender_reason(gender: str) -> str:
    return f"{_GENDER}{gender.lower()}"


class Withholding:
    """The intake check of one source during one run.

    `genders`: only records of these genders, or of unknown gender, are stored; None: all. `ids` collects the ids of
    withheld records. `relatives` finds stored records of a suppressed person before
    identities link them; with None they are not looked for.
    """

    def __init__(
        self,
        source: str,
        suppressions: Suppressions,
        clock: Clock,
        ids: WithheldIds,
        relatives: Relatives | None = None,
    ) -> None:
        self.genders: Collection[str] | None = None
        self._source = source
        self._suppressions = suppressions
        self._clock = clock
        self._ids = ids
        self._relatives = relatives
        # Suppressed records that no run has searched relatives for, each with its version.
        self._unsearched: dict[RecordEvidence, datetime | None] = {}
        self._shows_awaited = False

    @property
    def shows_awaited(self) -> bool:
        """True when a stored record shows an image that the suppression list awaits: call erase_awaited."""
        return self._shows_awaited

    @property
    def has_unsearched(self) -> bool:
        """True when stored records may link to a record that was refused: call erase_linked."""
        return bool(self._unsearched) and self._relatives is not None

    def is_suppressed(self, source_id: str) -> bool:
        """True for an id that must not be stored, not even as a tombstone."""
        return self._suppressions.covers_record(self._source, source_id)

    def withheld_versions(
        self, connection: sa.Connection, source_ids: Collection[str]
    ) -> dict[str, datetime | None]:
        """The source's time of last change of those of these records that were withheld in the last 30 days."""
        hashes = {self._hash(source_id): source_id for source_id in source_ids}
        since = self._clock.now() - _WITHHELD_FOR
        # What the filter left out before and lets through now is read again.
        wanted = GENDERS if self.genders is None else self.genders
        readmitted = [_gender_reason(gender) for gender in wanted]
        return performers.withheld_versions(connection, self._source, hashes, since, besides=readmitted)

    def leave_out_genders(self, connection: sa.Connection) -> tuple[str, ...]:
        """Deletes the stored records that the gender filter does not let through, and notes that they are withheld.

        Returns traces as in Admitted. Other records of the same people stay.
        """
        if self.genders is None:
            return ()
        found = of_other_genders(connection, self._source, self.genders)
        self._ids.other_gender.update(row.source_id for row in found)
        traces = erase_alone(connection, set(self._keys([row.source_id for row in found])), self._clock.now())
        rows = [self._row(row.source_id, row.updated_at, _gender_reason(row.gender)) for row in found]
        performers.withhold_records(connection, self._source, rows, self._clock.now())
        return traces

    def admit(self, connection: sa.Connection, records: Sequence[PerformerRecord]) -> Admitted:
        """Decides which of these records may be stored. What the catalog has of the others is deleted.

        The list is read again in the transaction, as another process may have added to it since the run began.
        """
        self._suppressions = self._suppressions.refreshed(connection)
        allowed: list[PerformerRecord] = []
        withheld: list[_Withheld] = []
        for record in records:
            parsed = ParsedRecord(self._evidence(record), self._suppressions.key)
            why = self._refusal(record, parsed)
            if why is None:
                allowed.append(self._with_shown_images(record))
            else:
                withheld.append(_Withheld(record, parsed, why))
        traces = self._withhold(connection, withheld)
        ids = [record.source_id for record in allowed]
        release_allowed(connection, self._suppressions, self._source, ids)
        return Admitted(allowed, traces)

    def admit_tombstones(
        self, connection: sa.Connection, gone: Mapping[str, str | None]
    ) -> AdmittedTombstones:
        """Decides which tombstones may be written; `gone` maps ids to the survivors of a merge, or to None.

        A record that was merged with a suppressed one, in either direction, is the same person, and is erased.
        """
        self._suppressions = self._suppressions.refreshed(connection)
        known = {key: target for key, target in gone.items() if not self.is_suppressed(key)}
        into = {key for key, target in known.items() if target is not None and self.is_suppressed(target)}
        survivors = {target for key, target in gone.items() if target is not None and self.is_suppressed(key)}
        traces = self._erase(connection, self._keys(into | survivors))
        kept = {key: target for key, target in known.items() if key not in into | survivors}
        return AdmittedTombstones(kept, traces)

    def erase_awaited(self, connection: sa.Connection) -> tuple[str, ...]:
        """Erases the people who alone show an image that the list awaited. Returns traces as in Admitted."""
        self._suppressions = self._suppressions.refreshed(connection)
        traces = erase_awaited(connection, self._suppressions, self._clock.now(), self._relatives)
        self._shows_awaited = False
        return traces

    def erase_linked(self, connection: sa.Connection) -> tuple[str, ...]:
        """Erases the people of stored records that link to refused ones by the rules of identity.

        Returns traces as in Admitted. Reads the whole catalog: call it once a run. Until then the refused
        records have no version in the catalog, so that the run after a kill reads them again and searches again.
        """
        if self._relatives is None:
            return ()
        self._suppressions = self._suppressions.refreshed(connection)
        unsearched = self._unsearched
        linked = self._relatives.of(connection, (), list(unsearched), self._suppressions.is_other)
        traces = self._erase(connection, linked)
        rows = [
            self._row(evidence.source_id, version, SUPPRESSED) for evidence, version in unsearched.items()
        ]
        performers.withhold_records(connection, self._source, rows, self._clock.now())
        self._unsearched = {}
        return traces

    def _refusal(self, record: PerformerRecord, parsed: ParsedRecord) -> _Refusal | None:
        """Why a record must not be stored, None when it may be."""
        found = compare(self._suppressions, parsed)
        if found.degree is not None:
            self._ids.suppressed.add(record.source_id)
            is_near = found.degree == NAMED or found.by_id is not None
            return _Refusal(SUPPRESSED, found.by_id == NAMED, is_near, is_chained=not is_near)
        problem = why_no_adult(record.birth_date, record.career_start_year, self._clock.now().date())
        if problem is not None:
            self._ids.not_adult.add(record.source_id)
            return _Refusal(problem)
        if found.is_held:
            self._ids.held.add(record.source_id)
            return _Refusal(reason_of(found), is_chained=True)
        if self.genders is not None and record.gender is not None and record.gender not in self.genders:
            self._ids.other_gender.add(record.source_id)
            return _Refusal(_gender_reason(record.gender))
        return None

    def _evidence(self, record: PerformerRecord) -> RecordEvidence:
        # A new record under the slug of an erased one has the same profile page.
        other_ids = tuple(str(record.raw[name]) for name in OTHER_IDS if record.raw.get(name))
        return RecordEvidence(
            self._source,
            record.source_id,
            record.name,
            record.aliases,
            record.birth_date,
            record.gender,
            record.country,
            record.urls,
            record.merged_ids,
            other_ids,
        )

    def _withhold(self, connection: sa.Connection, withheld: Sequence[_Withheld]) -> tuple[str, ...]:
        """Deletes what is stored of these records, notes that they are withheld, and returns the traces."""
        if not withheld:
            return ()
        now = self._clock.now()
        self._remember(connection, withheld, now)
        people = [each.record.source_id for each in withheld if each.why.is_person]
        traces = self._erase(connection, self._keys(performers.liveness(connection, self._source, people)))
        ids = [each.record.source_id for each in withheld]
        stored = performers.liveness(connection, self._source, ids)
        traces += erase_alone(connection, set(self._keys(stored)), now)
        unsearched = self._new_people(connection, withheld)
        self._unsearched |= unsearched
        rows = [
            self._row(
                record.source_id, None if parsed.evidence in unsearched else record.updated_at, why.reason
            )
            for record, parsed, why in withheld
        ]
        performers.withhold_records(connection, self._source, rows, now)
        return traces

    def _remember(self, connection: sa.Connection, withheld: Sequence[_Withheld], now: datetime) -> None:
        """Keeps the evidence of refused and held records as hashes, which recognise other records of the person."""
        near = {each.record.source_id: each.parsed for each in withheld if each.why.is_near}
        pages = {source_id: parsed.identifying for source_id, parsed in near.items()}
        # Pages of a stored record that another identity lists too do not identify the person: they are left out.
        for source_id in performers.liveness(connection, self._source, list(near)):
            own = own_pages(connection, (self._source, source_id), [each.page for each in pages[source_id]])
            pages[source_id] = tuple(each for each in pages[source_id] if each.page.url in own)
        store_hashes(connection, self._suppressions.key, self._associated_rows(pages, now))
        remember_personas(connection, self._suppressions, list(near.values()), now)
        chained = [each.parsed for each in withheld if each.why.is_chained]
        remember_held(connection, self._suppressions, chained)

    def _associated_rows(self, pages: Mapping[str, Collection[HashedPage]], now: datetime) -> list[HashRow]:
        """Rows of the list for refused records: their ids, their stash-box pages, and their identifying pages.

        The next erasure searches the catalog for them, as other records may list the same pages.
        """
        key = self._suppressions.key
        reason = "shares evidence with a suppressed person"
        rows = [
            HashRow(RECORD, record_hash(key, self._source, each), reason, now, ASSOCIATED) for each in pages
        ]
        hosts = self._relatives.hosts if self._relatives is not None else {}
        own = filter(None, (record_page((self._source, source_id), hosts) for source_id in pages))
        digests = {(url, digest) for url in own for digest in url_hashes(key, url)}
        digests |= {
            (hashed.page.url, digest)
            for listed in pages.values()
            for hashed in listed
            for kind, digest in hashed.kept
            if kind == URL
        }
        return rows + [HashRow(URL, digest, reason, now, ASSOCIATED) for _, digest in sorted(digests)]

    def _new_people(
        self, connection: sa.Connection, withheld: Sequence[_Withheld]
    ) -> dict[RecordEvidence, datetime | None]:
        """Records of suppressed people in a version that no run has refused before."""
        if self._relatives is None:
            return {}
        people = {each.record.source_id: each for each in withheld if each.why.is_person}
        hashes = {self._hash(source_id): source_id for source_id in people}
        known = performers.withheld_versions(connection, self._source, hashes, _EVER)
        return {
            parsed.evidence: record.updated_at
            for source_id, (record, parsed, _) in people.items()
            if record.updated_at is None or known.get(source_id) != record.updated_at
        }

    def _with_shown_images(self, record: PerformerRecord) -> PerformerRecord:
        """The record without suppressed images. An awaited one stays until all records that show it are known."""
        covered = [
            image
            for image in record.images
            if self._suppressions.covers_picture(self._source, image.image_id, image.url)
        ]
        awaited = [image for image in covered if self._suppressions.awaits_image(image.url)]
        self._shows_awaited = self._shows_awaited or bool(awaited)
        if len(awaited) == len(covered):
            return record
        shown = tuple(image for image in record.images if image not in covered or image in awaited)
        return replace(record, images=shown)

    def _erase(self, connection: sa.Connection, records: Collection[RecordKey]) -> tuple[str, ...]:
        if not records:
            return ()
        now = self._clock.now()
        return erase_records(connection, self._suppressions, records, now, self._relatives).traces

    def _row(self, source_id: str, version: datetime | None, reason: str) -> performers.WithheldRecord:
        """The note of a withheld record. One that the operator has nothing to review of is known by its hash alone."""
        shown = None if reason == SUPPRESSED or reason.startswith(_GENDER) else source_id
        return performers.WithheldRecord(self._hash(source_id), version, reason, shown)

    def _hash(self, source_id: str) -> str:
        return self._suppressions.withheld_hash(self._source, source_id)

    def _keys(self, source_ids: Collection[str]) -> list[RecordKey]:
        return [(self._source, source_id) for source_id in source_ids]
