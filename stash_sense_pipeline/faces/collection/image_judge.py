"""Judges the bytes of one image: the face, or the reason why there is none."""

from __future__ import annotations

import hashlib
import threading

from stash_sense_pipeline.catalog.queries.faces import StoredFace, find_judged
from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.collection.current_suppressions import CurrentSuppressions
from stash_sense_pipeline.faces.collection.run_context import RunContext
from stash_sense_pipeline.faces.collection.verdicts import FailureVerdicts, ImageVerdict, suppressed
from stash_sense_pipeline.faces.extraction.extract_face import FaceExtractor
from stash_sense_pipeline.faces.extraction.rejection_reasons import SEEN, SPOILED, Rejected
from stash_sense_pipeline.faces.image_schedule import ScheduledImage
from stash_sense_pipeline.faces.models.detector import Detector


class ImageJudge:
    """Judges images with the detector of the pack. Its methods block; they run in the threads of the run."""

    def __init__(
        self, context: RunContext, suppressions: CurrentSuppressions, failures: FailureVerdicts
    ) -> None:
        self._context = context
        self._suppressions = suppressions
        self._failures = failures
        self._detector_digest = context.pack.detector.digest
        self._extractor: FaceExtractor | None = None
        self._loading = threading.Lock()

    def judge(self, image: ScheduledImage, data: bytes) -> ImageVerdict:
        """The verdict on the bytes of an image. Bytes that were judged before are not decoded again."""
        digest = hashlib.sha256(data).hexdigest()
        if self._suppressions.covers_image(digest):
            return suppressed(image)
        known = self.judged_before(image, digest)
        if known is not None:
            return known
        detector = self._detector_digest
        try:
            face = self._extract(data)
        except Rejected as rejected:
            reason = rejected.reason
            if reason in SPOILED:
                return self._failures.spoiled(image, reason, digest)
            seen = detector if reason in SEEN else None
            return ImageVerdict(image, ImageState.REJECTED, reason, digest, None, seen, judged=True)
        if self._suppressions.covers_face(face):
            return suppressed(image)
        return ImageVerdict(image, ImageState.DONE, None, digest, face, detector, judged=True)

    def judged_before(self, image: ScheduledImage, digest: str) -> ImageVerdict | None:
        """The stored verdict on another image with the SHA-256 `digest`, by the same detector and criteria."""
        detector, context = self._detector_digest, self._context
        with reading(context.engine) as connection:
            known = find_judged(connection, digest, detector, context.criteria.text, context.pack.digests)
        if known is None:
            return None
        if self._suppressions.covers_face(known.face):
            return suppressed(image)
        return ImageVerdict(
            image,
            ImageState(known.state),
            known.reason,
            digest,
            known.face,
            detector,
            judged=True,
            reused=True,
        )

    def is_picture(self, data: bytes) -> bool:
        """True when the bytes are a whole picture, with or without a face."""
        try:
            self._extract(data)
        except Rejected as rejected:
            return rejected.reason not in SPOILED
        return True

    def _extract(self, data: bytes) -> StoredFace:
        # The networks are loaded with the first image, so that a run without work ends at once.
        with self._loading:
            if self._extractor is None:
                context = self._context
                self._extractor = FaceExtractor(
                    context.pack,
                    Detector(context.pack.detector),
                    context.settings.quality_filters,
                    context.criteria.single_face,
                    context.limits.decode,
                )
        return self._extractor.extract(data)
