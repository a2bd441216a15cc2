"""Costly images are decoded in a process of their own, with the same result, within a limit of time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stash_sense_pipeline.faces.extraction.decode import DecodeLimits, decode_image, prepare
from stash_sense_pipeline.faces.extraction.decode_process import ImageDecoder
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline_tests.faces.picture_files import exif, saved

LIMITS = DecodeLimits()


def large_picture(width: int = 5000, height: int = 4000) -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (height // 100, width // 100, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR))


def run_lengths(rows: int = 2000, width: int = 2000) -> bytes:
    """An RLE8 BMP of runs of one pixel, which Pillow decodes in Python."""
    body = (b"\1\5" * width + b"\0\0") * rows + b"\0\1"
    header = b"BM" + (1078 + len(body)).to_bytes(4, "little") + bytes(4) + (1078).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + width.to_bytes(4, "little") + rows.to_bytes(4, "little")
    header += (1).to_bytes(2, "little") + (8).to_bytes(2, "little") + (1).to_bytes(4, "little")
    return (
        header
        + len(body).to_bytes(4, "little")
        + bytes(8)
        + (256).to_bytes(4, "little")
        + bytes(4 + 1024)
        + body
    )


@pytest.mark.slow
def test_a_costly_image_gives_what_this_process_would_give() -> None:
    data = saved(large_picture(), format="JPEG", quality=90, exif=exif(6))
    assert prepare(data, LIMITS).costly
    ours, theirs = decode_image(data, LIMITS), ImageDecoder(LIMITS).decode(data)
    assert (theirs.size, theirs.reduction) == (ours.size, ours.reduction) == ((4000, 5000), 2)
    assert np.array_equal(theirs.rgb, ours.rgb)


@pytest.mark.slow
def test_a_damaged_costly_image_has_its_reason() -> None:
    data = saved(large_picture(), format="JPEG", quality=90)
    with pytest.raises(Rejected) as refused:
        ImageDecoder(LIMITS).decode(data[: len(data) // 2])
    assert refused.value.reason is Reason.TRUNCATED


@pytest.mark.slow
def test_an_ordinary_image_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"):
        data = saved(large_picture(1000, 800), format=kind)
        assert ImageDecoder(LIMITS).decode(data).size == (1000, 800)


def seconds_of_children() -> float:
    """The processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_decoding_that_takes_too_long_is_ended() -> None:
    limits = replace(LIMITS, max_seconds=1)
    data = run_lengths()
    assert prepare(data, limits).costly
    before = seconds_of_children()
    with pytest.raises(Rejected) as refused:
        ImageDecoder(limits).decode(data)
    assert refused.value.reason is Reason.TOO_COSTLY
    assert seconds_of_children() - before < 3


@pytest.mark.slow
def test_decoding_that_takes_too_much_memory_is_refused() -> None:
    """A limit below the normal need stands for a decoder that takes too much memory."""
    program = (
        "import stash_sense_pipeline.faces.extraction.decode_process as tested\n"
        f"tested._PROGRAM_MEMORY = 40_000_000 - {LIMITS.max_memory}\n"
        "tested._serve_one(tested.DecodeLimits())"
    )
    data = saved(large_picture(), format="JPEG", progressive=True)
    # As ImageDecoder starts it: each thread of OpenBLAS takes some of the memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], input=data, capture_output=True, check=False, env=environment
    )
    # No pixels: a reason, or an end that ImageDecoder takes for one.
    assert done.stdout.endswith(b"too_costly") or (not done.stdout and done.returncode)


@pytest.mark.slow
def test_costly_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()
    start = subprocess.Popen

    class Counted(start):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object, **options: object) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            super().__init__(*arguments, **options)

        def wait(self, timeout: float | None = None) -> int:
            nonlocal running
            code = super().wait(timeout)
            with lock:
                running -= 1
            return code

    monkeypatch.setattr(subprocess, "Popen", Counted)
    decoder, data = ImageDecoder(LIMITS), saved(large_picture(), format="JPEG")
    with ThreadPoolExecutor(3) as pool:
        assert [image.reduction for image in pool.map(decoder.decode, [data] * 3)] == [2, 2, 2]
    assert most == 1


def open_pipes() -> set[str]:
    """The pipes of this process. Other threads open and close files meanwhile."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(path.readlink()))
    return {target for target in found if target.startswith("pipe:")}


def test_the_process_gets_no_secrets_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    environments = []
    start = subprocess.Popen

    class Noted(start):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object, **options: object) -> None:
            environments.append(options["env"])
            super().__init__(*arguments, **options)

    monkeypatch.setenv("STASHDB_API_KEY", "a-secret")
    monkeypatch.setattr(subprocess, "Popen", Noted)
    before = open_pipes()
    ImageDecoder(LIMITS).decode(saved(large_picture(), format="JPEG"))
    assert environments
    assert "STASHDB_API_KEY" not in environments[0]
    assert open_pipes() <= before
