"""Fetch order of images: people with fewest faces first, no more than their cap.

A copy of a picture that a performer already has from this source does not count as another face. Copies in other
sources are not considered here: they are known only after identities are computed, and the images that sufficed for
one run must suffice for the next. The choice of trusted faces leaves such copies out.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from math import gcd
from weakref import WeakValueDictionary

from stash_sense_pipeline.catalog.queries.images import ImageState, LedgerImage
from stash_sense_pipeline.records.perceptual_hash import same_picture


class _Status(Enum):
    WAITING = auto()
    IN_FLIGHT = auto()
    FACE = auto()
    NO_FACE = auto()


@dataclass(eq=False)
class ScheduledImage:
    """An image of the ledger in the schedule. It is the only object for its image until the verdict is committed."""

    ledger: LedgerImage
    status: _Status
    picture: str | None

    @property
    def image_id(self) -> str:
        """The id of the image in its source."""
        return self.ledger.image_id

    @property
    def has_claimed_face(self) -> bool:
        """True when the image counts as done although it is due: not seen, or not searched for tattoos."""
        return self.ledger.state is ImageState.DONE

    @property
    def adds_no_face(self) -> bool:
        """True when its verdict cannot give its performer another face of the first pack."""
        return self.has_claimed_face or self.ledger.looks_again


@dataclass(eq=False)
class _Performer:
    source_id: str
    cap: int
    rank: int
    queued_at: int | None = None
    images: list[ScheduledImage] = field(default_factory=list)

    def next_image(self) -> tuple[ScheduledImage | None, int, bool]:
        """The image to fetch now or None, the possible faces of the images before it, and whether any is in flight.

        Images are taken in order. An image is taken only when fewer than `cap` images before it have a face or may
        still get one, so that the choice of images does not depend on the order in which requests complete. A copy
        of a copy therefore counts as a copy too: knowledge about an earlier image can only remove faces. An image with
        a claimed face adds no face, so that the cap does not keep it from being looked at.
        """
        faces, flying, full = 0, False, False
        seen: set[str] = set()
        for image in self.images:
            if image.status is _Status.WAITING:
                if faces < self.cap or image.adds_no_face:
                    return image, faces, flying
                full = True
            if full:
                continue
            flying = flying or image.status is _Status.IN_FLIGHT
            faces += image.status is _Status.IN_FLIGHT or (
                image.status is _Status.FACE and not _is_copy(image.picture, seen)
            )
            if image.status is _Status.FACE and image.picture is not None:
                seen.add(image.picture)
        return None, faces, flying

    @property
    def copies(self) -> int:
        """The number of images with a face that show the picture of an earlier image."""
        seen: set[str] = set()
        copies = 0
        for image in self.images:
            if image.status is _Status.FACE and image.picture is not None:
                copies += _is_copy(image.picture, seen)
                seen.add(image.picture)
        return copies


def _is_copy(picture: str | None, seen: Iterable[str]) -> bool:
    return picture is not None and any(same_picture(picture, other) for other in seen)


# How many performers are searched for one image out of order, and how many of them at a time.
_LOOKED_THROUGH = 400
_LOOKED_AT_ONCE = 40
# The multiples of the golden ratio modulo 1 are spread evenly over 0..1, for any number of them.
_GOLDEN_RATIO = 0.6180339887498949


def _stride(total: int) -> int:
    """A step near `total` times the golden ratio that visits each place of a queue of `total` places once."""
    stride = max(1, int(total * _GOLDEN_RATIO))
    while gcd(stride, total) > 1:
        stride += 1
    return stride


Loader = Callable[[Sequence[str]], Awaitable[Mapping[str, Sequence[LedgerImage]]]]


class Schedule:
    """Hands out the images of a list of performers, loaded a page at a time. For one event loop."""

    def __init__(
        self, performers: Sequence[tuple[str, int]], load: Loader, page: int, most: int | None = None
    ) -> None:
        """`performers` are (source_id, cap) in order of urgency; `load` returns the images of some of them.

        At most `most` images are handed out in order; None: as many as the caps allow.

        `copies` counts the images of finished performers that show a picture which the performer already had.
        """
        self._waiting = list(performers)
        self.total = len(self._waiting)
        self._load = load
        self._page = page
        self._left = most
        self._loaded = 0
        self.copies = 0
        self._images: WeakValueDictionary[str, ScheduledImage] = WeakValueDictionary()
        self._active: dict[str, _Performer] = {}
        self._heap: list[tuple[int, int, str]] = []
        self._in_flight = 0
        self._closed = False
        self._loading = asyncio.Lock()
        self._changed = asyncio.Event()
        # The search for images out of order begins behind the first place, where the failing images are.
        self._looked_at = 1
        self._stride = _stride(self.total)
        # Keeps these images alive, so that performers that are loaded later find their status.
        self._out_of_order: list[ScheduledImage] = []

    @property
    def finished(self) -> int:
        """The number of performers without images to fetch."""
        return self._loaded - len(self._active)

    def close(self) -> None:
        """Hands out no more images: calls that wait in `take` return None."""
        self._closed = True
        self._changed.set()

    async def take(self) -> ScheduledImage | None:
        """The next image to fetch; waits while that depends on images in flight. None when no image is left."""
        while not self._closed and self._left != 0:
            image = self._issue()
            if image is not None:
                if self._left is not None:
                    self._left -= 1
                return image
            if self._loaded < self.total:
                await self._load_page()
            elif self._in_flight == 0:
                break
            else:
                self._changed.clear()
                await self._changed.wait()
        self._changed.set()
        return None

    async def take_elsewhere(self, wanted: Callable[[LedgerImage], bool]) -> ScheduledImage | None:
        """A `wanted` image out of order, of performers spread over the queue; None when some hundreds have none.

        It is the next image of its performer. `settle` must follow, as after `take`.
        """
        for _ in range(_LOOKED_THROUGH // _LOOKED_AT_ONCE):
            if self._closed:
                return None
            steps = range(self._looked_at, self._looked_at + min(_LOOKED_AT_ONCE, self.total))
            places = [step * self._stride % self.total for step in steps]
            listed = await self._load([self._waiting[place][0] for place in places])
            for place in places:
                self._looked_at += 1
                image = self._next_of(place, listed)
                if image is not None and wanted(image.ledger) and not self._closed:
                    return self._issued(image)
        return None

    def _next_of(self, place: int, listed: Mapping[str, Sequence[LedgerImage]]) -> ScheduledImage | None:
        source_id, cap = self._waiting[place]
        performer = self._active.get(source_id)
        if performer is None:
            if place < self._loaded:
                return None  # finished
            performer = _Performer(source_id, cap, place)
            performer.images = [self._scheduled(image) for image in listed[source_id]]
        return performer.next_image()[0]

    def _issued(self, image: ScheduledImage) -> ScheduledImage:
        image.status = _Status.IN_FLIGHT
        self._in_flight += 1
        self._out_of_order.append(image)
        for source_id in image.ledger.owners:
            if source_id in self._active:
                self._queue(self._active[source_id])
        return image

    def settle(self, image: ScheduledImage, has_face: bool, picture: str | None = None) -> None:
        """Notes the result of an image that `take` returned; `picture` is its perceptual hash."""
        image.picture = picture
        image.status = _Status.FACE if has_face else _Status.NO_FACE
        self._in_flight -= 1
        for source_id in image.ledger.owners:
            if source_id in self._active:
                self._queue(self._active[source_id])
        self._changed.set()

    def _issue(self) -> ScheduledImage | None:
        while self._heap:
            faces, _, source_id = heapq.heappop(self._heap)
            performer = self._active.get(source_id)
            if performer is None or performer.queued_at != faces:
                continue  # a later entry replaced this one
            performer.queued_at = None
            image, _, flying = performer.next_image()
            if image is not None:
                image.status = _Status.IN_FLIGHT
                self._in_flight += 1
                self._queue(performer)
                return image
            if not flying:
                self.copies += performer.copies
                del self._active[source_id]
        return None

    def _queue(self, performer: _Performer) -> None:
        _, faces, _ = performer.next_image()
        if performer.queued_at != faces:
            performer.queued_at = faces
            heapq.heappush(self._heap, (faces, performer.rank, performer.source_id))

    async def _load_page(self) -> None:
        async with self._loading:
            if self._heap or self._loaded == self.total:
                return
            page = self._waiting[self._loaded : self._loaded + self._page]
            listed = await self._load([source_id for source_id, _ in page])
            for source_id, cap in page:
                performer = _Performer(source_id, cap, self._loaded)
                performer.images = [self._scheduled(image) for image in listed[source_id]]
                self._active[source_id] = performer
                self._loaded += 1
                self._queue(performer)
        self._changed.set()

    def _scheduled(self, ledger: LedgerImage) -> ScheduledImage:
        # An image that another performer shares may be in flight already; then its status is newer than the catalog.
        known = self._images.get(ledger.image_id)
        if known is None:
            status = _Status.NO_FACE
            if ledger.due:
                status = _Status.WAITING
            elif ledger.state is ImageState.DONE:
                status = _Status.FACE
            known = self._images[ledger.image_id] = ScheduledImage(ledger, status, ledger.picture_hash)
        return known
