"""Evidence about suspected hosts: other images are requested to tell whether the host fails or only some images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from stash_sense_pipeline.catalog.queries.images import LedgerImage, urls_fetched_before, waits_elsewhere
from stash_sense_pipeline.faces.collection.image_fetcher import ImageFetcher
from stash_sense_pipeline.faces.collection.image_hosts import ImageHost, ImageHosts, Suspicion
from stash_sense_pipeline.faces.collection.image_judge import ImageJudge
from stash_sense_pipeline.faces.collection.run_context import RunContext
from stash_sense_pipeline.faces.collection.run_state import RunCounts, RunEnd
from stash_sense_pipeline.faces.image_schedule import Schedule, ScheduledImage
from stash_sense_pipeline.foundation.errors import CircuitOpenError, Outcome, SourceError

log = logging.getLogger(__name__)

# How many images that came before, and how many waiting ones of other performers, are requested as evidence.
_KNOWN_AS_EVIDENCE = 2
_OTHERS_AS_EVIDENCE = 3
# So many images without a connection fail a run without any answer, also when they share one address.
_UNREACHED_IMAGES = 3


@dataclass(eq=False)
class HostEvidence:
    """Decides which hosts are down in a run, and whether the run goes on without them."""

    context: RunContext
    schedule: Schedule
    fetcher: ImageFetcher
    judge: ImageJudge
    counts: RunCounts
    end: RunEnd

    @property
    def _hosts(self) -> ImageHosts:
        return self.fetcher.hosts

    async def verify(self, host: ImageHost, work_on: Callable[[ScheduledImage], Awaitable[bool]]) -> None:
        """Tests a suspected host, and closes it when the evidence fails as well.

        Requests images that came before, then waiting images of other performers. `work_on` gives such an image its
        verdict; it returns False when the run ends first.
        """
        host.is_verified = True
        known = await self.context.read(
            lambda connection: urls_fetched_before(
                connection, self.context.source.name, host.origins, _KNOWN_AS_EVIDENCE
            )
        )
        for url, sha256 in known:
            comes = await self._comes_again(host, url, sha256)
            if host.suspicion is None or self.end.is_ending:
                return
            if comes:
                host.clear()
                return
        others = 0
        for _ in range(_OTHERS_AS_EVIDENCE):
            image = await self.schedule.take_elsewhere(lambda ledger: self._tells_about(host, ledger))
            if image is None:
                break
            if not await work_on(image) or host.suspicion is None:
                return
            if host.suspicion is Suspicion.FAILURES and host.has_refused(image.ledger.url):
                host.clear()
                return
            others += host.has_failed(image.ledger.url) or host.has_refused(image.ledger.url)
        if not known and not others and not host.is_unreachable:
            # There was no evidence: the images may fail for themselves.
            host.clear()
            return
        await self.close(host, host.verdict)

    async def close(self, host: ImageHost, error: SourceError | None) -> None:
        """Sends no more requests to a host. Ends the run when no other host has work or answers.

        Without an `error` the host answers, but not for the waiting images: that does not fail the run.
        """
        if host.is_down:
            return
        host.hold()
        ends = error is not None and not await self._goes_on_without(host)
        log.warning(
            "%s: %s is not asked any more in this run: %s",
            self.context.source.name,
            host.name,
            error or "its images fail, though others came",
        )
        if ends and error is not None:
            self.end.fail(error)
        host.close(error)

    async def judge_run(self) -> None:
        """Fails a run in which no host answered, also when its images waited at several hosts."""
        errors = [host.error for host in self._hosts.down if host.error is not None]
        if self.counts.unreached >= _UNREACHED_IMAGES:
            errors += self._hosts.unreachable
        if not errors or self.end.is_ending or self._hosts.has_answered:
            return
        if not await self._other_host_answers(self._hosts.origins_down):
            self.end.fail(errors[0])

    def _tells_about(self, host: ImageHost, ledger: LedgerImage) -> bool:
        """True when the image would be requested from this host for the first time in this run."""
        shared = self.fetcher.shared.get(ledger.url)
        is_taken = shared is not None and shared.is_taken
        if is_taken or host.has_failed(ledger.url) or host.has_refused(ledger.url):
            return False
        return self.fetcher.target(ledger.url).host is host

    async def _comes_again(self, host: ImageHost, url: str, sha256: str | None) -> bool:
        """True when an image that came before comes again."""
        self.counts.evidence += 1
        try:
            data = await self.fetcher.fetch(self.fetcher.target(url, host))
        except SourceError as error:
            if isinstance(error, CircuitOpenError) or error.outcome is Outcome.RATE_LIMITED:
                await self.close(host, error)
            # A host that gave no answers is cleared by any answer.
            return error.outcome.is_answer and host.suspicion is Suspicion.FAILURES
        if data is None:
            return False
        if hashlib.sha256(data).hexdigest() == sha256:
            return True
        return await self.context.threads.in_compute(lambda: self.judge.is_picture(data))

    async def _goes_on_without(self, host: ImageHost) -> bool:
        """True when another host has work, or answers at all."""
        origins = self._hosts.origins_down | host.origins
        context = self.context
        waits = await context.read(
            lambda connection: waits_elsewhere(connection, context.source.name, origins, context.clock())
        )
        return waits or await self._other_host_answers(origins)

    async def _other_host_answers(self, origins: Collection[str]) -> bool:
        """True when an image comes again that came before, and its URL begins with none of `origins`."""
        known = await self.context.read(
            lambda connection: urls_fetched_before(
                connection,
                self.context.source.name,
                self._hosts.origins_down,
                _KNOWN_AS_EVIDENCE,
                elsewhere=True,
            )
        )
        for url, sha256 in known:
            host = self.fetcher.target(url).host
            if host is not None and not host.is_down and await self._comes_again(host, url, sha256):
                host.gave_picture()
                return True
        return False
