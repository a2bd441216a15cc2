"""Crops of listed faces: whether the suppression list permits one, and the processes that make them.

This process holds no picture but the encoded crop that it sends.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity.face_verdicts import read_owners_of_images
from stash_sense_pipeline.catalog.queries.identity.review_details import FaceOrigin, read_origin
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.review.crop_answer import CropAnswer, CropOutcome
from stash_sense_pipeline.review.crop_process import (
    ANSWER,
    REQUEST,
    CropInputs,
    CropTemplate,
)
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

# A crop has 112 x 112 pixels: this is more than its pixels take as PNG.
_MOST_BYTES = 256 * 1024


class NoCropError(StashSenseError):
    """There is no crop to show; the text says why, without an address or a name."""


class _Channel:
    """The channel to a process that makes the crops of one source, and the faces that it was asked for."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self.faces: set[int] = set()

    def end(self) -> None:
        """Ends the process with all that it holds. Any thread may call it.

        While an answer is awaited, `ask` raises OSError when the process has ended: before that it holds the lock of its
        source.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            # The process has ended already.
            return

    async def ask(self, face_id: int, not_before: float) -> CropAnswer:
        """The answer of the process. OSError when it ends before it has answered."""
        self.faces.add(face_id)
        await asyncio.get_running_loop().sock_sendall(self._socket, REQUEST.pack(face_id, not_before))
        outcome, next_request, size = ANSWER.unpack(await self._received(ANSWER.size))
        if not 0 <= size <= _MOST_BYTES:
            raise ConnectionError("an answer of another form")
        return CropAnswer(CropOutcome(outcome), await self._received(size), next_request)

    async def _received(self, size: int) -> bytes:
        loop, content = asyncio.get_running_loop(), bytearray(size)
        view, got = memoryview(content), 0
        while got < size:
            count = await loop.sock_recv_into(self._socket, view[got:])
            if not count:
                raise ConnectionError("the process has ended")
            got += count
        return bytes(content)


class Crops:
    """The crops of one session. Use it inside one event loop, and close it there.

    Each picture is fetched at most once while its card is open, one at a time from each source. A source that fails is
    not asked again in this session.
    """

    def __init__(self, engine: sa.Engine, settings: Settings, environment: Environment) -> None:
        self._engine = engine
        self._inputs = CropInputs(environment, settings)
        self._template: CropTemplate | None = None
        self._guard = threading.Lock()
        self._channels: dict[str, _Channel] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._failed: dict[str, str] = {}
        self._missing: dict[int, str] = {}
        # By source, the time of the monotonic clock before which another process must not ask it.
        self._next_request: dict[str, float] = {}

    def start(self) -> None:
        """Starts the template process, so that the first crop need not wait for it."""
        if self._template is None or not self._template.is_alive:
            if self._template is not None:
                self._template.close()
            self._template = CropTemplate()

    async def aclose(self) -> None:
        """Ends all processes."""
        with self._guard:
            for channel in self._channels.values():
                channel.end()
            self._channels.clear()
        if self._template is not None:
            await asyncio.to_thread(self._template.close)

    async def crop(self, face_id: int, listed: Suppressions) -> bytes:
        """The crop of a face as PNG. Raises NoCropError."""
        origin = await asyncio.to_thread(self._origin, face_id, listed)
        async with self._locks.setdefault(origin.source, asyncio.Lock()):
            answer = await self._answer(origin.source, face_id)
        if answer.outcome is CropOutcome.CROP:
            return answer.content
        text = answer.content.decode()
        if answer.outcome is CropOutcome.NO_CROP:
            self._missing[face_id] = text
        elif answer.outcome is CropOutcome.SOURCE_FAILED:
            self._failed[origin.source] = text
        raise NoCropError(text)

    def forget(self, face_ids: set[int]) -> None:
        """Ends the processes that have made a crop of a decision that is settled. Any thread may call it."""
        with self._guard:
            for source, channel in list(self._channels.items()):
                if channel.faces & face_ids:
                    channel.end()
                    del self._channels[source]

    async def _answer(self, source: str, face_id: int) -> CropAnswer:
        known = self._missing.get(face_id) or self._failed.get(source)
        if known is not None:
            raise NoCropError(known)
        with self._guard:
            channel = self._channels.get(source)
            if channel is None:
                self.start()
                assert self._template is not None
                channel = self._channels[source] = _Channel(self._template.fork(self._inputs))
            channel.faces.add(face_id)
        try:
            answer = await channel.ask(face_id, self._next_request.get(source, 0.0))
        except BaseException as error:
            # After a cancelled request the channel would give the answer of another face.
            channel.end()
            with self._guard:
                if self._channels.get(source) is channel:
                    del self._channels[source]
            if isinstance(error, OSError):
                raise NoCropError("the process that makes the crop has ended; open the card again") from None
            raise
        self._next_request[source] = max(self._next_request.get(source, 0.0), answer.next_request)
        return answer

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
