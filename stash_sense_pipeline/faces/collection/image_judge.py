"""Judges the bytes of one image: the face, or the reason why there is none; and finds the tattoos in its picture."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace

from stash_sense_pipeline.catalog.queries.faces import Judge, Judged, StoredFace, find_judged
from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooScan, lacks_scan, usable_scan
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.collection.current_suppressions import CurrentSuppressions
from stash_sense_pipeline.faces.collection.run_context import RunContext
from stash_sense_pipeline.faces.collection.verdicts import (
    FailureVerdicts,
    ImageVerdict,
    SecondVerdict,
    kept,
    suppressed,
)
from stash_sense_pipeline.faces.extraction.decode import DecodedImage
from stash_sense_pipeline.faces.extraction.extract_face import ExtractedFace, FaceExtractor
from stash_sense_pipeline.faces.extraction.rejection_reasons import SEEN, SPOILED, Rejected
from stash_sense_pipeline.faces.image_schedule import ScheduledImage
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.tattoos.search import TattooSearch


class _Picture:
    """The bytes of an image, decoded at most once for all packs."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._decoded: DecodedImage | None = None

    def decoded(self, extractor: FaceExtractor) -> DecodedImage:
        """The pixels. Raises Rejected with the reason."""
        if self._decoded is None:
            self._decoded = extractor.decode(self._data)
        return self._decoded


def _comes_again(image: ScheduledImage, digest: str) -> bool:
    """Whether an image that is only looked at again came with the bytes that the first pack has judged."""
    return image.ledger.looks_again and digest == image.ledger.sha256


class ImageJudge:
    """Judges images with the detectors of the packs. Its methods block; they run in the threads of the run."""

    def __init__(
        self, context: RunContext, suppressions: CurrentSuppressions, failures: FailureVerdicts
    ) -> None:
        self._context = context
        self._suppressions = suppressions
        self._failures = failures
        self._detector_digest = context.pack.detector.finding_digest
        self._extractors: dict[str, FaceExtractor] = {}
        tattoo = context.pack.tattoo
        self._search = TattooSearch(tattoo) if tattoo is not None else None
        self._loading = threading.Lock()

    def judge(self, image: ScheduledImage, data: bytes) -> ImageVerdict:
        """The verdict on the bytes of an image. Bytes that were judged before are not searched for a face again.

        With `to_search` the picture must still be searched for tattoos, by `with_tattoos`.
        """
        digest, picture = hashlib.sha256(data).hexdigest(), _Picture(data)
        if self._suppressions.covers_image(digest):
            return suppressed(image)
        verdict = (
            self._known_by_first(image, digest)
            or self._looked_at_for_tattoos(image, digest, picture)
            or self._judged_by_first(image, digest, picture)
        )
        if not self._asks_second(verdict):
            return verdict
        second = self._known_by_second(digest) or self._judged_by_second(picture)
        return (
            suppressed(image)
            if self._suppressions.covers_face(second.face)
            else replace(verdict, second=second)
        )

    def with_tattoos(self, verdict: ImageVerdict, data: bytes) -> ImageVerdict:
        """A verdict `to_search` with the tattoos in the picture.

        The bytes are decoded again, which takes a hundredth of the time of the search, so that no picture is in memory
        while it waits for the search.
        """
        assert self._search is not None
        try:
            scan = self._search(self._extractor(self._context.pack).decode(data).rgb)
        except Rejected:
            # A costly picture had too little processor time or memory for the second time.
            scan = self._search.not_searched
        if verdict.face is None:
            return replace(verdict, scan=scan, to_search=False)
        return replace(verdict, face=replace(verdict.face, tattoos=scan), to_search=False)

    def judged_before(self, image: ScheduledImage, digest: str) -> ImageVerdict | None:
        """The stored verdict on another image with the SHA-256 `digest`, by the same detectors and criteria."""
        verdict = self._known_by_first(image, digest)
        if verdict is None or not self._asks_second(verdict):
            return verdict
        second = self._known_by_second(digest)
        if second is None:
            return None
        return (
            suppressed(image)
            if self._suppressions.covers_face(second.face)
            else replace(verdict, second=second)
        )

    def is_picture(self, data: bytes) -> bool:
        """True when the bytes are a whole picture, with or without a face."""
        try:
            self._extractor(self._context.pack).extract(data)
        except Rejected as rejected:
            return rejected.reason not in SPOILED
        return True

    def _judged_by_first(self, image: ScheduledImage, digest: str, picture: _Picture) -> ImageVerdict:
        detector, extractor = self._detector_digest, self._extractor(self._context.pack)
        try:
            found = extractor.face_of(picture.decoded(extractor))
        except Rejected as rejected:
            reason = rejected.reason
            if reason in SPOILED:
                return self._failures.spoiled(image, reason, digest)
            seen = detector if reason in SEEN else None
            return ImageVerdict(image, ImageState.REJECTED, reason, digest, None, seen, judged=True)
        if self._suppressions.covers_face(found.face):
            return suppressed(image)
        scan, to_search = self._scan_of(found)
        face = replace(found.face, tattoos=scan)
        return ImageVerdict(
            image, ImageState.DONE, None, digest, face, detector, judged=True, to_search=to_search
        )

    def _scan_of(self, found: ExtractedFace) -> tuple[TattooScan | None, bool]:
        """The scan of a picture that needs no search, and whether it must be searched."""
        if self._search is None:
            return None, False
        scan = self._search.without_search(found)
        return scan, scan is None

    def _lacks_scan(self, image: ScheduledImage) -> bool:
        tattoo = self._context.pack.tattoo
        if tattoo is None:
            return False
        with reading(self._context.engine) as connection:
            return lacks_scan(connection, self._context.source.name, image.ledger.image_id, tattoo.models)

    def _looked_at_for_tattoos(
        self, image: ScheduledImage, digest: str, picture: _Picture
    ) -> ImageVerdict | None:
        """A verdict on a picture with a face of before that keeps the face; None when the picture is new."""
        if self._search is None or not _comes_again(image, digest):
            return None
        extractor = self._extractor(self._context.pack)
        try:
            scan, to_search = self._scan_of(extractor.face_of(picture.decoded(extractor)))
        except Rejected:
            # Stricter filters than those by which the face was accepted.
            scan, to_search = self._search.not_searched, False
        return replace(kept(image, digest), scan=scan, to_search=to_search)

    def _known_by_first(self, image: ScheduledImage, digest: str) -> ImageVerdict | None:
        if _comes_again(image, digest):
            return None if self._lacks_scan(image) else kept(image, digest)
        detector, context = self._detector_digest, self._context
        with reading(context.engine) as connection:
            known = find_judged(
                connection, digest, Judge(detector, context.criteria.text, context.pack.digests)
            )
        if known is None:
            return None
        if known.face is not None:
            known = self._with_usable_scan(known, known.face)
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

    def _with_usable_scan(self, known: Judged, face: StoredFace) -> Judged | None:
        """`known` with the tattoos that this pack can use; None when the picture must be searched for them."""
        tattoo = self._context.pack.tattoo
        scan = usable_scan(face.tattoos, tattoo.models) if tattoo is not None else None
        if tattoo is not None and scan is None:
            return None
        return replace(known, face=replace(face, tattoos=scan))

    def _asks_second(self, verdict: ImageVerdict) -> bool:
        return self._context.second is not None and verdict.is_seen

    def _judged_by_second(self, picture: _Picture) -> SecondVerdict:
        assert self._context.second is not None
        try:
            decoded = picture.decoded(self._extractor(self._context.pack))
            found = self._extractor(self._context.second.pack).face_of(decoded)
        except Rejected as rejected:
            return SecondVerdict(rejected.reason)
        return SecondVerdict(face=found.face)

    def _known_by_second(self, digest: str) -> SecondVerdict | None:
        second = self._context.second
        assert second is not None
        pack = second.pack
        judge = Judge(pack.detector.finding_digest, second.criteria.text, pack.digests, second=True)
        with reading(self._context.engine) as connection:
            known = find_judged(connection, digest, judge)
        return None if known is None else SecondVerdict(known.reason, known.face)

    def _extractor(self, pack: ModelPack) -> FaceExtractor:
        # The networks are loaded with the first image, so that a run without work ends at once.
        with self._loading:
            if pack.name not in self._extractors:
                context = self._context
                self._extractors[pack.name] = FaceExtractor(
                    pack,
                    Detector(pack.detector),
                    context.settings.quality_filters,
                    context.criteria.single_face,
                    context.limits.decode,
                )
            return self._extractors[pack.name]
