"""Aligned crops of listed faces, in memory only: kept ones, else the picture is fetched once under the source's rules.

No byte of a picture is written to a disk or a log. A crop is made by the landmarks that the catalog has: nothing is
detected and nothing is recognised.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity.face_verdicts import read_owners_of_images
from stash_sense_pipeline.catalog.queries.identity.review_details import FaceOrigin, read_origin
from stash_sense_pipeline.catalog.source_lock import source_lock
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ConfigurationError, SourceError, StashSenseError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings
from stash_sense_pipeline.sources.connections import open_connector, open_site_connector, unusable
from stash_sense_pipeline.sources.cooldown import check_cooldown

if TYPE_CHECKING:
    from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
    from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector
    from stash_sense_pipeline.sources.stash_boxes.connectors import Connector

# The crops of some cards; each takes about 20 kB.
_HELD = 64


class NoCropError(StashSenseError):
    """There is no crop to show; the text says why, without an address or a name."""


class Crops:
    """The crops of one session. Use it inside one event loop, and close it there.

    Each picture is fetched at most once, one at a time from each source, while no run reads that source and outside of
    its cooldown. A source that fails is not asked again in this session.
    """

    def __init__(self, engine: sa.Engine, settings: Settings, environment: Environment) -> None:
        self._engine = engine
        self._settings = settings
        self._environment = environment
        self._stack = AsyncExitStack()
        self._connectors: dict[str, Connector | SiteConnector] = {}
        self._failed: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._missing: dict[int, str] = {}

    async def aclose(self) -> None:
        """Closes the connections and drops all crops."""
        self._held.clear()
        await self._stack.aclose()

    async def crop(self, face_id: int, listed: Suppressions) -> bytes:
        """The crop of a face as PNG. Raises NoCropError."""
        origin = await asyncio.to_thread(self._origin, face_id, listed)
        if origin.crop is not None:
            return origin.crop
        lock = self._locks.setdefault(origin.source, asyncio.Lock())
        async with lock:
            if face_id in self._held:
                self._held.move_to_end(face_id)
                return self._held[face_id]
            if face_id in self._missing:
                raise NoCropError(self._missing[face_id])
            try:
                crop = await self._made(origin)
            except NoCropError as error:
                self._missing[face_id] = str(error)
                raise
            self._held[face_id] = crop
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
            return crop

    def forget(self, face_ids: set[int]) -> None:
        """Drops the crops of a decision that is settled."""
        for face_id in face_ids:
            self._held.pop(face_id, None)

    def _origin(self, face_id: int, listed: Suppressions) -> FaceOrigin:
        with reading(self._engine) as connection:
            origin = read_origin(connection, face_id)
            image = (origin.source, origin.image_id) if origin is not None else ("", "")
            owners = read_owners_of_images(connection, [image]).get(image, set())
        if origin is None:
            raise NoCropError("the catalog does not hold this face any more")
        hidden = (
            listed.covers_picture(*image, origin.url)
            or (origin.sha256 is not None and listed.covers_image(origin.sha256))
            or any(listed.covers_record(*owner) or listed.is_held(*owner) for owner in owners)
        )
        if hidden:
            raise NoCropError("the suppression list covers this picture")
        return origin

    async def _made(self, origin: FaceOrigin) -> bytes:
        from stash_sense_pipeline.faces.extraction.align import norm_crop
        from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
        from stash_sense_pipeline.faces.extraction.decode_process import ImageDecoder
        from stash_sense_pipeline.faces.extraction.extract_face import encode_crop
        from stash_sense_pipeline.faces.extraction.rejection_reasons import Rejected

        limits = DecodeLimits()
        data = await self._fetched(origin, limits.max_bytes)
        if origin.sha256 is None or hashlib.sha256(data).hexdigest() != origin.sha256:
            raise NoCropError("the picture has changed at its source")

        def make() -> bytes:
            image = ImageDecoder(limits).decode(data)
            landmarks = np.frombuffer(origin.landmarks, dtype="<f4").reshape(5, 2)
            return encode_crop(norm_crop(image.rgb, landmarks / image.reduction))

        try:
            return await asyncio.to_thread(make)
        except (Rejected, ValueError):
            raise NoCropError("the picture cannot be read any more") from None

    async def _fetched(self, origin: FaceOrigin, max_bytes: int) -> bytes:
        source = origin.source
        if source in self._failed:
            raise NoCropError(self._failed[source])

        def busy(_: str) -> None:
            raise NoCropError(f"a run reads {source} now; open the card again later")

        try:
            with source_lock(self._engine, source, busy):
                check_cooldown(self._engine, source, datetime.now(UTC))
                connector = await self._connector(source)
                address, headers = connector.image_request(origin.url)
                answer = await connector.client.get(
                    address, headers=headers, max_bytes=max_bytes, may_retry=lambda: False
                )
                return answer.content
        except SourceError as error:
            # The text of the error may hold an address, which can name a person.
            text = f"{source} did not send the picture ({error.outcome.value})"
            if not error.outcome.is_answer:
                self._failed[source] = text
            raise NoCropError(text) from None
        except ConfigurationError as error:
            self._failed[source] = str(error)
            raise NoCropError(str(error)) from None

    async def _connector(self, source: str) -> Connector | SiteConnector:
        if source not in self._connectors:
            self._connectors[source] = await self._opened(source)
        return self._connectors[source]

    async def _opened(self, source: str) -> Connector | SiteConnector:
        from stash_sense_pipeline.sources.reference_sites.site_connector import read_referers

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
