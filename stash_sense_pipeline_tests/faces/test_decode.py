"""Every kind of image file gives the upright pixels that a viewer shows, every other kind a typed refusal."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stash_sense_pipeline.faces.extraction.decode import DecodeLimits, decode_image
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline_tests.faces.picture_files import chunk, many_scans, saved
from stash_sense_pipeline_tests.processor_time import least_seconds

LIMITS = DecodeLimits()


def smooth(height: int = 90, width: int = 70, seed: int = 1) -> np.ndarray:
    """RGB noise that survives lossy coding."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


PHOTO = smooth()
RGB = Image.fromarray(PHOTO)
ALPHA = np.tile(np.linspace(0, 255, 70).astype(np.uint8), (90, 1))


def reason_of(data: bytes, limits: DecodeLimits = LIMITS) -> Reason:
    with pytest.raises(Rejected) as caught:
        decode_image(data, limits)
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
    decoded = decode_image(data, LIMITS).rgb
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, PHOTO)


# Pillow would like to see alpha kept.
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(
    "data",
    [
        saved(RGB, format="JPEG", quality=95),
        saved(RGB, format="JPEG", quality=95, progressive=True),
        saved(RGB, format="JPEG", quality=95, subsampling=0),
        saved(RGB.convert("CMYK"), format="JPEG", quality=95),
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
        "webp",
        "avif",
        "gif",
        "paletted png",
        "paletted png with transparency",
        "animated gif",
    ],
)
def test_lossy_and_paletted_files_come_near_their_pixels(data: bytes) -> None:
    decoded = decode_image(data, LIMITS).rgb
    assert decoded.shape == PHOTO.shape
    assert np.abs(decoded.astype(int) - PHOTO).mean() < 12
    assert np.array_equal(decoded, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_grey_files_become_rgb() -> None:
    grey = RGB.convert("L")
    for data in (saved(grey, format="PNG"), saved(grey, format="JPEG", quality=100)):
        decoded = decode_image(data, LIMITS).rgb
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
        (b"II*\x00" + bytes(100), Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100), Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), Reason.UNSUPPORTED_FORMAT),
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


def test_a_file_above_the_limit_of_bytes_is_refused() -> None:
    data = saved(RGB, format="PNG")
    assert decode_image(data, DecodeLimits(max_bytes=len(data))).rgb.shape == PHOTO.shape
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
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))


@pytest.mark.parametrize("bomb", [png_bomb, webp_canvas, gif_screen, huge_png_header])
def test_a_bomb_is_refused_before_it_is_decoded(bomb: Callable[[], bytes]) -> None:
    data = bomb()
    assert reason_of(data) is Reason.TOO_MANY_PIXELS
    assert least_seconds(lambda: reason_of(data), 0.2) < 0.2


def test_the_limit_of_pixels_is_inclusive() -> None:
    data = saved(RGB, format="PNG")
    assert decode_image(data, DecodeLimits(max_pixels=90 * 70)).rgb.shape == PHOTO.shape
    assert reason_of(data, DecodeLimits(max_pixels=90 * 70 - 1)) is Reason.TOO_MANY_PIXELS


WHOLE = [saved(RGB, format=kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")]
WHOLE.append(saved(RGB, format="JPEG", progressive=True))
WHOLE.append(saved(RGB.quantize(64), format="PNG", transparency=3))


Damage = Callable[[bytes], bytes]


def damages() -> st.SearchStrategy[Damage]:
    """Bytes changed, cut, removed, repeated or put in between."""
    place, length, content = st.integers(0, 6000), st.integers(1, 600), st.binary(min_size=1, max_size=40)
    return st.one_of(
        st.builds(lambda at, new: lambda data: data[:at] + new + data[at + len(new) :], place, content),
        st.builds(lambda at: lambda data: data[:at], place),
        st.builds(lambda missing: lambda data: data[: -min(missing, len(data))], st.integers(1, 60)),
        st.builds(lambda at, size: lambda data: data[:at] + data[at + size :], place, length),
        st.builds(lambda at, size: lambda data: data[: at + size] + data[at:], place, length),
        st.builds(lambda at, new: lambda data: data[:at] + new + data[at:], place, content),
    )


@pytest.mark.slow
@settings(max_examples=300)
@given(data=st.sampled_from(WHOLE), done=st.lists(damages(), min_size=1, max_size=6))
def test_damaged_files_give_pixels_or_a_reason_and_nothing_else(data: bytes, done: list[Damage]) -> None:
    for damage in done:
        data = damage(data)
    started = time.process_time()
    try:
        decoded = decode_image(data, DecodeLimits(max_pixels=1_000_000)).rgb
    except Rejected:
        return
    finally:
        assert time.process_time() - started < 2
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3


@pytest.mark.parametrize("depth", ["16-bit grey", "16-bit grey with alpha", "16-bit colour"])
def test_sixteen_bits_are_scaled(depth: str) -> None:
    grey = cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY)
    wide = grey.astype(np.uint16) * 256 + 200
    data = {
        "16-bit grey": cv2.imencode(".png", wide)[1].tobytes(),
        "16-bit grey with alpha": grey_alpha_png(wide),
        "16-bit colour": cv2.imencode(".png", np.dstack([wide] * 3))[1].tobytes(),
    }[depth]
    assert np.array_equal(decode_image(data, LIMITS).rgb, np.dstack([grey] * 3))


def grey_alpha_png(grey: np.ndarray) -> bytes:
    """A 16-bit PNG of colour type 4, which neither Pillow nor OpenCV writes."""
    height, width = grey.shape
    rows = np.dstack([grey, np.full_like(grey, 0xFFFF)]).astype(">u2").reshape(height, -1)
    filtered = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(filtered)),
            chunk(b"IEND"),
        )
    )


@pytest.mark.slow
def test_a_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    data = many_scans(20_000, (3000, 3000))
    assert reason_of(data) is Reason.TOO_COSTLY
    assert least_seconds(lambda: reason_of(data), 0.5) < 0.5


def test_scans_and_pixels_are_bounded_together() -> None:
    data = many_scans(30)
    assert decode_image(data, LIMITS).rgb.shape == (900, 900, 3)
    assert reason_of(data, DecodeLimits(max_scan_pixels=900 * 900 * 30)) is Reason.TOO_COSTLY
    assert reason_of(data, DecodeLimits(max_scans=30)) is Reason.TOO_COSTLY


def crumbs(kind: str) -> bytes:
    """16 MB of the smallest pieces that a format allows."""
    if kind == "jpeg segments":
        return b"\xff\xd8" + b"\xff\xfe\0\2" * 4_000_000
    if kind == "png chunks":
        return b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt") * 1_300_000
    return saved(RGB.quantize(8), format="GIF")[:781] + b"!\xfe" + b"\1x" * 8_000_000


@pytest.mark.parametrize("kind", ["jpeg segments", "png chunks", "gif blocks"])
def test_a_file_of_millions_of_pieces_is_refused_at_once(kind: str) -> None:
    data = crumbs(kind)
    assert reason_of(data) is Reason.TOO_COSTLY
    assert least_seconds(lambda: reason_of(data), 2) < 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF"])
def test_a_picture_of_more_than_16_megapixels_comes_at_half_its_size(kind: str) -> None:
    small = smooth(40, 50)
    large = cv2.resize(small, (5001, 4001), interpolation=cv2.INTER_LINEAR)
    options = {"PNG": {"compress_level": 1}, "AVIF": {"speed": 10}, "WEBP": {"method": 0}}.get(kind, {})
    image = Image.fromarray(large)
    data = saved(image.quantize(255) if kind == "GIF" else image, format=kind, **options)
    limits = DecodeLimits(max_bytes=100_000_000, max_memory=400_000_000)
    decoded = decode_image(data, limits)
    assert (decoded.size, decoded.reduction) == ((5001, 4001), 2)
    assert decoded.rgb.shape == (2001, 2501, 3)
    expected = cv2.resize(large, (2501, 2001), interpolation=cv2.INTER_AREA)
    assert np.abs(decoded.rgb.astype(int) - expected).mean() < (12 if kind == "GIF" else 4)


def test_a_format_that_needs_more_memory_may_have_fewer_pixels() -> None:
    pixels, limits = 90 * 70, DecodeLimits(max_memory=90 * 70 * 16 - 1)
    assert decode_image(saved(RGB, format="JPEG"), limits).rgb.size == pixels * 3
    assert reason_of(saved(RGB, format="WEBP"), limits) is Reason.TOO_MANY_PIXELS


def test_of_several_pictures_in_a_jpeg_file_the_first_counts() -> None:
    """Cameras write previews and second views behind the first picture (MPO)."""
    file = saved(RGB, format="MPO", save_all=True, append_images=[Image.new("RGB", (400, 300))], quality=95)
    assert decode_image(file, LIMITS).rgb.shape == PHOTO.shape


def png_of(stream: bytes, end: bytes = chunk(b"IEND")) -> bytes:
    """The PNG file of PHOTO with another zlib stream."""
    return saved(RGB, format="PNG")[:33] + chunk(b"IDAT", stream) + end


STREAM = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PHOTO))


@pytest.mark.parametrize(
    "data",
    [
        png_of(STREAM),
        png_of(STREAM, b""),
        png_of(STREAM)[:-4] + b"????",
        png_of(STREAM[:-4] + b"????"),
        png_of(STREAM[:-4]),
        png_of(STREAM + bytes(5000)),
        png_of(zlib.compress(zlib.decompress(STREAM) + bytes(100_000_000))),
    ],
    ids=[
        "whole",
        "no IEND",
        "wrong checksum of IEND",
        "wrong checksum of the stream",
        "no checksum of the stream",
        "data behind the stream",
        "rows behind the picture",
    ],
)
def test_a_png_with_all_rows_gives_them(data: bytes) -> None:
    assert np.array_equal(decode_image(data, LIMITS).rgb, PHOTO)


def test_a_png_with_a_damaged_critical_chunk_or_half_its_rows_is_truncated() -> None:
    assert reason_of(png_of(STREAM[: len(STREAM) // 2])) is Reason.TRUNCATED
    damaged = bytearray(png_of(STREAM))
    damaged[100] ^= 1
    assert reason_of(bytes(damaged)) is Reason.TRUNCATED


@pytest.mark.parametrize("size", [0xFFFF_FFF0, 0x7FFF_FFFF, 5000])
def test_a_webp_chunk_that_claims_gigabytes_takes_none(size: int) -> None:
    whole = saved(RGB, format="WEBP", quality=90)
    claims = whole[:4] + (len(whole) + 2).to_bytes(4, "little") + whole[8:16] + size.to_bytes(4, "little")
    assert least_seconds(lambda: reason_of(claims + whole[20:]), 0.2) < 0.2


@pytest.mark.parametrize(("kind", "code"), [("SHORT", "H"), ("LONG", "I")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders_and_widths(kind: str, code: str, order: str) -> None:
    entry = struct.pack(f"{order}HHI{code}", 0x0112, 3 if kind == "SHORT" else 4, 1, 6).ljust(12, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    exif = b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    turned = decode_image(saved(RGB, format="JPEG", quality=95, exif=exif), LIMITS)
    assert turned.size == (90, 70)
    assert np.abs(turned.rgb.astype(int) - np.rot90(PHOTO, -1)).mean() < 6
