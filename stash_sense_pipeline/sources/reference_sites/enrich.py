"""Enriches performers from a site: profiles due, results stored, refusals counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.sync_state import load_state, save_state
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.cooldown import check_cooldown, end_cooldown
from stash_sense_pipeline.sources.ingest_context import IngestContext
from stash_sense_pipeline.sources.reference_sites.enrichment.answer_log import AnswerLog
from stash_sense_pipeline.sources.reference_sites.enrichment.context import NAME, URL, EnrichContext
from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import (
    FIELDS,
    FieldDrift,
    FieldHistory,
)
from stash_sense_pipeline.sources.reference_sites.enrichment.listed_visits import ListedVisits
from stash_sense_pipeline.sources.reference_sites.enrichment.listing import Listing, read_listing
from stash_sense_pipeline.sources.reference_sites.enrichment.name_search import NameSearch
from stash_sense_pipeline.sources.reference_sites.enrichment.profile_store import ProfileStore
from stash_sense_pipeline.sources.reference_sites.enrichment.visit_recorder import VisitRecorder
from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector


@dataclass(frozen=True)
class EnrichRules:
    """The numbers of a run.

    `revisit`: the shortest time between two visits to a profile, or two searches for a name. `confirm`: the shortest time
    until a stored profile that was missing is visited again. `layout_mismatches`: this many pages in a row without the
    page selector mean a new layout, if sample pages lack it too. `doubt`: how long a profile stays rejected after its
    faces were found to be another person's.
    """

    revisit: timedelta = timedelta(days=30)
    confirm: timedelta = timedelta(days=3)
    layout_mismatches: int = 3
    doubt: timedelta = timedelta(days=180)


@dataclass(frozen=True)
class EnrichReport:
    """The result of a run.

    `listed`: how many profiles stash-boxes list; `live`: how many records the catalog has now. `outcomes` counts visits
    and searches by outcome. `refused`: records that no stash-box lists now, and that were kept because they are too many
    at once (`missing` has the numbers). `unread`: profiles that could not be read or stored, counted by reason in
    `unread_reasons`; `left_out` counts by field the values of other profiles that were left out.
    `fields` counts by page type the pages of this run, and how many of them have each field; `drifts`: fields that are
    found far less often than usual. An `outcome` other than found has a `message`: one line without names or addresses
    of people.
    """

    source: str
    mode: str
    listed: int
    live: int
    added: int
    updated: int
    removed: int
    merged: int
    unchanged: int
    images_added: int
    suppressed: int
    not_adult: int
    held: int
    refused: int
    unread: int
    requests: int
    outcomes: Mapping[str, int]
    outcome: Outcome
    message: str | None
    seconds: float
    missing: Mapping[str, int] = field(default_factory=dict)
    unread_reasons: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    drifts: Sequence[FieldDrift] = ()


async def enrich_source(
    ingest: IngestContext,
    settings: ReferenceSiteSettings,
    boxes: Mapping[str, str],
    connector: SiteConnector,
    rules: EnrichRules | None = None,
) -> EnrichReport:
    """Visits the profiles of one site that are due, and stores what they say about performers of the stash-boxes.

    `boxes`: universal-id host of each stash-box by name, the most trusted first. A failure of the site is the outcome of
    the report, not an exception; what was stored before it stays, and the next run tries again what failed.
    """
    writer = CatalogWriter(ingest, settings.name)
    context = EnrichContext(
        ingest.engine, settings, boxes, connector, ingest.suppressions, ingest.progress, ingest.clock
    )
    return await _Run(context, writer, rules or EnrichRules()).run()


class _Run:
    """One run of `enrich_source`: its steps, their order, and the report."""

    def __init__(self, context: EnrichContext, writer: CatalogWriter, rules: EnrichRules) -> None:
        self._context = context
        self._writer = writer
        self._rules = rules
        self._answers = AnswerLog(context, rules.layout_mismatches)
        self._store = ProfileStore(context, writer)
        self._listed = 0
        self._too_many_unlisted: Mapping[str, int] = {}
        self._fields: Mapping[str, Mapping[str, int]] = {}
        self._drifts: Sequence[FieldDrift] = ()

    async def run(self) -> EnrichReport:
        """Runs all steps, and saves the state of the source."""
        context = self._context
        started, requests_before = context.clock.monotonic(), context.connector.client.requests
        outcome, message, is_complete = Outcome.FOUND, None, False
        try:
            check_cooldown(context.engine, context.source, context.clock.now())
            listing = await asyncio.to_thread(read_listing, context, self._rules.doubt)
            self._listed = len(listing.profiles)
            self._writer.tally.suppressed |= listing.suppressed
            if context.settings.fetch:
                await self._fetch(listing)
            is_complete = True
        except SourceError as error:
            outcome, message = error.outcome, str(error)
        finally:
            # Also after a cancellation, so that what was read is stored.
            await self._store.flush()
        await self._writer.erase_linked()
        if self._too_many_unlisted:
            outcome = Outcome.AMBIGUOUS
            count = self._too_many_unlisted["count"]
            message = f"{context.source}: {count} profiles are no longer listed, too many at once"
        live = await asyncio.to_thread(self._save_state, outcome, message, is_complete)
        requests = context.connector.client.requests - requests_before
        return self._report(outcome, message, live, requests, context.clock.monotonic() - started)

    async def _fetch(self, listing: Listing) -> None:
        """Visits listed profiles and searches by name, then removes records that are gone."""
        visits = ListedVisits(self._context, listing, self._recorder(URL), self._rules.confirm)
        await visits.run()
        if self._context.settings.reference_mode == NAME:
            await NameSearch(self._context, listing, self._recorder(NAME)).run()
        self._answers.check()
        visits.remove_missing()
        unlisted = listing.unlisted(self._store.stored)
        allowed = self._writer.context.rules.allowed_missing(len(listing.held))
        if len(unlisted) > allowed:
            self._too_many_unlisted = {
                "count": len(unlisted),
                "live": len(listing.held),
                "allowed": allowed,
            }
        else:
            self._store.remove(unlisted)
        await self._store.finish()

    def _recorder(self, mode: str) -> VisitRecorder:
        return VisitRecorder(mode, self._answers, self._store, self._context.clock, self._rules.revisit)

    def _save_state(self, outcome: Outcome, message: str | None, is_complete: bool) -> int:
        """Saves the state of the source. Returns how many live records it has."""
        now, source = self._context.clock.now(), self._context.source
        unread = self._answers.unread
        with writing(self._context.engine) as connection:
            state = load_state(connection, source)
            is_answering = is_complete and self._answers.answers
            detail = dict(end_cooldown(state.detail) if is_answering else state.detail)
            unread.note(self._store.unread_records())
            if unread:
                detail["unread"] = unread.detail()
            else:
                detail.pop("unread", None)
            counted = self._context.connector.fields.of_types()
            self._fields = {kind: {"pages": each.pages, **each.found} for kind, each in counted.items()}
            history = FieldHistory.from_detail(detail.get(FIELDS)).after(counted, now)
            self._drifts = history.drifts
            detail[FIELDS] = history.detail()
            state = replace(
                state,
                last_outcome=outcome.value,
                last_message=message,
                last_sync_at=now if is_complete else state.last_sync_at,
                detail=detail,
            )
            save_state(connection, state)
            return performers.count_records(connection, source).live

    def _report(
        self, outcome: Outcome, message: str | None, live: int, requests: int, seconds: float
    ) -> EnrichReport:
        context, tally, unread = self._context, self._writer.tally, self._answers.unread
        return EnrichReport(
            source=context.source,
            mode=context.settings.reference_mode if context.settings.fetch else "identifiers",
            listed=self._listed,
            live=live,
            added=tally.added,
            updated=tally.updated,
            removed=tally.removed,
            merged=0,
            unchanged=live - tally.added - tally.updated,
            images_added=tally.images_added,
            suppressed=len(tally.suppressed),
            not_adult=0,
            held=len(tally.held),
            refused=self._too_many_unlisted.get("count", 0),
            unread=len(unread),
            requests=requests,
            outcomes=dict(sorted(self._answers.outcomes.items())),
            outcome=outcome,
            message=message,
            seconds=seconds,
            missing=self._too_many_unlisted,
            unread_reasons=unread.reasons,
            left_out=dict(sorted(context.connector.left_out.items())),
            fields=self._fields,
            drifts=self._drifts,
        )
