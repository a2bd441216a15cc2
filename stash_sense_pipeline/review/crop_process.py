"""Processes that make crops and end, so that no picture stays in the memory of the review.

A template process has imported everything and holds no picture. For each source of the open cards it forks a process,
which answers on a channel of its own until the review ends the channel.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

if TYPE_CHECKING:
    from stash_sense_pipeline.review.crop_making import CropMaker

# Face id, and the time before which no request may be sent.
REQUEST = struct.Struct("<qd")
# Outcome, time of the next request, length of the content that follows.
ANSWER = struct.Struct("<Bdi")
LENGTH = struct.Struct("<i")
# A database server that is down must not keep a process.
_UNLOCK_SECONDS = 5.0


@dataclass(frozen=True)
class CropInputs:
    """What a process that makes crops needs. It comes from the review through the channel, never from outside."""

    environment: Environment
    settings: Settings


class CropTemplate:
    """The template process. Its methods do not block for long, and may be called by several threads."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # A traceback could show a part of a picture's address.
                stderr=subprocess.DEVNULL,
                # An interruption in the terminal reaches the review, which then ends all channels.
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def fork(self, inputs: CropInputs) -> socket.socket:
        """The channel of a new process. OSError when the template has ended."""
        channel, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
        content = pickle.dumps(inputs)
        channel.sendall(LENGTH.pack(len(content)) + content)
        return channel

    def close(self) -> None:
        """Ends the template. The processes that it has forked end with their channels."""
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _run_template(control: socket.socket) -> None:
    """Forks a process for each channel that comes through `control`, until the review closes it."""
    # Ended processes leave no entry in the process table.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        with socket.socket(fileno=descriptors[0]) as channel:
            if os.fork() == 0:
                try:
                    control.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _serve(channel)
                finally:
                    # At once, whatever other threads do: the memory with the pictures goes.
                    os._exit(0)


def _serve(channel: socket.socket) -> None:
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.review.crop_making import CropMaker

    (length,) = LENGTH.unpack(channel.recv(LENGTH.size, socket.MSG_WAITALL))
    inputs: CropInputs = pickle.loads(channel.recv(length, socket.MSG_WAITALL))
    engine = open_catalog(inputs.environment.catalog_url)
    asyncio.run(_answer_all(channel, CropMaker(engine, inputs.settings, inputs.environment)))


async def _answer_all(channel: socket.socket, maker: CropMaker) -> None:
    """Answers requests. Ends the process when the review ends the channel, also while a picture is fetched."""
    channel.setblocking(False)
    loop = asyncio.get_running_loop()
    following = asyncio.create_task(_request(channel))
    while (request := await following) is not None:
        # The review sends the next request after the answer, so before it only the end can come.
        following = asyncio.create_task(_request(channel))
        answering = asyncio.create_task(maker.answer(*request))
        await asyncio.wait({answering, following}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            # The next process must find the lock of the source free.
            answering.cancel()
            await asyncio.wait({answering}, timeout=_UNLOCK_SECONDS)
            break
        answer = answering.result()
        head = ANSWER.pack(answer.outcome, answer.next_request, len(answer.content))
        await loop.sock_sendall(channel, head + answer.content)
    os._exit(0)


async def _request(channel: socket.socket) -> tuple[int, float] | None:
    """The next request; None when the review has ended the channel."""
    loop, content = asyncio.get_running_loop(), b""
    while len(content) < REQUEST.size:
        part = await loop.sock_recv(channel, REQUEST.size - len(content))
        if not part:
            return None
        content += part
    face_id, not_before = REQUEST.unpack(content)
    return face_id, not_before


def _main() -> None:
    import stash_sense_pipeline.catalog.engine
    import stash_sense_pipeline.review.crop_making
    import stash_sense_pipeline.sources.stash_boxes.connectors  # noqa: F401

    # A crash writes no memory to a disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=os.dup(0)) as control:
        _run_template(control)


if __name__ == "__main__":
    _main()
