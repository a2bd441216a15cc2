"""The streaming worker of a source: fetches images, extracts faces, stores them in batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.images import (
    LedgerImage,
    WaitingPerformer,
    images_of,
    shared_urls,
    waiting_performers,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.claimed_faces import ClaimRules, ClaimsUsed, use_proven_claims
from stash_sense_pipeline.faces.collection.current_suppressions import CurrentSuppressions, ImageSuppressions
from stash_sense_pipeline.faces.collection.host_evidence import HostEvidence
from stash_sense_pipeline.faces.collection.image_fetcher import (
    ImageClient,
    ImageFetcher,
    ImageRequest,
    SharedAddress,
)
from stash_sense_pipeline.faces.collection.image_hosts import ImageHosts
from stash_sense_pipeline.faces.collection.image_judge import ImageJudge
from stash_sense_pipeline.faces.collection.image_worker import ImageWorker
from stash_sense_pipeline.faces.collection.run_context import (
    CollectLimits,
    RunContext,
    RunThreads,
    SecondPack,
)
from stash_sense_pipeline.faces.collection.run_refusals import RunRefusals
from stash_sense_pipeline.faces.collection.run_state import RunCounts, RunEnd
from stash_sense_pipeline.faces.collection.verdict_batches import VerdictBatches
from stash_sense_pipeline.faces.collection.verdicts import FailureVerdicts
from stash_sense_pipeline.faces.extraction.acceptance_criteria import AcceptanceCriteria
from stash_sense_pipeline.faces.image_schedule import Schedule
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.requeue import (
    Packs,
    Requeued,
    RequeuePolicy,
    check_second_pack,
    requeue_for_second,
    requeue_images,
)
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.settings.schema import GlobalSettings, SourceSettings, TrustLevel


@dataclass(frozen=True)
class CollectReport:
    """The results of one run. `outcome` and `message` say why it ended early; they are None when it ran through.

    `reused` images had the bytes of an image that was judged before. `rejected` and `failed` count by reason.
    `copies` are images that show a picture which the performer already has from this source; they add no face. `claims`:
    proven faces of a release that came into use.
    `hosts_down` counts, by host, the images that wait for the next day because their host was found down. `evidence`
    counts requests that only tested a host. `mass_refusal` has the numbers when too many images were refused for the
    first time; then none of these refusals was counted. `second_faces`: faces of the second pack; `second_looks`: images
    that were requested only for that pack.
    """

    source: str
    fetched: int
    done: int
    reused: int
    rejected: Mapping[str, int]
    failed: Mapping[str, int]
    gone: int
    faces: int
    copies: int
    performers: int
    reopened: Requeued
    claims: ClaimsUsed
    hosts_down: Mapping[str, int]
    evidence: int
    mass_refusal: Mapping[str, int]
    interrupted: bool
    outcome: Outcome | None
    message: str | None
    seconds: float
    seconds_fetching: float = 0.0
    seconds_detecting: float = 0.0
    seconds_searching: float = 0.0
    seconds_writing: float = 0.0
    second_faces: int = 0
    second_looks: int = 0

    @property
    def processed(self) -> int:
        """Images that got a verdict."""
        judged = self.done + sum(self.rejected.values()) + sum(self.failed.values()) + self.gone
        return judged + self.second_looks


async def collect_faces(
    engine: sa.Engine,
    source: SourceSettings,
    pack: ModelPack,
    client: ImageClient,
    image_request: ImageRequest,
    settings: GlobalSettings,
    suppressions: ImageSuppressions,
    *,
    second: ModelPack | None = None,
    limits: CollectLimits | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    now: Callable[[], datetime] | None = None,
) -> CollectReport:
    """Processes the waiting images of `source`: stores aligned faces, and a verdict for each image.

    Proven faces of a release come into use first, so that their pictures are not fetched.

    Performers with the fewest faces come first. A performer gets images until `source.max_faces` images of this source
    have a face, or `settings.max_faces_per_performer` faces exist in all sources. A performer with
    `settings.completeness_threshold` faces in all sources, this one included, is complete: of its images only those are
    fetched that its source listed after it was complete, and those that were tried before.

    Verdicts are committed in batches, one transaction each. A run that is killed loses at most the verdicts of one
    batch, and the next run continues there. When `stop` is set or the task is cancelled, fetched images are still
    stored.

    A failure counts for its image, however the run ends, and sets the time of its next attempt. When evidence from
    other images shows that a host is down, its images wait for the next day. When no other host has work the run ends
    early, and the report has the outcome (unreachable, rate limit, blocked).

    With a `second` pack its faces are found in the same pictures, while these are in memory, and stored beside those of
    `pack`. Pictures that were fetched without it are fetched once more; what `pack` found in them stays.

    Raises ModelPackError for an unfit detector, and for a second pack that cannot be told apart; CatalogError when the
    catalog cannot be written; committed batches stay.
    """
    limits = limits or CollectLimits()
    is_trusted = source.trust_level is TrustLevel.HIGH
    if second is not None:
        check_second_pack(pack, second)

    def criteria(of: ModelPack) -> AcceptanceCriteria:
        return AcceptanceCriteria.of(of.detector, settings.quality_filters, is_trusted, limits.decode)

    context = RunContext(
        engine=engine,
        source=source,
        pack=pack,
        settings=settings,
        limits=limits,
        criteria=criteria(pack),
        clock=now or (lambda: datetime.now(UTC)),
        threads=RunThreads(limits.workers, limits.searches),
        second=SecondPack(second, criteria(second)) if second is not None else None,
    )
    started = time.monotonic()
    listed = CurrentSuppressions(suppressions)
    try:
        plan = await context.threads.in_catalog(lambda: _plan(context, listed))
        run = _Run(context, plan, listed, client, image_request)
        if plan.performers:
            await run.execute(progress, stop)
    finally:
        context.threads.shutdown()
    return run.report(time.monotonic() - started)


@dataclass(frozen=True)
class _Plan:
    """The work of a run: performers as (source_id, cap), and the URLs that several images have.

    `complete_since`: when those of them that are complete became so.
    """

    requeued: Requeued
    claims: ClaimsUsed
    performers: Sequence[tuple[str, int]]
    complete_since: Mapping[str, datetime]
    shared_urls: frozenset[str]


def _plan(context: RunContext, suppressions: CurrentSuppressions) -> _Plan:
    """Requeues images, and selects the performers that may get faces."""
    source, settings = context.source, context.settings
    rules = ClaimRules(context.pack, settings.claimed_faces_a_night, suppressions.covers_url)
    claims = use_proven_claims(context.engine, source.name, rules, context.clock())
    with writing(context.engine) as connection:
        policy = RequeuePolicy(context.pack, context.criteria, context.limits.max_attempts)
        requeued = requeue_images(connection, source.name, policy, context.clock())
        packs = Packs(context.pack, context.second)
        looks = requeue_for_second(connection, source.name, packs, context.clock())
        requeued = replace(requeued, second_pack=looks)
    shared: frozenset[str] = frozenset()
    with reading(context.engine) as connection:
        complete_at = settings.completeness_threshold
        waiting = waiting_performers(connection, source.name, context.clock(), complete_at)
        if waiting:
            shared = frozenset(shared_urls(connection, source.name, context.clock()))
    wanted = [
        (performer.source_id, cap)
        for performer in waiting
        if (cap := _cap(performer, source, settings)) > 0 or performer.looks
    ]
    performers = [each for each in wanted if not suppressions.covers_record(source.name, each[0])]
    since = {each.source_id: each.complete_since for each in waiting if each.complete_since is not None}
    return _Plan(requeued, claims, performers, since, shared)


def _cap(performer: WaitingPerformer, source: SourceSettings, settings: GlobalSettings) -> int:
    """How many images of this source may give the performer a face."""
    return min(source.max_faces, max(0, settings.max_faces_per_performer - performer.elsewhere))


class _Run:
    """One run over one source: connects the parts of `collection` and runs the workers."""

    def __init__(
        self,
        context: RunContext,
        plan: _Plan,
        suppressions: CurrentSuppressions,
        client: ImageClient,
        image_request: ImageRequest,
    ) -> None:
        self._context = context
        self._plan = plan
        self._suppressions = suppressions
        self._counts = RunCounts()
        self._refusals = RunRefusals(context)
        limits = context.limits
        self._schedule = Schedule(plan.performers, self._load, limits.performers_in_memory, limits.max_images)
        shared = {url: SharedAddress() for url in plan.shared_urls}
        self._hosts = ImageHosts(context.source.name)
        self._fetcher = ImageFetcher(
            client, image_request, self._hosts, shared, context.limits.decode.max_bytes
        )
        closers = [self._schedule.close, self._hosts.close, self._fetcher.close]
        self._end = RunEnd(context.source.name, closers)

    async def execute(self, progress: Progress | None, stop: asyncio.Event | None) -> None:
        """Runs the workers until the work is done or the run ends early; then commits what has a verdict."""
        context, ended = self._context, asyncio.Event()

        def flushed() -> None:
            if progress is not None:
                counts = self._counts
                progress(
                    "performers",
                    self._schedule.finished,
                    self._schedule.total,
                    images=counts.verdicts,
                    faces=counts.done,
                    failed=counts.failed.total(),
                )

        batches = VerdictBatches(context, self._suppressions, self._counts, self._refusals, flushed)
        worker = self._worker(batches)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(batches.flush_regularly(ended))
                watcher = group.create_task(self._watch(stop)) if stop is not None else None
                await asyncio.wait([group.create_task(worker.run()) for _ in range(context.limits.fetches)])
                ended.set()
                if watcher is not None:
                    watcher.cancel()
                await worker.evidence.judge_run()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            # Also after a cancellation.
            await batches.flush()
            await asyncio.shield(
                context.threads.in_catalog(
                    lambda: self._refusals.store(self._counts.first_asked, self._end.ran_through)
                )
            )

    def _worker(self, batches: VerdictBatches) -> ImageWorker:
        context, suppressions = self._context, self._suppressions
        failures = FailureVerdicts(context.limits.max_attempts, context.clock)
        judge = ImageJudge(context, suppressions, failures)
        return ImageWorker(
            context=context,
            suppressions=suppressions,
            schedule=self._schedule,
            fetcher=self._fetcher,
            judge=judge,
            failures=failures,
            batches=batches,
            evidence=HostEvidence(context, self._schedule, self._fetcher, judge, self._counts, self._end),
            counts=self._counts,
            end=self._end,
        )

    async def _load(self, source_ids: Sequence[str]) -> Mapping[str, Sequence[LedgerImage]]:
        context = self._context
        return await context.read(
            lambda connection: images_of(
                connection, context.source.name, source_ids, context.clock(), self._plan.complete_since
            )
        )

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end.interrupt()

    def report(self, seconds: float) -> CollectReport:
        """The results of the run so far."""
        counts, end = self._counts, self._end
        return CollectReport(
            source=self._context.source.name,
            fetched=counts.fetched,
            done=counts.done,
            reused=counts.reused,
            rejected=dict(sorted(counts.rejected.items())),
            failed=dict(sorted(counts.failed.items())),
            gone=counts.gone,
            faces=counts.done,
            copies=self._schedule.copies,
            performers=len(self._plan.performers),
            reopened=self._plan.requeued,
            claims=self._plan.claims,
            hosts_down=self._hosts.postponed,
            evidence=counts.evidence,
            mass_refusal=self._refusals.mass_refusal,
            interrupted=end.interrupted,
            outcome=end.outcome,
            message=end.message,
            seconds=seconds,
            seconds_fetching=self._fetcher.busy.seconds,
            seconds_detecting=self._context.threads.detecting.seconds,
            seconds_searching=self._context.threads.searching.seconds,
            seconds_writing=self._context.threads.writing.seconds,
            second_faces=counts.second_faces,
            second_looks=counts.second_looks,
        )
