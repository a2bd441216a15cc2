"""Makes the aligned crop of a face: a kept one, else from the picture, which is fetched under the source's rules.

It runs in a process that crop_process forks, because every step leaves copies of the picture in memory. A crop is made
by the landmarks that the catalog has: nothing is detected and nothing is recognised. No byte of a picture is written to
a disk or a log.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity.review_details import (
    FaceOrigin,
    read_kept_crop,
    read_origin,
)
from stash_sense_pipeline.catalog.source_lock import source_lock
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.extraction.align import norm_crop
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.decode_process import ImageDecoder
from stash_sense_pipeline.faces.extraction.extract_face import encode_crop
from stash_sense_pipeline.faces.extraction.rejection_reasons import Rejected
from stash_sense_pipeline.foundation.errors import ConfigurationError, SourceError, StashSenseError
from stash_sense_pipeline.review.crop_answer import CropAnswer, CropOutcome
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings
from stash_sense_pipeline.sources.connections import open_connector, open_site_connector, unusable
from stash_sense_pipeline.sources.cooldown import check_cooldown
from stash_sense_pipeline.sources.reference_sites.site_connector import read_referers

if TYPE_CHECKING:
    from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector
    from stash_sense_pipeline.sources.stash_boxes.connectors import Connector

# The crops of some cards; each takes about 20 kB.
_HELD = 64


class _NoCropError(StashSenseError):
    """There is no crop to show."""

    def __init__(self, outcome: CropOutcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class CropMaker:
    """The crops of one source, made one after the other. Use it inside one event loop.

    Each picture is fetched at most once, while no run reads the source and outside of its cooldown.
    """

    def __init__(self, engine: sa.Engine, settings: Settings, environment: Environment) -> None:
        self._engine = engine
        self._settings = settings
        self._environment = environment
        self._stack = AsyncExitStack()
        self._connector: Connector | SiteConnector | None = None
        self._held: OrderedDict[int, bytes] = OrderedDict()

    async def answer(self, face_id: int, not_before: float) -> CropAnswer:
        """The crop of a face. No request goes to its source before `not_before`."""
        if face_id in self._held:
            self._held.move_to_end(face_id)
            return CropAnswer(CropOutcome.CROP, self._held[face_id])
        with reading(self._engine) as connection:
            origin, kept = read_origin(connection, face_id), read_kept_crop(connection, face_id)
        if origin is None:
            return CropAnswer(CropOutcome.NO_CROP, b"the catalog does not hold this face any more")
        if kept is not None:
            return CropAnswer(CropOutcome.CROP, kept)
        try:
            crop = await self._made(origin, not_before)
        except _NoCropError as error:
            return CropAnswer(error.outcome, str(error).encode(), self._next_request(origin.url))
        self._held[face_id] = crop
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return CropAnswer(CropOutcome.CROP, crop, self._next_request(origin.url))

    def _next_request(self, url: str) -> float:
        if self._connector is None:
            return 0.0
        address, _ = self._connector.image_request(url)
        # The clock is read last: time that passes between the two statements must not shorten the wait.
        seconds = self._connector.client.seconds_until_next(address)
        return time.monotonic() + seconds

    async def _made(self, origin: FaceOrigin, not_before: float) -> bytes:
        limits = DecodeLimits()
        data = await self._fetched(origin, limits.max_bytes, not_before)
        if origin.sha256 is None or hashlib.sha256(data).hexdigest() != origin.sha256:
            raise _NoCropError(CropOutcome.NO_CROP, "the picture has changed at its source")

        def make() -> bytes:
            image = ImageDecoder(limits).decode(data)
            landmarks = np.frombuffer(origin.landmarks, dtype="<f4").reshape(5, 2)
            return encode_crop(norm_crop(image.rgb, landmarks / image.reduction))

        try:
            return await asyncio.to_thread(make)
        except (Rejected, ValueError):
            raise _NoCropError(CropOutcome.NO_CROP, "the picture cannot be read any more") from None

    async def _fetched(self, origin: FaceOrigin, max_bytes: int, not_before: float) -> bytes:
        source = origin.source

        def busy(_: str) -> None:
            raise _NoCropError(CropOutcome.LATER, f"a run reads {source} now; open the card again later")

        try:
            with source_lock(self._engine, source, busy):
                check_cooldown(self._engine, source, datetime.now(UTC))
                if self._connector is None:
                    self._connector = await self._opened(source)
                    await asyncio.sleep(max(0.0, not_before - time.monotonic()))
                address, headers = self._connector.image_request(origin.url)
                answer = await self._connector.client.get(
                    address, headers=headers, max_bytes=max_bytes, may_retry=lambda: False
                )
                return answer.content
        except SourceError as error:
            # The text of the error may hold an address, which can name a person.
            text = f"{source} did not send the picture ({error.outcome.value})"
            outcome = CropOutcome.NO_CROP if error.outcome.is_answer else CropOutcome.SOURCE_FAILED
            raise _NoCropError(outcome, text) from None
        except ConfigurationError as error:
            raise _NoCropError(CropOutcome.SOURCE_FAILED, str(error)) from None

    async def _opened(self, source: str) -> Connector | SiteConnector:
        problem = unusable(self._settings, self._environment, source)
        if problem is not None:
            raise ConfigurationError(problem)
        settings = self._settings.source(source)
        if not isinstance(settings, ReferenceSiteSettings):
            return await self._stack.enter_async_context(
                open_connector(self._settings, self._environment, source)
            )
        if not settings.fetch:
            raise ConfigurationError(f"no request goes to {source} (fetch: false)")
        connector = await self._stack.enter_async_context(
            open_site_connector(self._settings, self._environment, settings)
        )
        connector.referers = await asyncio.to_thread(read_referers, self._engine, connector)
        return connector
