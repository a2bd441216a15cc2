"""Decodes costly images in a process of their own, which is ended when one takes too much time or memory."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import threading
from dataclasses import astuple
from typing import IO

import numpy as np

from stash_sense_pipeline.faces.extraction.decode import (
    DecodedImage,
    DecodeLimits,
    decode_image,
    decode_prepared,
    prepare,
)
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected

# Reduction, width and height of the picture, height and width of the pixels that follow. For a rejection: 0, the length
# of the reason, and zeros.
_ANSWER = struct.Struct("<5I")
_REASON = 0
# Memory in bytes that Python, numpy and Pillow need before they decode anything.
_PROGRAM_MEMORY = 256 * 1024 * 1024
# Wall time for each second of processor time: a loaded machine gives a process little processor time.
_WALL_FACTOR = 6
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class ImageDecoder:
    """Decodes images for many threads.

    An ordinary image is decoded in the calling thread. Costly images are decoded in a process of their own, one at a
    time, so that only one image uses the memory of `limits` at any time.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._one_at_a_time = threading.Lock()

    def decode(self, data: bytes) -> DecodedImage:
        """Decodes as decode.decode_image. Raises Rejected; TOO_COSTLY also when the process was killed or crashed."""
        prepared = prepare(data, self._limits)
        if not prepared.costly:
            return decode_prepared(prepared)
        with self._one_at_a_time:
            return _decode_in_process(data, self._limits)


def _decode_in_process(data: bytes, limits: DecodeLimits) -> DecodedImage:
    numbers = [str(number) for number in astuple(limits)]
    # Without API keys: an image that exploits a decoder finds none.
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # In its own session, so that an interruption of the run does not kill it and look like a verdict on the image.
        start_new_session=True,
        env={**environment, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    end = threading.Timer(limits.max_seconds * _WALL_FACTOR, process.kill)
    end.start()
    try:
        with process.stdin as question:
            question.write(data)
        return _read_answer(process.stdout)
    except (BrokenPipeError, EOFError) as error:
        raise Rejected(Reason.TOO_COSTLY) from error
    finally:
        end.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def _read_answer(answer: IO[bytes]) -> DecodedImage:
    reduction, *numbers = _ANSWER.unpack(_read(answer, _ANSWER.size))
    if reduction == _REASON:
        raise Rejected(Reason(bytes(_read(answer, numbers[0])).decode()))
    width, height, rows, columns = numbers
    rgb = np.frombuffer(_read(answer, rows * columns * 3), dtype=np.uint8).reshape(rows, columns, 3)
    return DecodedImage(rgb, reduction, (width, height))


def _read(answer: IO[bytes], size: int) -> bytearray:
    content = bytearray(size)
    view, got = memoryview(content), 0
    while got < size:
        count = answer.readinto(view[got:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        got += count
    return content


def _serve_one(limits: DecodeLimits) -> None:
    """Reads an image file from standard input and writes its pixels, or the reason for its rejection."""
    resource.setrlimit(resource.RLIMIT_CPU, (limits.max_seconds, limits.max_seconds))
    memory = _PROGRAM_MEMORY + limits.max_bytes + limits.max_memory
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    out = sys.stdout.buffer
    try:
        image = decode_image(sys.stdin.buffer.read(), limits)
    except Rejected as rejected:
        text = rejected.reason.value.encode()
        out.write(_ANSWER.pack(_REASON, len(text), 0, 0, 0) + text)
        return
    out.write(_ANSWER.pack(image.reduction, *image.size, *image.rgb.shape[:2]))
    out.write(image.rgb.data)


if __name__ == "__main__":
    _serve_one(DecodeLimits(*map(int, sys.argv[1:])))
