"""The streaming worker: fetch, decode, detect, align and store what the images of one source show."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import reading, writing
from stash_sense_pipeline.catalog.faces import StoredFace, find_judged, forget_faces, store_faces
from stash_sense_pipeline.catalog.images import (
    ImageState,
    LedgerImage,
    WaitingPerformer,
    images_of,
    record_outcomes,
    still_listed,
    waiting_performers,
)
from stash_sense_pipeline.errors import BodyTooLargeError, CircuitOpenError, Outcome, SourceError
from stash_sense_pipeline.faces.decode import DecodeLimits
from stash_sense_pipeline.faces.detect import Detector
from stash_sense_pipeline.faces.examine import Examiner
from stash_sense_pipeline.faces.packs import ModelPack
from stash_sense_pipeline.faces.quality import check_image_size
from stash_sense_pipeline.faces.reasons import SEEN, SPOILED, Reason, Rejected
from stash_sense_pipeline.faces.reopen import Reopened, reopen_images
from stash_sense_pipeline.faces.rules import Rules
from stash_sense_pipeline.faces.schedule import Schedule, ScheduledImage
from stash_sense_pipeline.progress import Progress
from stash_sense_pipeline.settings import GlobalSettings, SourceSettings, TrustLevel

log = logging.getLogger(__name__)

T = TypeVar("T")

# An image's URL → the URL and headers to ask for it with.
ImageRequest = Callable[[str], tuple[str, Mapping[str, str]]]

# Refused several times in a row, with nothing answered between: the source means us, not the image.
_BLOCKED_IN_A_ROW = 3
_FIRST_RETRY = timedelta(hours=1)
_RETRY_FACTOR = 4


class ImageResponse(Protocol):
    """A successful answer with its body."""

    @property
    def content(self) -> bytes: ...


class ImageClient(Protocol):
    """What fetches images: sources.http.PoliteClient. Raises SourceError."""

    async def get(self, url: str, *, headers: Mapping[str, str], max_bytes: int) -> ImageResponse: ...


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


@dataclass(frozen=True)
class CollectReport:
    """What one run did. `outcome` and `message` say why it ended early, None when it came to its end.

    `reused` images had the bytes of one that was judged before; `rejected` and `failed` count by reason.
    `copies` show a picture that the person already has from this source: they are not another face.
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
    reopened: Reopened
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

    A failure of one image is noted for it and tried again later. When the source itself gives no answers
    (unreachable, rate limit, blocked) the run ends early and the report says with which outcome. Raises
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
        elif verdict.state is ImageState.FAILED:
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
        self._rules = Rules.of(pack.detector, settings.quality_filters, high, limits.decode)
        self._judged_by = self._rules.text
        self._counts = _Counts()
        self._examiner: Examiner | None = None
        self._loading = threading.Lock()
        self._batch: list[_Verdict] = []
        self._ended = asyncio.Event()
        self._fetches: set[asyncio.Task[bytes]] = set()
        self._stopping = False
        self._interrupted = False
        self._outcome: Outcome | None = None
        self._message: str | None = None
        self._unanswered: list[_Verdict] = []
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
            failed=dict(sorted((+counts.failed).items())),
            gone=counts.gone,
            faces=counts.done,
            copies=self._schedule.copies if performers else 0,
            performers=len(performers),
            reopened=reopened,
            interrupted=self._interrupted,
            outcome=self._outcome,
            message=self._message,
            seconds=time.monotonic() - started,
        )

    def _prepare(self) -> tuple[Reopened, list[tuple[str, int]]]:
        with writing(self._engine) as connection:
            reopened = reopen_images(
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
                await asyncio.wait([group.create_task(self._lane()) for _ in range(self._limits.fetches)])
                self._ended.set()
                if watcher is not None:
                    watcher.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            # Also after a cancellation: what has a verdict is stored.
            if self._outcome is not None:
                self._pardon()
            await self._flush()

    def _examine(self, data: bytes) -> StoredFace:
        # Loaded with the first image: a run that finds nothing to do is over at once.
        with self._loading:
            if self._examiner is None:
                self._examiner = Examiner(
                    self._pack,
                    Detector(self._pack.detector),
                    self._settings.quality_filters,
                    self._rules.single_face,
                    self._limits.decode,
                )
        return self._examiner.examine(data)

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
        for fetch in self._fetches:
            fetch.cancel()

    def _end_because(self, error: SourceError) -> None:
        if self._outcome is None:
            self._outcome, self._message = error.outcome, str(error)
            log.warning("%s: collecting ends early: %s", self._source.name, error)
        self._end()

    # --- one image ---

    async def _lane(self) -> None:
        while (image := await self._schedule.take()) is not None:
            verdict = await self._handle(image)
            if verdict is None:
                return
            picture = verdict.face.picture_hash if verdict.face is not None else None
            self._schedule.settle(image, verdict.state is ImageState.DONE, picture)
            self._batch.append(verdict)
            if len(self._batch) >= self._limits.batch_size:
                await self._flush()

    async def _handle(self, image: ScheduledImage) -> _Verdict | None:
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
        try:
            data = await self._fetch(ledger.url)
        except SourceError as error:
            return self._after_failure(image, error)
        if data is None:
            return None
        self._unanswered.clear()
        self._counts.fetched += 1
        return await self._in(self._compute, lambda: self._judge(image, data))

    async def _fetch(self, url: str) -> bytes | None:
        """The body; None when the run ended meanwhile."""
        if self._stopping:
            return None
        address, headers = self._image_request(url)

        async def fetch() -> bytes:
            limit = self._limits.decode.max_bytes
            return (await self._client.get(address, headers=headers, max_bytes=limit)).content

        task = asyncio.create_task(fetch())
        self._fetches.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._fetches.discard(task)
            task.cancel()
        return None if task.cancelled() else task.result()

    def _after_failure(self, image: ScheduledImage, error: SourceError) -> _Verdict | None:
        if isinstance(error, CircuitOpenError) or error.outcome is Outcome.RATE_LIMITED:
            self._end_because(error)
            return None
        if error.outcome in (Outcome.NOT_FOUND, Outcome.GONE):
            self._unanswered.clear()
            return _Verdict(image, ImageState.GONE, error.outcome)
        if error.outcome is Outcome.DISALLOWED:
            too_large = isinstance(error, BodyTooLargeError)
            reason = Reason.TOO_MANY_BYTES if too_large else Reason.DISALLOWED
            return _Verdict(image, ImageState.REJECTED, reason, judged=too_large)
        verdict = self._failed(image, error.outcome)
        self._unanswered.append(verdict)
        if error.outcome is Outcome.BLOCKED and len(self._unanswered) >= _BLOCKED_IN_A_ROW:
            self._end_because(error)
        return verdict

    def _pardon(self) -> None:
        """Where the source gave no answers any more, its last failures are not held against the images."""
        for verdict in self._unanswered:
            attempts = verdict.image.ledger.attempts
            self._batch.append(_Verdict(verdict.image, ImageState.PENDING, attempts=attempts))
            self._counts.failed[str(verdict.reason)] -= 1

    def _failed(self, image: ScheduledImage, reason: str, sha256: str | None = None) -> _Verdict:
        attempts = image.ledger.attempts + 1
        later = None
        if attempts < self._limits.max_attempts:
            later = self._clock() + _FIRST_RETRY * _RETRY_FACTOR ** (attempts - 1)
        return _Verdict(
            image, ImageState.FAILED, reason, sha256=sha256, attempts=attempts, next_attempt_at=later
        )

    def _judge(self, image: ScheduledImage, data: bytes) -> _Verdict:
        digest = hashlib.sha256(data).hexdigest()
        if self._suppressions.covers_image(digest):
            return _Verdict(image, ImageState.REJECTED, Reason.SUPPRESSED)
        detector = self._pack.detector.digest
        with reading(self._engine) as connection:
            known = find_judged(connection, digest, detector, self._judged_by, self._pack.digests)
        if known is not None:
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
        try:
            face = self._examine(data)
        except Rejected as rejected:
            reason = rejected.reason
            if reason in SPOILED:
                verdict = self._failed(image, reason, digest)
                given_up = verdict.next_attempt_at is None
                return replace(verdict, state=ImageState.REJECTED, judged=True) if given_up else verdict
            seen = detector if reason in SEEN else None
            return _Verdict(image, ImageState.REJECTED, reason, digest, None, seen, judged=True)
        if self._shows_suppressed(face):
            return _Verdict(image, ImageState.REJECTED, Reason.SUPPRESSED)
        return _Verdict(image, ImageState.DONE, None, digest, face, detector, judged=True)

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
            for verdict in await asyncio.shield(self._in(self._catalog, lambda: self._commit(batch))):
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
            # A picture that is taken down may have had a face before it was due again.
            empty = (ImageState.REJECTED, ImageState.GONE)
            forget_faces(
                connection, source, [verdict.image.image_id for verdict in batch if verdict.state in empty]
            )
            found = [(verdict.image.image_id, verdict.face) for verdict in batch if verdict.face is not None]
            store_faces(connection, source, found, now)
            record_outcomes(connection, source, [self._row(verdict, now) for verdict in batch])
        return verdicts

    def _as_listed_now(self, verdict: _Verdict) -> _Verdict:
        covered = (
            self._suppressions.covers_url(verdict.image.ledger.url)
            or (verdict.sha256 is not None and self._suppressions.covers_image(verdict.sha256))
            or self._shows_suppressed(verdict.face)
        )
        return _Verdict(verdict.image, ImageState.REJECTED, Reason.SUPPRESSED) if covered else verdict

    def _row(self, verdict: _Verdict, now: datetime) -> dict[str, Any]:
        return {
            "image_id": verdict.image.image_id,
            "state": verdict.state,
            "reason": verdict.reason,
            "attempts": verdict.attempts,
            "next_attempt_at": verdict.next_attempt_at,
            "sha256": verdict.sha256,
            "picture_hash": verdict.face.picture_hash if verdict.face is not None else None,
            "detector_digest": verdict.detector_digest,
            "judged_by": self._judged_by if verdict.judged else None,
            "processed_at": now,
        }
