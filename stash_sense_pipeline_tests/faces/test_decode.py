"""Every kind of image file gives the pixels that Pillow's convert("RGB") gives, every other kind a typed refusal."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stash_sense_pipeline.faces.decode import DecodeLimits, decode_rgb
from stash_sense_pipeline.faces.reasons import Reason, Rejected

LIMITS = DecodeLimits()


def smooth(height: int = 90, width: int = 70, seed: int = 1) -> np.ndarray:
    """RGB noise that survives lossy coding."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


PHOTO = smooth()
RGB = Image.fromarray(PHOTO)
ALPHA = np.tile(np.linspace(0, 255, 70).astype(np.uint8), (90, 1))


def reason_of(data: bytes, limits: DecodeLimits = LIMITS) -> Reason:
    with pytest.raises(Rejected) as caught:
        decode_rgb(data, limits)
    return caught.value.reason


@pytest.mark.parametrize(
    "data",
    [
        saved(RGB, format="PNG"),
        saved(RGB, format="BMP"),
        saved(RGB, format="WEBP", lossless=True),
        saved(Image.merge("RGBA", [*RGB.split(), Image.fromarray(ALPHA)]), format="PNG"),
        saved(
            Image.merge("RGBA", [*RGB.split(), Image.fromarray(ALPHA)]),
            format="WEBP",
            lossless=True,
            exact=True,
        ),
        cv2.imencode(".png", PHOTO[:, :, ::-1].astype(np.uint16) * 256 + 77)[1].tobytes(),
        saved(
            RGB,
            format="WEBP",
            lossless=True,
            save_all=True,
            append_images=[Image.new("RGB", (70, 90))],
            duration=50,
        ),
    ],
    ids=["png", "bmp", "webp", "png with alpha", "webp with alpha", "16-bit png", "animated webp"],
)
def test_lossless_files_give_their_pixels(data: bytes) -> None:
    """Alpha is dropped, not blended; 16 bits lose the lower ones; of an animation the first frame counts."""
    decoded = decode_rgb(data, LIMITS)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, PHOTO)


def orientation_six() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(RGB, format="JPEG", quality=95, exif=exif)


# Pillow would like to see alpha kept.
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(
    "data",
    [
        saved(RGB, format="JPEG", quality=95),
        saved(RGB, format="JPEG", quality=95, progressive=True),
        saved(RGB, format="JPEG", quality=95, subsampling=0),
        saved(RGB.convert("CMYK"), format="JPEG", quality=95),
        orientation_six(),
        saved(RGB, format="WEBP", quality=95),
        saved(RGB, format="AVIF", quality=90),
        saved(RGB.quantize(200), format="GIF"),
        saved(RGB.quantize(200), format="PNG"),
        saved(RGB.quantize(200), format="PNG", transparency=bytes(range(200))),
        saved(RGB.quantize(200), format="GIF", save_all=True, append_images=[Image.new("P", (70, 90))]),
    ],
    ids=[
        "jpeg",
        "progressive jpeg",
        "4:4:4 jpeg",
        "cmyk jpeg",
        "jpeg turned by EXIF",
        "webp",
        "avif",
        "gif",
        "paletted png",
        "paletted png with transparency",
        "animated gif",
    ],
)
def test_lossy_and_paletted_files_come_near_their_pixels(data: bytes) -> None:
    decoded = decode_rgb(data, LIMITS)
    assert decoded.shape == PHOTO.shape
    assert np.abs(decoded.astype(int) - PHOTO).mean() < 12
    assert np.array_equal(decoded, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_grey_files_become_rgb() -> None:
    grey = RGB.convert("L")
    for data in (saved(grey, format="PNG"), saved(grey, format="JPEG", quality=100)):
        decoded = decode_rgb(data, LIMITS)
        assert decoded.shape == PHOTO.shape
        assert np.abs(decoded.astype(int) - np.asarray(grey)[:, :, None]).max() <= 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"<!DOCTYPE html><html><body>Just a moment...</body></html>", Reason.HTML),
        (b"\n\n  <html lang=en>not here", Reason.HTML),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Reason.SVG),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made by hand -->\n<svg width='9'/>", Reason.SVG),
        (b'{"error": "not found"}', Reason.NOT_AN_IMAGE),
        (b"<Error><Code>NoSuchKey</Code></Error>", Reason.NOT_AN_IMAGE),
        (bytes(range(256)) * 40, Reason.NOT_AN_IMAGE),
        (b"%PDF-1.7 ...", Reason.NOT_AN_IMAGE),
        (b"II*\x00" + bytes(100), Reason.NOT_AN_IMAGE),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(data: bytes, reason: Reason) -> None:
    assert reason_of(data) is reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_truncated(kind: str, share: float) -> None:
    whole = saved(Image.fromarray(smooth(200, 300)), format=kind)
    assert reason_of(whole[: int(len(whole) * share)]) in (Reason.TRUNCATED, Reason.NOT_AN_IMAGE)


def test_a_progressive_jpeg_that_is_cut_off_is_truncated() -> None:
    whole = saved(Image.fromarray(smooth(200, 300)), format="JPEG", progressive=True)
    assert reason_of(whole[: len(whole) * 2 // 3]) is Reason.TRUNCATED


def test_bytes_are_counted_first() -> None:
    data = saved(RGB, format="PNG")
    assert decode_rgb(data, DecodeLimits(max_bytes=len(data))).shape == PHOTO.shape
    assert reason_of(data, DecodeLimits(max_bytes=len(data) - 1)) is Reason.TOO_MANY_BYTES


def png_bomb() -> bytes:
    """7000 x 7200 pixels in some kilobytes."""
    return saved(Image.new("1", (7000, 7200)), format="PNG")


def webp_canvas() -> bytes:
    """An extended WebP header that claims 16384 x 16384 pixels."""
    chunk = b"VP8X" + (10).to_bytes(4, "little") + b"\x02\x00\x00\x00" + (16383).to_bytes(3, "little") * 2
    return b"RIFF" + (len(chunk) + 4).to_bytes(4, "little") + b"WEBP" + chunk + bytes(64)


def gif_screen() -> bytes:
    return (
        b"GIF89a"
        + (65535).to_bytes(2, "little") * 2
        + b"\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
    )


def huge_png_header() -> bytes:
    """A PNG that claims 100,000 x 100,000 pixels: more than Pillow itself would open."""
    content = b""
    for chunk in (
        b"IHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00",
        b"IDAT" + zlib.compress(bytes(99)),
    ):
        content += (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("bomb", [png_bomb, webp_canvas, gif_screen, huge_png_header])
def test_a_bomb_is_refused_before_it_is_decoded(bomb: Callable[[], bytes]) -> None:
    data = bomb()
    started = time.process_time()
    assert reason_of(data) is Reason.TOO_MANY_PIXELS
    assert time.process_time() - started < 0.2


def test_the_limit_of_pixels_is_inclusive() -> None:
    data = saved(RGB, format="PNG")
    assert decode_rgb(data, DecodeLimits(max_pixels=90 * 70)).shape == PHOTO.shape
    assert reason_of(data, DecodeLimits(max_pixels=90 * 70 - 1)) is Reason.TOO_MANY_PIXELS


WHOLE = [saved(RGB, format=kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")]
WHOLE.append(saved(RGB, format="JPEG", progressive=True))
WHOLE.append(saved(RGB.quantize(64), format="PNG", transparency=3))


@given(
    data=st.sampled_from(WHOLE),
    damage=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 6000),
)
def test_damaged_files_give_pixels_or_a_reason_and_nothing_else(
    data: bytes, damage: list[tuple[int, int]], cut: int
) -> None:
    spoiled = bytearray(data[:cut] if cut < len(data) else data)
    for place, value in damage:
        if place < len(spoiled):
            spoiled[place] = value
    try:
        decoded = decode_rgb(bytes(spoiled), DecodeLimits(max_pixels=1_000_000))
    except Rejected:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3
