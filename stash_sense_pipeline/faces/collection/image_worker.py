"""The workers of a run: each takes one image at a time from the schedule and sees it through to its verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.faces.collection.current_suppressions import CurrentSuppressions
from stash_sense_pipeline.faces.collection.host_evidence import HostEvidence
from stash_sense_pipeline.faces.collection.image_fetcher import ImageFetcher, ImageTarget, SharedAddress
from stash_sense_pipeline.faces.collection.image_hosts import ImageHost
from stash_sense_pipeline.faces.collection.image_judge import ImageJudge
from stash_sense_pipeline.faces.collection.run_context import RunContext
from stash_sense_pipeline.faces.collection.run_state import RunCounts, RunEnd
from stash_sense_pipeline.faces.collection.verdict_batches import VerdictBatches
from stash_sense_pipeline.faces.collection.verdicts import (
    FailureVerdicts,
    ImageVerdict,
    is_first_request,
    suppressed,
)
from stash_sense_pipeline.faces.extraction.quality import check_image_size
from stash_sense_pipeline.faces.extraction.rejection_reasons import SPOILED, Rejected
from stash_sense_pipeline.faces.image_schedule import Schedule, ScheduledImage
from stash_sense_pipeline.foundation.errors import (
    CircuitOpenError,
    Outcome,
    RobotsRefusalError,
    SourceError,
    UnreachableError,
)


@dataclass(eq=False)
class ImageWorker:
    """Fetches and judges images. `run` may run several times at once; it holds no state of its own."""

    context: RunContext
    suppressions: CurrentSuppressions
    schedule: Schedule
    fetcher: ImageFetcher
    judge: ImageJudge
    failures: FailureVerdicts
    batches: VerdictBatches
    evidence: HostEvidence
    counts: RunCounts
    end: RunEnd

    async def run(self) -> None:
        """Works on images until the schedule has no more or the run ends. Verifies suspected hosts in between."""
        while (image := await self.schedule.take()) is not None:
            if not await self._work_on(image, as_evidence=False):
                return
            while (host := self.fetcher.hosts.suspected) is not None and not self.end.is_ending:
                await self.evidence.verify(host, self._work_on_evidence)

    async def _work_on_evidence(self, image: ScheduledImage) -> bool:
        return await self._work_on(image, as_evidence=True)

    async def _work_on(self, image: ScheduledImage, *, as_evidence: bool) -> bool:
        """Sees one image through to its verdict. False when the run ends before there is one."""
        verdict = await self._verdict(image, as_evidence)
        if verdict is None:
            return False
        if image.ledger.looks_again:
            verdict = self.failures.of_second_look(verdict)
        picture = verdict.face.picture_hash if verdict.face is not None else None
        if verdict.kept:
            picture = image.ledger.picture_hash
        self.schedule.settle(image, verdict.state is ImageState.DONE, picture)
        await self.batches.add(verdict)
        return True

    async def _verdict(self, image: ScheduledImage, as_evidence: bool) -> ImageVerdict | None:
        """The verdict on one image; None when the run ends before there is one."""
        ledger = image.ledger
        if ledger.width and ledger.height and ledger.width > 0 and ledger.height > 0:
            # An image that is too small by its listed size is rejected without a request.
            try:
                check_image_size(ledger.width, ledger.height, self.context.settings.quality_filters)
            except Rejected as rejected:
                return ImageVerdict(image, ImageState.REJECTED, rejected.reason, judged=True)
        if self.suppressions.covers_url(ledger.url):
            return suppressed(image)
        shared = self.fetcher.shared.get(ledger.url)
        if shared is None:
            return await self._request(image, as_evidence, None)
        async with shared.lock:
            if not shared.is_known:
                return await self._request(image, as_evidence, shared)
        return await self._known_verdict(image, shared)

    async def _known_verdict(self, image: ScheduledImage, shared: SharedAddress) -> ImageVerdict | None:
        """The verdict on an image with an address that was requested for another image of this run."""
        if shared.error is not None:
            return self._after_error(image, shared.error)
        known = shared.verdict
        assert known is not None
        if known.reason in SPOILED:
            return self.failures.spoiled(image, str(known.reason), known.sha256)
        faceless = known.second is None or known.second.face is None
        if known.sha256 is None or (
            known.state is ImageState.REJECTED
            and faceless
            and not known.kept
            and not image.ledger.looks_again
        ):
            return replace(known, image=image, reused=True)
        digest = known.sha256
        # The catalog thread works in order: the first verdict is stored before this one is looked up.
        await self.batches.flush()
        found = await self.context.threads.in_catalog(lambda: self.judge.judged_before(image, digest))
        return found if found is not None else await self._request(image, False, None)

    async def _request(
        self, image: ScheduledImage, as_evidence: bool, shared: SharedAddress | None
    ) -> ImageVerdict | None:
        """Fetches and judges one image once its host admits it. None when the run ends first."""
        target = self.fetcher.target(image.ledger.url)
        host = target.host
        if host is None or as_evidence:
            return await self._request_now(image, target, shared)
        if not await host.admit():
            return self._postponed(image, host)
        try:
            return await self._request_now(image, target, shared)
        finally:
            host.leave()

    async def _request_now(
        self, image: ScheduledImage, target: ImageTarget, shared: SharedAddress | None
    ) -> ImageVerdict | None:
        """Fetches and judges one image, and notes what the answer says about its host."""
        url, host = image.ledger.url, target.host
        try:
            data = await self.fetcher.fetch(target)
            if data is None:
                return None
            self.counts.fetched += 1
            self.counts.first_asked += is_first_request(image)
            verdict = await self.context.threads.in_compute(lambda: self.judge.judge(image, data))
        except SourceError as error:
            if host is not None and isinstance(error, CircuitOpenError):
                # The image was not requested.
                await self.evidence.close(host, error)
                return self._postponed(image, host)
            if host is not None and error.outcome is Outcome.RATE_LIMITED:
                # It counts for the image too, so that an image that always gets this answer does not come first again.
                await self.evidence.close(host, error)
                return self.failures.failed(image, error.outcome)
            self.counts.first_asked += is_first_request(image)
            if shared is not None:
                shared.error = error
            if host is not None:
                _note_error(host, url, error)
            return self._after_error(image, error)
        if host is not None:
            self._note_verdict(host, url, verdict)
        if verdict.to_search:
            judged = verdict
            verdict = await self.context.threads.in_search(lambda: self.judge.with_tattoos(judged, data))
        if shared is not None:
            shared.verdict = replace(verdict, face=None)
        return verdict

    def _after_error(self, image: ScheduledImage, error: SourceError) -> ImageVerdict:
        verdict = self.failures.after_error(image, error)
        self.counts.unreached += not verdict.refused and isinstance(error, UnreachableError)
        return verdict

    def _postponed(self, image: ScheduledImage, host: ImageHost) -> ImageVerdict | None:
        if self.end.is_ending:
            return None
        host.postponed += 1
        return self.failures.postponed(image)

    def _note_verdict(self, host: ImageHost, url: str, verdict: ImageVerdict) -> None:
        """A whole picture speaks for its host; spoiled bytes count as a failure."""
        if verdict.reason in SPOILED:
            text = f"an image of {host.name} came as {verdict.reason}"
            host.gave_failure(url, SourceError(self.context.source.name, Outcome.PARSE_ERROR, text))
        else:
            host.gave_picture()


def _note_error(host: ImageHost, url: str, error: SourceError) -> None:
    """Counts a failed request for or against its host. A request that robots.txt forbids was not sent and counts not."""
    if isinstance(error, RobotsRefusalError):
        return
    if error.outcome.is_answer or error.outcome is Outcome.DISALLOWED:
        host.gave_refusal(url)
    else:
        host.gave_failure(url, error)
