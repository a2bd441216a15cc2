"""The verdict on one image: its new state in the ledger, and how a failure, refusal or postponement becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from stash_sense_pipeline.catalog.queries.faces import StoredFace
from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooScan
from stash_sense_pipeline.faces.collection.image_refusals import next_look, next_night
from stash_sense_pipeline.faces.extraction.rejection_reasons import SEEN, SPOILED, Reason
from stash_sense_pipeline.faces.image_schedule import ScheduledImage
from stash_sense_pipeline.foundation.errors import BodyTooLargeError, Outcome, SourceError

_FIRST_RETRY = timedelta(hours=1)
_RETRY_FACTOR = 4


@dataclass(frozen=True)
class SecondVerdict:
    """The verdict of the second pack on an image that the first pack has judged: a face, or why there is none."""

    reason: str | None = None
    face: StoredFace | None = None


@dataclass(frozen=True)
class ImageVerdict:
    """The new state of an image, its reason, and its face.

    `judged`: the acceptance criteria decided. `reused`: taken from another image with the same bytes. `refused`: the
    source refused the image; refusals are counted at the end of the run, when their number is known. `postponed`: the
    image was not requested, because its host is down. `second`: what the second pack found. `kept`: the image was looked
    at for the second pack or for tattoos only, and what the first pack found stays. `scan`: the tattoos that such a look
    found. `to_search`: the picture must still be searched for tattoos. `given_up`: such a look was never had, and is not
    tried again.
    """

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
    refused: bool = False
    postponed: bool = False
    second: SecondVerdict | None = None
    kept: bool = False
    scan: TattooScan | None = None
    to_search: bool = False
    given_up: bool = False

    @property
    def is_final(self) -> bool:
        """True when the image has no face of the first pack and no later attempt is planned."""
        return (
            self.state in (ImageState.REJECTED, ImageState.GONE)
            and not self.refused
            and self.next_attempt_at is None
            and not self.kept
        )

    @property
    def is_seen(self) -> bool:
        """True when the detector of the first pack has seen the picture, now or before."""
        return self.kept or self.face is not None or self.reason in SEEN

    @property
    def picture_hash(self) -> str | None:
        """The perceptual hash of the picture of which a pack has a face."""
        faces = (self.face, self.second.face if self.second is not None else None)
        return next((face.picture_hash for face in faces if face is not None), None)


def suppressed(image: ScheduledImage) -> ImageVerdict:
    """The verdict on an image that must not be stored."""
    return ImageVerdict(image, ImageState.REJECTED, Reason.SUPPRESSED)


def kept(image: ScheduledImage, sha256: str) -> ImageVerdict:
    """The verdict on an image that came with the bytes that the first pack has judged."""
    return ImageVerdict(image, image.ledger.state, sha256=sha256, kept=True)


def is_first_request(image: ScheduledImage) -> bool:
    """True when the image was never refused and has no verdict, except failures."""
    ledger = image.ledger
    return ledger.refusals == 0 and ledger.state in (ImageState.PENDING, ImageState.FAILED)


def _after_failure(image: ScheduledImage) -> ImageState:
    """The state of an image that could not be fetched. A claimed face stays in use: no answer is no evidence against it."""
    return ImageState.DONE if image.has_claimed_face else ImageState.FAILED


class FailureVerdicts:
    """Verdicts on images that gave no picture, with the time of the next attempt."""

    def __init__(self, max_attempts: int, clock: Callable[[], datetime]) -> None:
        self._max_attempts = max_attempts
        self._clock = clock

    def after_error(self, image: ScheduledImage, error: SourceError) -> ImageVerdict:
        """404, 410 and disallowed addresses are refusals; every other error is a failure."""
        if error.outcome in (Outcome.NOT_FOUND, Outcome.GONE):
            return self._refused(image, ImageState.GONE, error.outcome)
        if error.outcome is Outcome.DISALLOWED:
            if isinstance(error, BodyTooLargeError):
                return self._refused(image, ImageState.REJECTED, Reason.TOO_MANY_BYTES, judged=True)
            return self._refused(image, ImageState.REJECTED, Reason.DISALLOWED)
        return self.failed(image, error.outcome)

    def failed(self, image: ScheduledImage, reason: str, sha256: str | None = None) -> ImageVerdict:
        """One more attempt failed. The last permitted attempt counts as a refusal."""
        attempts, refusals = image.ledger.attempts + 1, image.ledger.refusals
        if attempts < self._max_attempts:
            later: datetime | None = self._clock() + _FIRST_RETRY * _RETRY_FACTOR ** (attempts - 1)
        else:
            refusals += 1
            later = next_look(refusals, self._clock())
        return ImageVerdict(
            image,
            _after_failure(image),
            reason,
            sha256=sha256,
            attempts=attempts,
            next_attempt_at=later,
            refusals=refusals,
        )

    def spoiled(self, image: ScheduledImage, reason: str, sha256: str | None) -> ImageVerdict:
        """The bytes are no whole picture: a failure, and a rejection after the last permitted attempt."""
        verdict = self.failed(image, reason, sha256)
        given_up = verdict.attempts >= self._max_attempts
        return replace(verdict, state=ImageState.REJECTED, judged=True) if given_up else verdict

    def postponed(self, image: ScheduledImage) -> ImageVerdict:
        """The host is down: requested again the next day, with nothing counted."""
        ledger = image.ledger
        return ImageVerdict(
            image,
            _after_failure(image),
            Reason.HOST_DOWN,
            attempts=ledger.attempts,
            next_attempt_at=next_night(self._clock()),
            refusals=ledger.refusals,
            postponed=True,
        )

    def of_second_look(self, verdict: ImageVerdict) -> ImageVerdict:
        """The verdict on an image that was requested for a look: without new bytes, that of the first pack stays.

        A look that cannot be had is tried again as for a failed image, and at last given up.
        """
        ledger = verdict.image.ledger
        is_new = verdict.judged and verdict.reason not in SPOILED and verdict.sha256 != ledger.sha256
        if verdict.kept or verdict.reason == Reason.SUPPRESSED or (is_new and verdict.sha256 is not None):
            return verdict
        refusals, later = verdict.refusals, verdict.next_attempt_at
        if verdict.refused:
            refusals += 1
            later = next_look(refusals, self._clock())
        return ImageVerdict(
            verdict.image,
            ledger.state,
            attempts=verdict.attempts,
            next_attempt_at=later,
            refusals=refusals,
            postponed=verdict.postponed,
            second=SecondVerdict(verdict.reason) if later is None else None,
            kept=True,
            given_up=later is None,
        )

    def _refused(
        self, image: ScheduledImage, state: ImageState, reason: str, judged: bool = False
    ) -> ImageVerdict:
        """Requested again the next day. The end of the run counts the refusal and may set a later time."""
        ledger = image.ledger
        return ImageVerdict(
            image,
            state,
            reason,
            judged=judged,
            attempts=ledger.attempts,
            next_attempt_at=next_night(self._clock()),
            refusals=ledger.refusals,
            refused=True,
        )
