"""The list of suggestions: computed from the catalog, without suppressed people, checked again before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import suggestion_details as store
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.identity.source_suggestions.duplicates import find_duplicates
from stash_sense_pipeline.identity.source_suggestions.identity_state import IdentityState, SuggestionRules
from stash_sense_pipeline.identity.source_suggestions.misplaced_pictures import find_misplaced_pictures
from stash_sense_pipeline.identity.source_suggestions.suggestion import (
    DescribedRecord,
    Suggestion,
    SuggestionKind,
    SuggestionList,
    in_order,
)
from stash_sense_pipeline.identity.source_suggestions.wrong_links import find_wrong_links
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.privacy.url_forms import record_page
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey


def find_suggestions(
    engine: sa.Engine, rules: SuggestionRules, listed: Suppressions = NO_SUPPRESSIONS
) -> SuggestionList:
    """The suggestions that follow from the last identity run and the last choice of trusted faces.

    Reads the whole catalog and writes nothing. People on the suppression list are left out with all their records,
    also before the list is applied to the catalog.
    """
    reads = ShortReads(engine)
    with collector_paused():
        state = IdentityState.read(reads, rules)
        duplicates = find_duplicates(state)
        same = {frozenset((row.record, row.other)) for row in duplicates}
        others = [*find_misplaced_pictures(reads, state, rules.models), *find_wrong_links(state)]
        found = [*duplicates, *(row for row in others if frozenset((row.record, row.other)) not in same)]
        pictures = reads(store.read_picture_urls, [_picture(row) for row in found if row.picture])
        shown = [replace(row, subject=pictures.get(_picture(row), row.subject)) for row in found]
        kept = _without_suppressed(shown, state, listed)
        facts = reads(store.read_names, {key for row in kept for key in (row.record, row.other)})
    records = {
        key: DescribedRecord(key, name, disambiguation, record_page(key, rules.hosts))
        for key, (name, disambiguation) in facts.items()
    }
    current = [row for row in kept if row.record in records and row.other in records]
    return SuggestionList(in_order(current), records, state.calibration.reason)


def still_current(connection: sa.Connection, found: SuggestionList) -> SuggestionList:
    """The suggestions of which the catalog still holds both records, and the picture or the link on the first one."""
    live = store.read_names(connection, found.records.keys()).keys()
    pictures = store.read_shown(connection, [_picture(row) for row in found.suggestions if row.picture])
    links = store.read_links(connection, {row.record for row in found.suggestions if _has_link(row)})
    kept = tuple(
        row
        for row in found.suggestions
        if row.record in live
        and row.other in live
        and (not row.picture or (*row.record, row.picture) in pictures)
        and (not _has_link(row) or (*row.record, row.subject) in links)
    )
    named = {key for row in kept for key in (row.record, row.other)}
    return replace(
        found, suggestions=kept, records={key: row for key, row in found.records.items() if key in named}
    )


def _has_link(row: Suggestion) -> bool:
    return row.kind == SuggestionKind.LINK


def _picture(row: Suggestion) -> ImageKey:
    return row.record[0], row.picture


def _without_suppressed(
    found: Sequence[Suggestion], state: IdentityState, listed: Suppressions
) -> list[Suggestion]:
    if not listed.knows_evidence and not len(listed):
        return list(found)
    people: dict[int | RecordKey, bool] = {}

    def is_listed(key: RecordKey) -> bool:
        person = state.person(key)
        if person not in people:
            members = state.records_of[person] if isinstance(person, int) else (key,)
            people[person] = any(_is_suppressed(state, listed, each) for each in members)
        return people[person]

    return [
        row
        for row in found
        if not is_listed(row.record)
        and not is_listed(row.other)
        and not (row.subject and listed.covers_url(row.subject))
        and not (row.picture and listed.covers_picture(*_picture(row), row.subject))
    ]


def _is_suppressed(state: IdentityState, listed: Suppressions, key: RecordKey) -> bool:
    """True for a record that matches the list by its id or a page, or that waits for the operator's review."""
    record = state.records[key]
    ids = (key[1], *record.also_known_by)
    return listed.degree(key[0], ids, record.urls) is not None or listed.is_held(*key)
