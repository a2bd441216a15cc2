"""Enriches performers from a site: profiles due, results stored, refusals counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries import enrichment, performers
from stash_sense_pipeline.catalog.queries.enrichment import Known, StoredProfile, Visited
from stash_sense_pipeline.catalog.queries.site_records import rejected_since
from stash_sense_pipeline.catalog.queries.sync_state import load_state, save_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import (
    REFUSALS_IN_A_ROW,
    CircuitOpenError,
    HttpStatusError,
    LayoutChangedError,
    Outcome,
    SourceError,
    UnreadRecordError,
)
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.privacy.intake.record_evidence import Relatives
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.records.profile_sites import site as site_of
from stash_sense_pipeline.records.profile_urls import canonical_profile, parse_profile, stash_box_performer
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.cooldown import check_cooldown, end_cooldown, is_refusal, start_cooldown
from stash_sense_pipeline.sources.reference_sites.page import fold
from stash_sense_pipeline.sources.reference_sites.profile_matching import (
    any_order,
    claimants_of,
    genders_agree,
    is_called,
    is_full_name,
    passes_filter,
    record_of,
)
from stash_sense_pipeline.sources.reference_sites.site import Profile
from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector, Target, Visit
from stash_sense_pipeline.sources.sync_rules import SyncRules
from stash_sense_pipeline.sources.unread import UnreadNotes

_BATCH_SECONDS = 2.0
_BATCH_VISITS = 50
_URL, _NAME = "url", "name"
# Profiles that are asked for as evidence whether the site refuses us, or only the last pages.
_EVIDENCE = 2


@dataclass(frozen=True)
class EnrichRules:
    """The numbers of a run.

    `revisit`: the soonest second look at a profile or name. `confirm`: the soonest second look at a stored profile that
    was missing. `strange_pages`: so many in a row without their mark mean a new layout, if pages from elsewhere lack it too.
    `doubt`: how long a profile whose faces were a stranger's is not believed again.
    """

    revisit: timedelta = timedelta(days=30)
    confirm: timedelta = timedelta(days=3)
    strange_pages: int = 3
    doubt: timedelta = timedelta(days=180)
    vanishing: SyncRules = field(default_factory=SyncRules)


@dataclass(frozen=True)
class EnrichReport:
    """What a run did. `listed` profiles are named by stash-boxes; `outcomes` counts visits and searches by how they ended;
    `live` records are in the catalog now. `refused` ones are listed no more, too many at once to believe it. `unread`
    profiles came and could not be read or stored: `unread_reasons` counts them by reason, and `left_out` counts by field
    what was left out of others. An `outcome` other than found comes with a `message` of one line without names and
    addresses of people.
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


@dataclass
class _Pending:
    """What is not committed yet."""

    records: list[PerformerRecord] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    visited: dict[str, dict[str, Visited]] = field(default_factory=lambda: {_URL: {}, _NAME: {}})
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.visited[_URL]) + len(self.visited[_NAME]) + len(self.gone)


@dataclass(frozen=True)
class _Listed:
    """A profile that stash-boxes list: where it is, and the records that list it."""

    target: Target
    by: tuple[RecordKey, ...]
    # Identity reads the link of the records itself; otherwise our record must say whose it is.
    proves: bool


async def enrich_source(
    engine: sa.Engine,
    settings: ReferenceSiteSettings,
    boxes: Mapping[str, str],
    connector: SiteConnector,
    suppressions: Suppressions,
    progress: Progress = lambda stage, done, total: None,
    *,
    rules: EnrichRules | None = None,
    clock: Clock | None = None,
    data_dir: Path | None = None,
    relatives: Relatives | None = None,
) -> EnrichReport:
    """Visits the profiles of one site that are due, and stores what they say of performers that stash-boxes have.

    `boxes`: universal-id host of each stash-box by name, the most believed first. A failure of the site is the
    report's outcome, not an exception; what was stored before it stays, and what failed is tried again by the next run.
    `data_dir` and `relatives`: see Mirror.
    """
    clock = clock or Clock()
    writer = CatalogWriter(engine, settings.name, suppressions, clock, data_dir, relatives)
    return await _Enrichment(
        engine, settings, boxes, connector, suppressions, progress, rules or EnrichRules(), clock, writer
    ).run()


class _Enrichment:
    def __init__(
        self,
        engine: sa.Engine,
        settings: ReferenceSiteSettings,
        boxes: Mapping[str, str],
        connector: SiteConnector,
        suppressions: Suppressions,
        progress: Progress,
        rules: EnrichRules,
        clock: Clock,
        writer: CatalogWriter,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._boxes = boxes
        self._rank = {name: place for place, name in enumerate(boxes)}
        self._connector = connector
        self._refusals = suppressions
        self._progress = progress
        self._rules = rules
        self._clock = clock
        self._source = settings.name
        place = site_of(settings.name)
        self._identity_grade = place is not None and place.identity_grade
        self._pending = _Pending()
        self._outcomes: Counter[str] = Counter()
        self._strange = self._refused = self._answers = self._pages = 0
        self._last_failure: SourceError | None = None
        self._suspicion: SourceError | None = None
        self._patience = 1
        self._doubtful: dict[str, tuple[str, Visited]] = {}
        self._writer = writer
        self._held: dict[str, StoredProfile] = {}
        self._rejected: frozenset[str] = frozenset()
        self._stored: set[str] = set()
        self._missing: Mapping[str, int] = {}
        with reading(engine) as connection:
            before = load_state(connection, settings.name).detail.get("unread")
        # By the hash of the item: a profile's key is made of a name.
        self._unread = UnreadNotes(settings.name, before)

    async def run(self) -> EnrichReport:
        """All of it, down to the state of the source."""
        started, asked_before = self._clock.monotonic(), self._connector.client.requests
        outcome, message, listed = Outcome.FOUND, None, 0
        through = False
        try:
            check_cooldown(self._engine, self._source, self._clock.now())
            profiles = await asyncio.to_thread(self._listed_profiles)
            listed = len(profiles)
            if self._settings.fetch:
                await self._visit_listed(profiles)
                if self._settings.reference_mode == _NAME:
                    await self._search(profiles)
                self._judge_failures()
                await self._finish(profiles)
            through = True
        except SourceError as error:
            outcome, message = error.outcome, str(error)
        finally:
            # Also after a cancellation: what was read is stored.
            await self._flush()
        await self._writer.erase_linked()
        if self._missing:
            outcome = Outcome.AMBIGUOUS
            message = (
                f"{self._source}: {self._missing['count']} profiles are listed no more, too many at once"
            )
        live = await asyncio.to_thread(self._save_state, outcome, message, through)
        tally = self._writer.tally
        return EnrichReport(
            source=self._source,
            mode=self._settings.reference_mode if self._settings.fetch else "identifiers",
            listed=listed,
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
            refused=self._missing.get("count", 0),
            unread=len(self._unread),
            requests=self._connector.client.requests - asked_before,
            outcomes=dict(sorted(self._outcomes.items())),
            outcome=outcome,
            message=message,
            seconds=self._clock.monotonic() - started,
            missing=self._missing,
            unread_reasons=self._unread.reasons,
            left_out=dict(sorted(self._connector.left_out.items())),
        )

    # --- who is asked for -----------------------------------------------------------------------------------------

    def _listed_profiles(self) -> dict[str, _Listed]:
        """The profiles that live records of stash-boxes list, by key."""
        base = self._connector.base
        parts = [host.rpartition(".")[0] for host in base.hosts]
        parts += [base.configured.partition("://")[2]] if base.is_elsewhere else []
        found: dict[str, list[RecordKey]] = defaultdict(list)
        urls: dict[str, str] = {}
        proves: set[str] = set()
        with reading(self._engine) as connection:
            for record, url in enrichment.listed_urls(connection, list(self._boxes), parts):
                public = base.public(url)
                profile = parse_profile(public)
                if profile is None or profile.key.site != self._source:
                    continue
                key = profile.key.key
                if self._refusals.covers_url(public) or self._refusals.covers_record(self._source, key):
                    self._writer.tally.suppressed.add(key)
                    continue
                if record not in found[key]:
                    found[key].append(record)
                urls.setdefault(key, profile.url or public)
                if self._identity_grade and canonical_profile(url) == profile.key:
                    proves.add(key)
            self._held = enrichment.held_records(connection, self._source)
            since = self._clock.now() - self._rules.doubt
            self._rejected = rejected_since(connection, self._source, since)
        return {
            key: _Listed(Target(key, urls[key]), tuple(sorted(by, key=self._by_rank)), key in proves)
            for key, by in found.items()
        }

    def _by_rank(self, record: RecordKey) -> tuple[int, RecordKey]:
        return self._rank.get(record[0], len(self._rank)), record

    def _due(self, items: Mapping[str, str], visited: Mapping[str, Visited]) -> list[str]:
        """Of items with their hashes those whose time has come: never visited ones first, then the longest due."""
        now = self._clock.now()
        due = [
            item
            for item, digest in items.items()
            if digest not in visited or visited[digest].next_visit_at <= now
        ]
        return sorted(
            due,
            key=lambda item: (
                visited[items[item]].next_visit_at.isoformat() if items[item] in visited else "",
                item,
            ),
        )

    # --- listed profiles ------------------------------------------------------------------------------------------

    async def _visit_listed(self, profiles: Mapping[str, _Listed]) -> None:
        def load() -> tuple[dict[RecordKey, Known], dict[str, Visited]]:
            with reading(self._engine) as connection:
                wanted = {record for listed in profiles.values() for record in listed.by}
                return (
                    enrichment.known_records(connection, list(self._boxes), wanted),
                    enrichment.visits(connection, self._source, _URL),
                )

        known, visited = await asyncio.to_thread(load)
        records = {
            key: [known[record] for record in listed.by if record in known]
            for key, listed in profiles.items()
        }
        wanted = self._settings.gender_filter
        asked = {
            key: self._hash(key)
            for key in profiles
            if any(passes_filter(record.gender, wanted) for record in records[key])
        }
        due = self._due(asked, visited)
        self._progress("profiles", 0, len(due))
        done: set[str] = set()

        async def ask(keys: Sequence[str]) -> None:
            wanted = [key for key in keys if key not in done]
            targets = [
                self._conditional(profiles[key], visited.get(asked[key]), records[key]) for key in wanted
            ]
            async for visit in self._connector.visit(targets):
                key = visit.target.key
                done.add(key)
                await self._take_listed(visit, profiles[key], records[key], visited.get(asked[key]))
                self._progress("profiles", len(done.intersection(due)), len(due))
                if self._suspicion is not None and not looking:
                    await look_elsewhere()

        looking = False

        async def look_elsewhere() -> None:
            nonlocal looking
            looking = True
            await self._look_elsewhere(self._evidence(asked, visited, due, done), lambda key: ask([key]))
            looking = False

        for keys in batched(due, self._connector.batch):
            await ask(keys)

    def _evidence(
        self,
        asked: Mapping[str, str],
        visited: Mapping[str, Visited],
        due: Sequence[str],
        done: Collection[str],
    ) -> list[str]:
        """Profiles that tell whether the site answers: some that it gave before, or else some that wait elsewhere."""
        came = [
            key
            for key, item in asked.items()
            if key not in done and item in visited and visited[item].outcome == Outcome.FOUND
        ]
        rest = [key for key in due if key not in done]
        among = sorted(came) or rest
        step = max(1, len(among) // (_EVIDENCE + 1))
        return among[step :: max(1, step)][:_EVIDENCE] or among[:_EVIDENCE]

    async def _look_elsewhere(
        self, items: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        """Asks for these items until one is answered. Raises as _end_if_suspected."""
        for item in items:
            await ask(item)
            if self._suspicion is None:
                break
        self._end_if_suspected()

    def _end_if_suspected(self) -> None:
        """Raises when the evidence gave no answer either; or else the next suspicion takes twice as much."""
        error = self._suspicion
        if error is None:
            self._patience *= 2
            return
        if isinstance(error, LayoutChangedError):
            raise self._new_layout()
        if not is_refusal(error.outcome):
            message = f"gave no answer {self._refused} times in a row{_status(error)}; the next run asks others first"
            raise SourceError(self._source, error.outcome, message)
        until = start_cooldown(self._engine, self._source, self._clock.now())
        raise SourceError(
            self._source,
            error.outcome,
            f"refused {self._refused} times in a row{_status(error)}; "
            f"it is left alone until {until:%Y-%m-%d %H:%M} UTC",
        )

    def _conditional(self, listed: _Listed, before: Visited | None, records: Sequence[Known]) -> Target:
        """The target with the validators of the last visit, where an unchanged page would change nothing here."""
        held = self._held_for(listed.target.key)
        if before is None or held is None or before.outcome != Outcome.FOUND:
            return listed.target
        links = {stash_box_performer(url) for url in held.urls} - {None}
        if links and links.isdisjoint(self._performer(record) for record in records):
            return listed.target
        return replace(listed.target, etag=before.etag, last_modified=before.last_modified)

    def _held_for(self, key: str) -> StoredProfile | None:
        """The stored record of a profile, also where that became known by a newer id."""
        if key in self._held:
            return self._held[key]
        return (
            next((held for held in self._held.values() if key in self._keys_of(held)), None)
            if ":" in key
            else None
        )

    def _keys_of(self, held: StoredProfile) -> set[str]:
        pages = (canonical_profile(url) for url in held.urls)
        return {
            held.source_id,
            *(page.key for page in pages if page is not None and page.site == self._source),
        }

    async def _take_listed(
        self, visit: Visit, listed: _Listed, records: Sequence[Known], before: Visited | None
    ) -> None:
        item = self._hash(visit.target.key)
        if await self._is_unread(_URL, item, visit):
            return
        if visit.error is not None:
            if self._failed(visit.error):
                await self._postpone(_URL, item, visit.error, before)
                return
            await self._absent(item, visit, before)
            return
        self._answered(page=True)
        self._unread.read([item])
        if visit.profile is None:
            self._outcomes["unchanged"] += 1
            await self._note(_URL, item, self._visited(visit, Outcome.FOUND))
            return
        profile = visit.profile
        wanted = self._settings.gender_filter
        fitting = (
            ()
            if not passes_filter(profile.gender, wanted)
            else claimants_of(profile, records, same_person_only=not listed.proves)
        )
        if not fitting or profile.key in self._rejected or self._covered(profile):
            await self._withdraw(profile.key)
            await self._conclude(_URL, item, visit, Outcome.AMBIGUOUS)
            return
        extra = [visit.target.url]
        if not listed.proves:
            extra.append(self._performer_url(fitting[0]))
        await self._store(profile, fitting, _URL, extra)
        await self._conclude(_URL, item, visit, Outcome.FOUND)

    async def _is_unread(self, mode: str, item: str, visit: Visit) -> bool:
        """Notes a profile that came and cannot be used. What is stored of it stays; it is visited again as others are."""
        if not isinstance(visit.error, UnreadRecordError):
            return False
        self._answered(page=True)
        self._outcomes["unread"] += 1
        self._unread.note([UnreadRecord(item, visit.error.reason, item)])
        await self._note(mode, item, self._visited(visit, Outcome.AMBIGUOUS))
        return True

    def _covered(self, profile: Profile) -> bool:
        """Is this somebody who must not be stored?"""
        pages = (*profile.urls, *profile.links)
        covered = self._refusals.degree(self._source, [profile.key], pages) is not None
        if covered:
            self._writer.tally.suppressed.add(profile.key)
        return covered

    async def _postpone(self, mode: str, item: str, error: SourceError, before: Visited | None) -> None:
        """Moves an item that gave no answer behind the others: the next run asks for it last. What was known of it stays."""
        if error.outcome is Outcome.DISALLOWED:
            return  # no request was sent
        now = self._clock.now()
        known = before or Visited(error.outcome.value, now, now)
        await self._note(mode, item, replace(known, next_visit_at=now))

    async def _absent(self, item: str, visit: Visit, before: Visited | None) -> None:
        """No such page, or somebody else's. A stored one is removed at the second sight of it, some days later."""
        assert visit.error is not None
        held = self._held_for(visit.target.key)
        outcome = visit.error.outcome
        if outcome is Outcome.AMBIGUOUS or held is None:
            if held is not None:
                await self._withdraw(held.source_id)
            await self._note(_URL, item, self._visited(visit, outcome))
            return
        now = self._clock.now()
        since = before.missing_since if before is not None else None
        if since is not None and now - since >= timedelta(days=1):
            gone = replace(self._visited(visit, Outcome.GONE), missing_since=since)
            self._doubtful[held.source_id] = (item, gone)
            return
        first = self._visited(visit, Outcome.NOT_FOUND)
        await self._note(
            _URL, item, replace(first, missing_since=since or now, next_visit_at=now + self._rules.confirm)
        )

    # --- by name --------------------------------------------------------------------------------------------------

    async def _search(self, profiles: Mapping[str, _Listed]) -> None:
        """Looks those up whom no stash-box links to this site: by one full name that nobody else has."""

        def load() -> tuple[dict[RecordKey, Known], dict[str, Visited]]:
            with reading(self._engine) as connection:
                return (
                    enrichment.known_records(connection, list(self._boxes)),
                    enrichment.visits(connection, self._source, _NAME),
                )

        known, visited = await asyncio.to_thread(load)
        linked = {record for listed in profiles.values() for record in listed.by}
        people = self._people(known.values(), linked)
        items = {f"{person.source}:{person.source_id}": (person, name) for person, name in people}
        asked = {item: self._hash(item) for item in items}
        due = self._due(asked, visited)
        self._progress("names", 0, len(due))
        done: set[str] = set()

        async def ask(item: str) -> None:
            person, name = items[item]
            done.add(item)
            await self._search_one(asked[item], visited.get(asked[item]), person, name, profiles)
            self._progress("names", len(done.intersection(due)), len(due))

        for item in due:
            if item in done:
                continue
            await ask(item)
            if self._suspicion is not None:
                await self._look_elsewhere(self._evidence(asked, visited, due, done), ask)

    def _people(self, known: Collection[Known], linked: Collection[RecordKey]) -> list[tuple[Known, str]]:
        """One record of each person to search for, with the name to ask for. A name of two people is left out."""
        main: dict[str, list[Known]] = defaultdict(list)
        holders: dict[str, list[Known]] = defaultdict(list)
        for record in known:
            main[any_order(record.name)].append(record)
            for called in {any_order(name) for name in (record.name, *record.aliases)}:
                holders[called].append(record)
        wanted = self._settings.gender_filter
        found: dict[str, tuple[Known, str]] = {}
        for records in main.values():
            if any((record.source, record.source_id) in linked for record in records) or not any(
                passes_filter(record.gender, wanted) for record in records
            ):
                continue
            records.sort(key=lambda record: self._by_rank((record.source, record.source_id)))
            names = [record.name for record in records] + [a for record in records for a in record.aliases]
            # Searches want Latin letters; the first such name of at least two words.
            name = next((each for each in names if " " in fold(each) and fold(each).isascii()), None)
            if name is None:
                continue
            if _may_be_several(holders[any_order(name)]):
                self._outcomes[Outcome.AMBIGUOUS.value] += 1
                continue
            found.setdefault(any_order(name), (records[0], name))
        return list(found.values())

    async def _search_one(
        self,
        item: str,
        before: Visited | None,
        person: Known,
        name: str,
        profiles: Mapping[str, _Listed],
    ) -> None:
        link = self._performer_url(person)
        try:
            hits = await self._connector.find(name)
        except SourceError as error:
            if self._failed(error):
                await self._postpone(_NAME, item, error, before)
            else:
                await self._note(_NAME, item, self._answer_now(error.outcome))
            return
        self._answered(page=False)
        if len(hits) != 1:
            outcome = Outcome.AMBIGUOUS if hits else Outcome.NOT_FOUND
            self._outcomes[outcome.value] += 1
            await self._note(_NAME, item, self._answer_now(outcome))
            return
        hit = hits[0]
        held = self._held.get(hit.key)
        # A page that is listed for somebody, or was found for somebody else of that name, is theirs.
        if hit.key in profiles or hit.key in self._stored or (held is not None and link not in held.urls):
            self._outcomes[Outcome.AMBIGUOUS.value] += 1
            await self._note(_NAME, item, self._answer_now(Outcome.AMBIGUOUS))
            return
        async for visit in self._connector.visit([Target(hit.key, hit.url)]):
            await self._take_named(item, visit, before, person, name, link)

    async def _take_named(
        self, item: str, visit: Visit, before: Visited | None, person: Known, name: str, link: str
    ) -> None:
        if await self._is_unread(_NAME, item, visit):
            return
        if visit.error is not None:
            if self._failed(visit.error):
                await self._postpone(_NAME, item, visit.error, before)
            else:
                await self._note(_NAME, item, self._visited(visit, visit.error.outcome))
            return
        self._answered(page=True)
        self._unread.read([item])
        profile = visit.profile
        assert profile is not None
        wanted = self._settings.gender_filter
        fits = (
            is_full_name(name)
            and is_called(profile, name, self._connector.site.either_order)
            and genders_agree(profile.gender, person.gender)
            and passes_filter(profile.gender, wanted)
            and profile.key not in self._rejected
            and not self._covered(profile)
            and not self._refusals.covers_url(visit.target.url)
        )
        if not fits:
            await self._conclude(_NAME, item, visit, Outcome.AMBIGUOUS)
            return
        await self._store(profile, [person], _NAME, [visit.target.url, link])
        await self._conclude(_NAME, item, visit, Outcome.FOUND)

    # --- outcomes -------------------------------------------------------------------------------------------------

    def _answered(self, page: bool) -> None:
        self._answers += 1
        self._pages += page
        self._refused = 0
        self._strange = 0 if page else self._strange
        if page or not isinstance(self._suspicion, LayoutChangedError):
            self._suspicion = None

    def _failed(self, error: SourceError) -> bool:
        """Counts an error. True when it is no answer, so that nothing may change; raises when the host is left alone."""
        self._outcomes[error.outcome.value] += 1
        if isinstance(error, CircuitOpenError):
            raise error
        if error.outcome.is_answer:
            self._answered(page=False)
            return False
        self._last_failure = error
        if error.outcome is not Outcome.DISALLOWED and not isinstance(error, LayoutChangedError):
            self._refused += 1
            if self._refused >= REFUSALS_IN_A_ROW * self._patience:
                self._suspicion = error
        if isinstance(error, LayoutChangedError):
            self._strange += 1
            if self._strange >= self._rules.strange_pages * self._patience:
                self._suspicion = error
        return True

    def _new_layout(self) -> SourceError:
        mark = self._connector.site.mark
        return LayoutChangedError(
            self._source,
            Outcome.PARSE_ERROR,
            f"{self._strange} page(s) in a row without {mark}: the layout changed, or we are shown another page; "
            "nothing was changed by them",
        )

    def _judge_failures(self) -> None:
        """A run in which nothing was answered has failed, even if the pages were few, and so has one in which too many
        profiles are unread."""
        self._unread.check()
        if self._answers or self._last_failure is None:
            return
        if isinstance(self._last_failure, LayoutChangedError):
            raise self._new_layout()
        counts = ", ".join(f"{number} {name}" for name, number in sorted(self._outcomes.items()))
        raise SourceError(
            self._source,
            self._last_failure.outcome,
            f"nothing could be read: {counts}{_status(self._last_failure)}",
        )

    def _visited(self, visit: Visit, outcome: Outcome) -> Visited:
        return replace(self._answer_now(outcome), etag=visit.etag, last_modified=visit.last_modified)

    def _answer_now(self, outcome: Outcome) -> Visited:
        now = self._clock.now()
        return Visited(outcome.value, now, now + self._rules.revisit)

    async def _conclude(self, mode: str, item: str, visit: Visit, outcome: Outcome) -> None:
        self._outcomes[outcome.value] += 1
        await self._note(mode, item, self._visited(visit, outcome))

    # --- storing --------------------------------------------------------------------------------------------------

    async def _store(
        self, profile: Profile, records: Sequence[Known], found_by: str, extra: Sequence[str]
    ) -> None:
        if profile.key in self._stored:
            return
        self._stored.add(profile.key)

        def seconded() -> frozenset[str]:
            ids = {record.performer_id for record in records if record.performer_id is not None}
            with reading(self._engine) as connection:
                return enrichment.alias_hashes(connection, ids, self._source)

        hashes = await asyncio.to_thread(seconded) if profile.aliases else frozenset()
        self._pending.records.append(
            record_of(
                profile,
                records,
                found_by=found_by,
                seconded=hashes,
                extra_urls=extra,
                alias_hash=self._alias_hash,
            )
        )

    async def _withdraw(self, key: str) -> None:
        """A stored profile that turns out to be nobody's we know, or somebody's who must not be stored."""
        if key in self._held:
            self._pending.gone.append(key)

    async def _note(self, mode: str, item: str, visited: Visited) -> None:
        self._pending.visited[mode][item] = visited
        if len(self._pending) >= _BATCH_VISITS or time.monotonic() - self._pending.since >= _BATCH_SECONDS:
            await self._flush()

    async def _finish(self, profiles: Mapping[str, _Listed]) -> None:
        """After a whole run: profiles missing twice go, if others were there; and those that nobody lists any more."""
        if self._pages:
            for source_id, (item, gone) in self._doubtful.items():
                self._pending.gone.append(source_id)
                self._outcomes[Outcome.GONE.value] += 1
                self._pending.visited[_URL][item] = gone
        unlisted = [
            held.source_id
            for held in self._held.values()
            if held.found_by == _URL
            and held.source_id not in self._stored
            and profiles.keys().isdisjoint(self._keys_of(held))
        ]
        allowed = self._rules.vanishing.allowed_missing(len(self._held))
        if len(unlisted) > allowed:
            self._missing = {"count": len(unlisted), "live": len(self._held), "allowed": allowed}
        else:
            self._pending.gone += unlisted
        await self._flush()

        await self._writer.remove_orphaned_images()

    async def _flush(self) -> None:
        """Commits records, removals and visits together."""
        pending, self._pending = self._pending, _Pending()
        if not pending and not pending.records:
            return

        def also(connection: sa.Connection) -> None:
            gone = dict.fromkeys(pending.gone)
            buried = performers.tombstone_records(connection, self._source, gone, self._clock.now())
            self._writer.tally.removed += buried.removed
            for mode, visited in pending.visited.items():
                enrichment.store_visits(connection, self._source, mode, visited)

        await asyncio.shield(self._writer.store(pending.records, also))

    def _save_state(self, outcome: Outcome, message: str | None, through: bool) -> int:
        now = self._clock.now()
        with writing(self._engine) as connection:
            state = load_state(connection, self._source)
            detail = dict(end_cooldown(state.detail) if through and self._answers else state.detail)
            refused = [
                replace(each, label=hashed, source_id=hashed) for each, hashed in self._refused_by_database()
            ]
            self._unread.note(refused)
            if self._unread:
                detail["unread"] = self._unread.detail()
            else:
                detail.pop("unread", None)
            state = replace(
                state,
                last_outcome=outcome.value,
                last_message=message,
                last_sync_at=now if through else state.last_sync_at,
                detail=detail,
            )
            save_state(connection, state)
            return performers.count_records(connection, self._source).live

    def _refused_by_database(self) -> list[tuple[UnreadRecord, str]]:
        return [(each, self._hash(each.label)) for each in self._writer.unread]

    def _hash(self, item: str) -> str:
        """How an item is written down: with the secret key, so that nobody's name can be tried out on it."""
        return self._refusals.withheld_hash(self._source, item)

    def _alias_hash(self, name: str) -> str:
        return self._refusals.withheld_hash("alias", any_order(name))[:32]

    def _performer(self, record: Known) -> tuple[str, str] | None:
        return stash_box_performer(self._performer_url(record))

    def _performer_url(self, record: Known) -> str:
        return f"https://{self._boxes[record.source]}/performers/{record.source_id}"


def _may_be_several(records: Sequence[Known]) -> bool:
    """Are these records of a name, its aliases too, known to be of different people, or two of one stash-box?"""
    ids = {record.performer_id for record in records if record.performer_id is not None}
    return len(ids) > 1 or len({record.source for record in records}) < len(records)


def _status(error: SourceError) -> str:
    """The status code of an answer, for messages: its address would name a person."""
    return f" (status {error.status})" if isinstance(error, HttpStatusError) else ""
