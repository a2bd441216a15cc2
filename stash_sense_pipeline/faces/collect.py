"""The streaming worker of a source: fetches images, extracts faces, stores them in batches."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.faces import StoredFace, find_judged, forget_faces, store_faces
from stash_sense_pipeline.catalog.queries.images import (
    ImageState,
    LedgerImage,
    WaitingPerformer,
    images_of,
    record_outcomes,
    record_refusals,
    shared_urls,
    still_listed,
    urls_fetched_before,
    waiting_performers,
    waits_elsewhere,
)
from stash_sense_pipeline.catalog.queries.sync_state import MASS_REFUSAL, load_state, save_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.faces.collection.image_hosts import ImageHost, ImageHosts, Suspicion
from stash_sense_pipeline.faces.collection.image_refusals import RefusalRules, next_look, next_night
from stash_sense_pipeline.faces.extraction.acceptance_criteria import AcceptanceCriteria
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.extract_face import FaceExtractor
from stash_sense_pipeline.faces.extraction.quality import check_image_size
from stash_sense_pipeline.faces.extraction.rejection_reasons import SEEN, SPOILED, Reason, Rejected
from stash_sense_pipeline.faces.image_schedule import Schedule, ScheduledImage
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.requeue import Requeued, requeue_images
from stash_sense_pipeline.foundation.errors import (
    BodyTooLargeError,
    CircuitOpenError,
    Outcome,
    RobotsRefusalError,
    SourceError,
    UnreachableError,
)
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.settings.schema import GlobalSettings, SourceSettings, TrustLevel

log = logging.getLogger(__name__)

T = TypeVar("T")

# An image's URL → the URL and headers to ask for it with.
ImageRequest = Callable[[str], tuple[str, Mapping[str, str]]]

# Images that are asked for again, and waiting ones of other performers, as evidence whether a host is down.
_KNOWN_AS_EVIDENCE = 2
_OTHERS_AS_EVIDENCE = 3
# So many images without a connection, and no answer at all, fail a run, also when they have one address.
_UNREACHED_IMAGES = 3
_REFUSALS_A_TRANSACTION = 500
_FIRST_RETRY = timedelta(hours=1)
_RETRY_FACTOR = 4


class ImageResponse(Protocol):
    """A successful answer with its body."""

    @property
    def content(self) -> bytes: ...


class ImageClient(Protocol):
    """What fetches images: sources.http.PoliteClient. Raises SourceError."""

    async def get(
        self, url: str, *, headers: Mapping[str, str], max_bytes: int, may_retry: Callable[[], bool]
    ) -> ImageResponse: ...


class ImageSuppressions(Protocol):
    """What must not be stored: privacy.suppression.Suppressions."""

    def covers_record(self, source: str, source_id: str) -> bool: ...
    def covers_url(self, url: str) -> bool: ...
    def covers_image(self, sha256_hex: str) -> bool: ...
    def covers_likeness(self, picture_hash: str) -> bool: ...
    def refreshed(self, connection: sa.Connection) -> Self: ...


@dataclass(frozen=True)
class CollectLimits:
    """How much is done at a time. Each of `fetches` lanes holds at most one image: that bounds the memory."""

    decode: DecodeLimits = field(default_factory=DecodeLimits)
    fetches: int = 16
    workers: int = 2
    batch_size: int = 32
    batch_seconds: float = 2.0
    max_attempts: int = 5
    performers_in_memory: int = 500
    refusals: RefusalRules = field(default_factory=RefusalRules)


@dataclass(frozen=True)
class CollectReport:
    """What one run did. `outcome` and `message` say why it ended early, None when it came to its end.

    `reused` images had the bytes of one that was judged before; `rejected` and `failed` count by reason.
    `copies` show a picture that the person already has from this source: they are not another face. `hosts_down` has the
    images that wait for the next day because their host was found down, by host; `evidence` counts images that were asked
    for only to learn about a host. `mass_refusal` has the numbers when too many images were refused at once to believe it.
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
    hosts_down: Mapping[str, int]
    evidence: int
    mass_refusal: Mapping[str, int]
    interrupted: bool
    outcome: Outcome | None
    message: str | None
    seconds: float

    @property
    def processed(self) -> int:
        """Images that got a verdict."""
        return self.done + sum(self.rejected.values()) + sum(self.failed.values()) + self.gone


async def collect_faces(
    engine: sa.Engine,
    source: SourceSettings,
    pack: ModelPack,
    client: ImageClient,
    image_request: ImageRequest,
    settings: GlobalSettings,
    suppressions: ImageSuppressions,
    *,
    limits: CollectLimits | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    now: Callable[[], datetime] | None = None,
) -> CollectReport:
    """Looks at the images of `source` that wait, and stores aligned faces and what became of each image.

    Performers with the fewest faces come first; each gets images until `source.max_faces` of its own have a
    face, or the person has `settings.max_faces_per_performer` in all; a person who has
    `settings.completeness_threshold` faces from other sources gets none from this one. Everything is
    committed in batches, each whole: killed at any moment, a next run goes on where this one was. When `stop`
    is set or the task is cancelled, what is fetched is still stored.

    A failure of one image counts for that image, however the run ends, and moves its next try. When evidence from other
    images shows that a host is down, its images wait for the next day; when no other host has work the run ends
    early and the report says with which outcome (unreachable, rate limit, blocked). Raises
    ModelPackError for an unfit detector and CatalogError when the catalog cannot be written; what was
    committed before stays.
    """
    limits = limits or CollectLimits()
    clock = now or (lambda: datetime.now(UTC))
    run = _Run(engine, source, pack, client, image_request, settings, suppressions, limits, progress, clock)
    return await run.execute(stop)


@dataclass(frozen=True)
class _Verdict:
    image: ScheduledImage
    state: ImageState
    reason: str | None = None
    sha256: str | None = None
    face: StoredFace | None = None
    detector_digest: str | None = None
    judged: bool = False
    attempts: int = 0
    next_attempt_at: datetime | None = None
    reused: bool = False
    refusals: int = 0
    # The source refused the image: counted at the end of the run, when it is known how many there are.
    refused: bool = False
    postponed: bool = False

    @property
    def is_final(self) -> bool:
        """True when the image has no face, as far as anybody will look."""
        return (
            self.state in (ImageState.REJECTED, ImageState.GONE)
            and not self.refused
            and self.next_attempt_at is None
        )


@dataclass(frozen=True)
class _Refused:
    """What is remembered of a refused image until the end of the run."""

    image_id: str
    url: str
    reason: str
    refusals: int
    is_first: bool
    sha256: str | None
    picture_hash: str | None


@dataclass
class _SharedAddress:
    """An address that several images have. It is asked once; then `error` or the `verdict`, without its face, serves all."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    error: SourceError | None = None
    verdict: _Verdict | None = None

    @property
    def is_known(self) -> bool:
        return self.error is not None or self.verdict is not None


@dataclass
class _Counts:
    fetched: int = 0
    done: int = 0
    reused: int = 0
    gone: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: _Verdict) -> None:
        self.reused += verdict.reused
        if verdict.state is ImageState.DONE:
            self.done += 1
        elif verdict.state is ImageState.GONE:
            self.gone += 1
        elif verdict.state is ImageState.REJECTED:
            self.rejected[str(verdict.reason)] += 1
        elif verdict.state is ImageState.FAILED and not verdict.postponed:
            self.failed[str(verdict.reason)] += 1

    @property
    def verdicts(self) -> int:
        return self.done + self.gone + self.rejected.total() + self.failed.total()


class _Run:
    """One run over one source. Lanes fetch and judge one image each at a time; one thread commits the
    verdicts.
    """

    def __init__(
        self,
        engine: sa.Engine,
        source: SourceSettings,
        pack: ModelPack,
        client: ImageClient,
        image_request: ImageRequest,
        settings: GlobalSettings,
        suppressions: ImageSuppressions,
        limits: CollectLimits,
        progress: Progress | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._source = source
        self._pack = pack
        self._client = client
        self._image_request = image_request
        self._settings = settings
        self._suppressions = suppressions
        self._limits = limits
        self._progress = progress
        self._clock = clock
        high = source.trust_level is TrustLevel.HIGH
        self._rules = AcceptanceCriteria.of(pack.detector, settings.quality_filters, high, limits.decode)
        self._judged_by = self._rules.text
        self._counts = _Counts()
        self._extractor: FaceExtractor | None = None
        self._loading = threading.Lock()
        self._batch: list[_Verdict] = []
        self._ended = asyncio.Event()
        self._fetches: set[asyncio.Task[bytes]] = set()
        self._stopping = False
        self._interrupted = False
        self._outcome: Outcome | None = None
        self._message: str | None = None
        self._hosts = ImageHosts(source.name)
        self._shared: dict[str, _SharedAddress] = {}
        self._refused: list[_Refused] = []
        self._first_asked = 0
        self._evidence = 0
        self._unreached = 0
        self._mass_refusal: Mapping[str, int] = {}
        # One thread for the catalog: pages are read and batches written strictly one after the other.
        self._catalog = ThreadPoolExecutor(1, thread_name_prefix="catalog")
        self._compute = ThreadPoolExecutor(limits.workers, thread_name_prefix="faces")

    async def execute(self, stop: asyncio.Event | None) -> CollectReport:
        started = time.monotonic()
        try:
            reopened, performers = await self._in(self._catalog, self._prepare)
            if performers:
                await self._work(performers, stop)
        finally:
            # A thread that still detects is waited for: its result is not needed, its session must not
            # vanish.
            self._compute.shutdown(cancel_futures=True)
            self._catalog.shutdown()
        counts = self._counts
        return CollectReport(
            source=self._source.name,
            fetched=counts.fetched,
            done=counts.done,
            reused=counts.reused,
            rejected=dict(sorted(counts.rejected.items())),
            failed=dict(sorted(counts.failed.items())),
            gone=counts.gone,
            faces=counts.done,
            copies=self._schedule.copies if performers else 0,
            performers=len(performers),
            reopened=reopened,
            hosts_down=self._hosts.postponed,
            evidence=self._evidence,
            mass_refusal=self._mass_refusal,
            interrupted=self._interrupted,
            outcome=self._outcome,
            message=self._message,
            seconds=time.monotonic() - started,
        )

    def _prepare(self) -> tuple[Requeued, list[tuple[str, int]]]:
        with writing(self._engine) as connection:
            reopened = requeue_images(
                connection,
                self._source.name,
                self._pack,
                self._rules,
                self._limits.max_attempts,
                self._clock(),
            )
        with reading(self._engine) as connection:
            complete_at = self._settings.completeness_threshold
            waiting = waiting_performers(connection, self._source.name, self._clock(), complete_at)
            if waiting:
                shared = shared_urls(connection, self._source.name, self._clock())
                self._shared = {url: _SharedAddress() for url in shared}
        wanted = [(performer.source_id, self._cap(performer)) for performer in waiting]
        return reopened, [
            (source_id, cap)
            for source_id, cap in wanted
            if cap > 0 and not self._suppressions.covers_record(self._source.name, source_id)
        ]

    def _cap(self, performer: WaitingPerformer) -> int:
        if performer.elsewhere >= self._settings.completeness_threshold:
            return 0
        return min(
            self._source.max_faces, max(0, self._settings.max_faces_per_performer - performer.elsewhere)
        )

    async def _work(self, performers: Sequence[tuple[str, int]], stop: asyncio.Event | None) -> None:
        self._schedule = Schedule(performers, self._load, self._limits.performers_in_memory)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flush_regularly())
                watcher = group.create_task(self._watch(stop)) if stop is not None else None
                await asyncio.wait([group.create_task(self._worker()) for _ in range(self._limits.fetches)])
                self._ended.set()
                if watcher is not None:
                    watcher.cancel()
                await self._judge_hosts()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            # Also after a cancellation: what has a verdict is stored.
            await self._flush()
            await asyncio.shield(self._in(self._catalog, self._count_refusals))

    def _extract(self, data: bytes) -> StoredFace:
        # Loaded with the first image: a run that finds nothing to do is over at once.
        with self._loading:
            if self._extractor is None:
                self._extractor = FaceExtractor(
                    self._pack,
                    Detector(self._pack.detector),
                    self._settings.quality_filters,
                    self._rules.single_face,
                    self._limits.decode,
                )
        return self._extractor.extract(data)

    async def _load(self, source_ids: Sequence[str]) -> Mapping[str, Sequence[LedgerImage]]:
        def load() -> Mapping[str, Sequence[LedgerImage]]:
            with reading(self._engine) as connection:
                return images_of(connection, self._source.name, source_ids, self._clock())

        return await self._in(self._catalog, load)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    # --- ending early ---

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._interrupted = True
        self._end()

    def _end(self) -> None:
        """Hands out no more images and breaks off the running fetches; what is fetched is still stored."""
        self._stopping = True
        self._schedule.close()
        self._hosts.close()
        for fetch in self._fetches:
            fetch.cancel()

    def _end_because(self, error: SourceError) -> None:
        if self._outcome is None:
            self._outcome, self._message = error.outcome, str(error)
            log.warning("%s: collecting ends early: %s", self._source.name, error)
        self._end()

    async def _judge_hosts(self) -> None:
        """A run in which no host answered has failed, also when images of several hosts waited."""
        errors = [host.error for host in self._hosts.down if host.error is not None]
        if self._unreached >= _UNREACHED_IMAGES:
            errors += self._hosts.unreachable
        if not errors or self._stopping or self._hosts.has_answered:
            return
        if not await self._other_host_answers(self._hosts.origins_down):
            self._end_because(errors[0])

    # --- one image ---

    async def _worker(self) -> None:
        while (image := await self._schedule.take()) is not None:
            if not await self._work_on(image):
                return
            while (host := self._hosts.suspected) is not None and not self._stopping:
                await self._verify(host)

    async def _work_on(self, image: ScheduledImage, *, as_evidence: bool = False) -> bool:
        """Sees one image through to its verdict. False when the run ends before there is one."""
        verdict = await self._handle(image, as_evidence)
        if verdict is None:
            return False
        picture = verdict.face.picture_hash if verdict.face is not None else None
        self._schedule.settle(image, verdict.state is ImageState.DONE, picture)
        self._batch.append(verdict)
        if len(self._batch) >= self._limits.batch_size:
            await self._flush()
        return True

    async def _handle(self, image: ScheduledImage, as_evidence: bool) -> _Verdict | None:
        """The verdict on one image; None when the run ends before there is one."""
        ledger = image.ledger
        if ledger.width and ledger.height and ledger.width > 0 and ledger.height > 0:
            # The listed size is enough to know: no request for an image that would be refused.
            try:
                check_image_size(ledger.width, ledger.height, self._settings.quality_filters)
            except Rejected as rejected:
                return _Verdict(image, ImageState.REJECTED, rejected.reason, judged=True)
        if self._suppressions.covers_url(ledger.url):
            return _Verdict(image, ImageState.REJECTED, Reason.SUPPRESSED)
        shared = self._shared.get(ledger.url)
        if shared is None:
            return await self._ask(image, as_evidence, None)
        async with shared.lock:
            if not shared.is_known:
                return await self._ask(image, as_evidence, shared)
        return await self._as_before(image, shared)

    async def _as_before(self, image: ScheduledImage, shared: _SharedAddress) -> _Verdict | None:
        """The verdict on an image whose address was asked for another one of this run."""
        if shared.error is not None:
            return self._after_failure(image, shared.error)
        known = shared.verdict
        assert known is not None
        if known.reason in SPOILED:
            return self._spoiled(image, str(known.reason), known.sha256)
        if known.state is ImageState.REJECTED:
            return replace(known, image=image, reused=True)
        assert known.sha256 is not None
        digest = known.sha256
        await self._flush()
        # The thread of the catalog has stored the first verdict by the time that it comes to this.
        found = await self._in(self._catalog, lambda: self._judged_before(image, digest))
        return found if found is not None else await self._ask(image, False, None)

    async def _ask(
        self, image: ScheduledImage, as_evidence: bool, shared: _SharedAddress | None
    ) -> _Verdict | None:
        """Fetches and judges one image, and notes what that says about its host. None when the run ends meanwhile."""
        url = image.ledger.url
        address, headers = self._image_request(url)
        host = self._hosts.of(address, url)
        if host is not None and not as_evidence and not await host.admit():
            return None if self._stopping else self._postponed(image, host)
        try:
            data = await self._fetch(address, headers, host)
            if data is None:
                return None
            self._counts.fetched += 1
            self._first_asked += _is_first(image)
            verdict = await self._in(self._compute, lambda: self._judge(image, data))
            if host is not None:
                if verdict.reason in SPOILED:
                    text = f"an image of {host.name} came as {verdict.reason}"
                    host.gave_failure(url, SourceError(self._source.name, Outcome.PARSE_ERROR, text))
                else:
                    host.gave_picture()
            if shared is not None:
                shared.verdict = replace(verdict, face=None)
            return verdict
        except SourceError as error:
            if host is not None and isinstance(error, CircuitOpenError):
                # The image was not asked for.
                await self._close(host, error)
                return None if self._stopping else self._postponed(image, host)
            if host is not None and error.outcome is Outcome.RATE_LIMITED:
                # It counts for the image too: one that always gets this answer must not come first every night.
                await self._close(host, error)
                return self._failed(image, error.outcome)
            self._first_asked += _is_first(image)
            if shared is not None:
                shared.error = error
            if host is not None:
                _note_error(host, url, error)
            return self._after_failure(image, error)
        finally:
            if host is not None and not as_evidence:
                host.leave()

    async def _fetch(self, address: str, headers: Mapping[str, str], host: ImageHost | None) -> bytes | None:
        """The body; None when the run ended meanwhile."""
        if self._stopping:
            return None

        async def fetch() -> bytes:
            limit = self._limits.decode.max_bytes
            may_retry = host.may_retry if host is not None else _never
            answer = await self._client.get(address, headers=headers, max_bytes=limit, may_retry=may_retry)
            return answer.content

        task = asyncio.create_task(fetch())
        self._fetches.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._fetches.discard(task)
            task.cancel()
        return None if task.cancelled() else task.result()

    def _after_failure(self, image: ScheduledImage, error: SourceError) -> _Verdict:
        if error.outcome in (Outcome.NOT_FOUND, Outcome.GONE):
            return self._refusal(image, ImageState.GONE, error.outcome)
        if error.outcome is Outcome.DISALLOWED:
            too_large = isinstance(error, BodyTooLargeError)
            reason = Reason.TOO_MANY_BYTES if too_large else Reason.DISALLOWED
            return self._refusal(image, ImageState.REJECTED, reason, judged=too_large)
        self._unreached += isinstance(error, UnreachableError)
        return self._failed(image, error.outcome)

    def _refusal(
        self, image: ScheduledImage, state: ImageState, reason: str, judged: bool = False
    ) -> _Verdict:
        """Asked again tomorrow. The end of the run counts it, and knows a better time."""
        ledger = image.ledger
        return _Verdict(
            image,
            state,
            reason,
            judged=judged,
            attempts=ledger.attempts,
            next_attempt_at=next_night(self._clock()),
            refusals=ledger.refusals,
            refused=True,
        )

    def _failed(self, image: ScheduledImage, reason: str, sha256: str | None = None) -> _Verdict:
        attempts, refusals = image.ledger.attempts + 1, image.ledger.refusals
        if attempts < self._limits.max_attempts:
            later: datetime | None = self._clock() + _FIRST_RETRY * _RETRY_FACTOR ** (attempts - 1)
        else:
            refusals += 1
            later = next_look(refusals, self._clock())
        return _Verdict(
            image,
            ImageState.FAILED,
            reason,
            sha256=sha256,
            attempts=attempts,
            next_attempt_at=later,
            refusals=refusals,
        )

    def _spoiled(self, image: ScheduledImage, reason: str, sha256: str | None) -> _Verdict:
        verdict = self._failed(image, reason, sha256)
        given_up = verdict.attempts >= self._limits.max_attempts
        return replace(verdict, state=ImageState.REJECTED, judged=True) if given_up else verdict

    def _postponed(self, image: ScheduledImage, host: ImageHost) -> _Verdict:
        host.postponed += 1
        ledger = image.ledger
        return _Verdict(
            image,
            ImageState.FAILED,
            Reason.HOST_DOWN,
            attempts=ledger.attempts,
            next_attempt_at=next_night(self._clock()),
            refusals=ledger.refusals,
            postponed=True,
        )

    # --- evidence about a host ---

    async def _verify(self, host: ImageHost) -> None:
        """Asks for images that came before, and for waiting ones of other performers: is it the host that fails?"""
        host.is_verified = True
        known = await self._in(self._catalog, lambda: self._fetched_before(host))
        for url, sha256 in known:
            comes = await self._comes_again(host, url, sha256)
            if host.suspicion is None or self._stopping:
                return
            if comes:
                host.acquit()
                return
        others = 0
        for _ in range(_OTHERS_AS_EVIDENCE):
            image = await self._schedule.take_elsewhere(lambda ledger: self._tells_about(host, ledger))
            if image is None:
                break
            if not await self._work_on(image, as_evidence=True) or host.suspicion is None:
                return
            if host.suspicion is Suspicion.FAILURES and host.has_refused(image.ledger.url):
                host.acquit()
                return
            others += host.has_failed(image.ledger.url) or host.has_refused(image.ledger.url)
        if not known and not others and not host.is_unreachable:
            # Nothing tells the host from its images.
            host.acquit()
            return
        await self._close(host, host.verdict)

    def _fetched_before(self, host: ImageHost) -> list[tuple[str, str | None]]:
        with reading(self._engine) as connection:
            return urls_fetched_before(connection, self._source.name, host.origins, _KNOWN_AS_EVIDENCE)

    def _tells_about(self, host: ImageHost, ledger: LedgerImage) -> bool:
        """Would the image be asked for at this host, for the first time in this run?"""
        shared = self._shared.get(ledger.url)
        taken = shared is not None and (shared.is_known or shared.lock.locked())
        if taken or host.has_failed(ledger.url) or host.has_refused(ledger.url):
            return False
        return self._hosts.of(self._image_request(ledger.url)[0], ledger.url) is host

    async def _comes_again(self, host: ImageHost, url: str, sha256: str | None) -> bool:
        """Does an image that was fetched before still come?"""
        address, headers = self._image_request(url)
        self._evidence += 1
        try:
            data = await self._fetch(address, headers, host)
        except SourceError as error:
            if isinstance(error, CircuitOpenError) or error.outcome is Outcome.RATE_LIMITED:
                await self._close(host, error)
            # For a host that gave no answers any answer is evidence.
            return error.outcome.is_answer and host.suspicion is Suspicion.FAILURES
        if data is None:
            return False
        if hashlib.sha256(data).hexdigest() == sha256:
            return True
        return await self._in(self._compute, lambda: self._is_picture(data))

    def _is_picture(self, data: bytes) -> bool:
        try:
            self._extract(data)
        except Rejected as rejected:
            return rejected.reason not in SPOILED
        return True

    async def _close(self, host: ImageHost, error: SourceError | None) -> None:
        """Asks nothing more of a host; ends the run when no other host has work or answers.

        Without an `error` the host answers, only not for what waits: that fails no run.
        """
        if host.is_down:
            return
        host.hold()
        ends = error is not None and not await self._goes_on_without(host)
        log.warning(
            "%s: %s is not asked any more in this run: %s",
            self._source.name,
            host.name,
            error or "its images fail, though others came",
        )
        if ends and error is not None:
            self._end_because(error)
        host.close(error)

    async def _goes_on_without(self, host: ImageHost) -> bool:
        """Does another host have work, or answer at all?"""
        origins = self._hosts.origins_down | host.origins

        def waits() -> bool:
            with reading(self._engine) as connection:
                return waits_elsewhere(connection, self._source.name, origins, self._clock())

        return await self._in(self._catalog, waits) or await self._other_host_answers(origins)

    async def _other_host_answers(self, origins: Collection[str]) -> bool:
        """Does an image that was fetched before still come, whose URL begins with none of `origins`?"""

        def fetched_elsewhere() -> list[tuple[str, str | None]]:
            with reading(self._engine) as connection:
                return urls_fetched_before(
                    connection,
                    self._source.name,
                    self._hosts.origins_down,
                    _KNOWN_AS_EVIDENCE,
                    elsewhere=True,
                )

        for url, sha256 in await self._in(self._catalog, fetched_elsewhere):
            host = self._hosts.of(self._image_request(url)[0], url)
            if host is not None and not host.is_down and await self._comes_again(host, url, sha256):
                host.gave_picture()
                return True
        return False

    def _judge(self, image: ScheduledImage, data: bytes) -> _Verdict:
        digest = hashlib.sha256(data).hexdigest()
        if self._suppressions.covers_image(digest):
            return _Verdict(image, ImageState.REJECTED, Reason.SUPPRESSED)
        known = self._judged_before(image, digest)
        if known is not None:
            return known
        detector = self._pack.detector.digest
        try:
            face = self._extract(data)
        except Rejected as rejected:
            reason = rejected.reason
            if reason in SPOILED:
                return self._spoiled(image, reason, digest)
            seen = detector if reason in SEEN else None
            return _Verdict(image, ImageState.REJECTED, reason, digest, None, seen, judged=True)
        if self._shows_suppressed(face):
            return _Verdict(image, ImageState.REJECTED, Reason.SUPPRESSED)
        return _Verdict(image, ImageState.DONE, None, digest, face, detector, judged=True)

    def _judged_before(self, image: ScheduledImage, digest: str) -> _Verdict | None:
        """The verdict on an image with these bytes, where another one with them was judged by the same rules."""
        detector = self._pack.detector.digest
        with reading(self._engine) as connection:
            known = find_judged(connection, digest, detector, self._judged_by, self._pack.digests)
        if known is None:
            return None
        if self._shows_suppressed(known.face):
            return _Verdict(image, ImageState.REJECTED, Reason.SUPPRESSED)
        return _Verdict(
            image,
            ImageState(known.state),
            known.reason,
            digest,
            known.face,
            detector,
            judged=True,
            reused=True,
        )

    def _shows_suppressed(self, face: StoredFace | None) -> bool:
        """Is it a copy of a suppressed picture, in another size, format or quality?"""
        picture = face.picture_hash if face is not None else None
        return picture is not None and self._suppressions.covers_likeness(picture)

    # --- storing ---

    async def _flush_regularly(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.batch_seconds):
                    await self._ended.wait()
            await self._flush()

    async def _flush(self) -> None:
        """Commits the verdicts so far; whoever hands a batch over waits until it is written."""
        batch, self._batch = self._batch, []
        if batch:
            # Once handed over a batch is committed, whatever becomes of the task that waits.
            stored = asyncio.get_running_loop().run_in_executor(self._catalog, self._commit, batch)
            for verdict in await asyncio.shield(stored):
                self._counts.add(verdict)
        if self._progress is not None:
            self._progress("images", self._counts.verdicts, None)
            self._progress("performers", self._schedule.finished, self._schedule.total)

    def _commit(self, verdicts: Sequence[_Verdict]) -> Sequence[_Verdict]:
        """Ledger, faces and crops of a batch in one transaction. Returns the verdicts as they hold then.

        The suppression list is asked again inside the transaction: somebody may have been added while this run fetches.
        """
        source, now = self._source.name, self._clock()
        with writing(self._engine) as connection:
            before, self._suppressions = self._suppressions, self._suppressions.refreshed(connection)
            if self._suppressions is not before:
                verdicts = [self._as_listed_now(verdict) for verdict in verdicts]
            listed = still_listed(connection, source, [verdict.image.image_id for verdict in verdicts])
            batch = [verdict for verdict in verdicts if verdict.image.image_id in listed]
            # An image may have had a face before it was due again.
            forget_faces(
                connection, source, [verdict.image.image_id for verdict in batch if verdict.is_final]
            )
            found = [(verdict.image.image_id, verdict.face) for verdict in batch if verdict.face is not None]
            store_faces(connection, source, found, now)
            asked = [self._row(verdict, now) for verdict in batch if not verdict.postponed]
            record_outcomes(connection, source, asked)
            record_outcomes(connection, source, [_postponement(each) for each in batch if each.postponed])
        self._refused += [_remembered(verdict) for verdict in batch if verdict.refused]
        return verdicts

    def _count_refusals(self) -> None:
        """Counts the refusals of this run, and forgets the faces of images that were refused for the last time.

        Too many images refused for the first time are not believed: then none counts, all are asked again tomorrow,
        and the state of the source has the numbers.
        """
        first = len({refused.url for refused in self._refused if refused.is_first})
        allowed = self._limits.refusals.allowed(self._first_asked)
        if first > allowed:
            self._mass_refusal = {"refused": first, "asked": self._first_asked, "allowed": allowed}
            log.warning(
                "%s: %d of %d images were refused, more than %d: they are asked for again",
                self._source.name,
                *self._mass_refusal.values(),
            )
        else:
            for batch in batched(self._refused, _REFUSALS_A_TRANSACTION):
                self._store_refusals(batch)
        through = self._outcome is None and not self._interrupted
        if self._mass_refusal or through:
            self._remember_mass_refusal()

    def _store_refusals(self, batch: Sequence[_Refused]) -> None:
        source, now = self._source.name, self._clock()
        rows, final = [], []
        for refused in batch:
            later = next_look(refused.refusals + 1, now)
            if later is None:
                final.append(refused.image_id)
            rows.append(
                {
                    "image_id": refused.image_id,
                    "reason": refused.reason,
                    "refusals": refused.refusals + 1,
                    "next_attempt_at": later,
                    "sha256": refused.sha256 if later is not None else None,
                    "picture_hash": refused.picture_hash if later is not None else None,
                }
            )
        with writing(self._engine) as connection:
            record_refusals(connection, source, rows)
            forget_faces(connection, source, final)

    def _remember_mass_refusal(self) -> None:
        with writing(self._engine) as connection:
            state = load_state(connection, self._source.name)
            detail = {key: value for key, value in state.detail.items() if key != MASS_REFUSAL}
            if self._mass_refusal:
                detail[MASS_REFUSAL] = dict(self._mass_refusal)
            if detail != state.detail:
                save_state(connection, replace(state, detail=detail))

    def _as_listed_now(self, verdict: _Verdict) -> _Verdict:
        covered = (
            self._suppressions.covers_url(verdict.image.ledger.url)
            or (verdict.sha256 is not None and self._suppressions.covers_image(verdict.sha256))
            or self._shows_suppressed(verdict.face)
        )
        return _Verdict(verdict.image, ImageState.REJECTED, Reason.SUPPRESSED) if covered else verdict

    def _row(self, verdict: _Verdict, now: datetime) -> dict[str, Any]:
        sha256, picture = verdict.sha256, None
        if verdict.face is not None:
            picture = verdict.face.picture_hash
        elif verdict.next_attempt_at is not None and verdict.image.ledger.picture_hash is not None:
            # The face of an image that may come again stays, and so does what erasure finds it by.
            sha256, picture = verdict.image.ledger.sha256, verdict.image.ledger.picture_hash
        return {
            "image_id": verdict.image.image_id,
            "state": verdict.state,
            "reason": verdict.reason,
            "attempts": verdict.attempts,
            "next_attempt_at": verdict.next_attempt_at,
            "refusals": verdict.refusals,
            "sha256": sha256,
            "picture_hash": picture,
            "detector_digest": verdict.detector_digest,
            "judged_by": self._judged_by if verdict.judged else None,
            "processed_at": now,
        }


def _never() -> bool:
    return False


def _is_first(image: ScheduledImage) -> bool:
    """Was the image not refused before?"""
    ledger = image.ledger
    return ledger.refusals == 0 and ledger.state in (ImageState.PENDING, ImageState.FAILED)


def _note_error(host: ImageHost, url: str, error: SourceError) -> None:
    """What a failed request says about its host. A request that was not sent says nothing."""
    if isinstance(error, RobotsRefusalError):
        return
    if error.outcome.is_answer or error.outcome is Outcome.DISALLOWED:
        host.gave_refusal(url)
    else:
        host.gave_failure(url, error)


def _postponement(verdict: _Verdict) -> dict[str, Any]:
    """The columns of an image that was not asked for: nothing is known of it that was not before."""
    return {
        "image_id": verdict.image.image_id,
        "state": verdict.state,
        "reason": verdict.reason,
        "next_attempt_at": verdict.next_attempt_at,
    }


def _remembered(verdict: _Verdict) -> _Refused:
    ledger = verdict.image.ledger
    return _Refused(
        image_id=ledger.image_id,
        url=ledger.url,
        reason=str(verdict.reason),
        refusals=ledger.refusals,
        is_first=_is_first(verdict.image),
        sha256=ledger.sha256,
        picture_hash=ledger.picture_hash,
    )
