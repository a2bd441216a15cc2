"""Decodes an image file to RGB, within limits on format, pixels and bytes."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from stash_sense_pipeline.faces.extraction import container_bytes, gif_bytes, jpeg_bytes, png_bytes
from stash_sense_pipeline.faces.extraction.orientation import exif_orientation, upright
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected

# The formats that the sources serve. Other formats of Pillow are rare there, and each decoder is an attack surface.
_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    AvifImagePlugin.AvifImageFile,
)
FORMATS = tuple(plugin.format for plugin in _PLUGINS)

# Bytes that decoding takes for each pixel, measured as peak memory (docs/faces.md).
_BYTES_A_PIXEL = {"JPEG": 8, "PNG": 8, "BMP": 5, "GIF": 5, "WEBP": 16, "AVIF": 10}
# A picture with more pixels is decoded at half its width and height.
_REDUCED_ABOVE = 16_000_000
# Above one of these limits, decoding runs in its own process: bytes of memory, and pixels times scans of a JPEG.
_COSTLY_MEMORY = 130_000_000
_COSTLY_SCAN_PIXELS = 150_000_000
# Pillow decodes run-length encoded BMP files in Python, which takes a second for this number of pixels or bytes.
_COSTLY_RUN_LENGTHS = 1_000_000
# Share of a picture that may be missing at the end of its file, and share of the last scan of a progressive JPEG, which
# only refines the picture.
_MOST_MISSING = 0.03
_MOST_MISSING_OF_LAST_SCAN = 0.1
_SNIFFED = 512
_MCU = 16
_BAND = 256
_FILL = 128
_BMP_RUN_LENGTHS = frozenset({1, 2})
# TIFF, JPEG XL (two forms), JPEG 2000 (two forms).
_UNSUPPORTED = (b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


@dataclass(frozen=True)
class DecodeLimits:
    """Limits above which a file is rejected before it is decoded.

    They limit the file size in bytes, width times height in pixels, the memory for decoding in bytes, the number of
    scans of a JPEG, and its pixels times its scans. An empty scan takes some 20 bytes, and about 1 ms a megapixel to
    decode. `max_seconds` limits the processor time of one costly image.
    """

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 40_000_000
    max_memory: int = 320_000_000
    max_scans: int = 100
    max_scan_pixels: int = 1_000_000_000
    max_seconds: int = 20


@dataclass(frozen=True)
class DecodedImage:
    """Upright pixels: `rgb` is (height, width, 3) uint8.

    `reduction` is 2 when `rgb` has half the width and height of the picture, else 1. `size` is the width and height of
    the picture itself.
    """

    rgb: NDArray[np.uint8]
    reduction: int
    size: tuple[int, int]


@dataclass(frozen=True)
class PreparedImage:
    """A file within the limits.

    It has its bytes without metadata, its format, its stored width and height in pixels, and the EXIF orientation, 1 to
    8, by which it must be turned.
    """

    data: bytes
    format: str
    size: tuple[int, int]
    orientation: int
    scans: int = 1
    jpeg: jpeg_bytes.JpegPicture | None = None
    png: png_bytes.PngPicture | None = None

    @property
    def costly(self) -> bool:
        """True when decoding takes so much memory or time that it must run in its own process."""
        pixels = self.size[0] * self.size[1]
        run_lengths = (
            self.format == "BMP" and len(self.data) > 30 and self.data[30] in _BMP_RUN_LENGTHS
        ) and max(pixels, len(self.data)) > _COSTLY_RUN_LENGTHS
        memory = pixels * _BYTES_A_PIXEL[self.format]
        return memory > _COSTLY_MEMORY or pixels * self.scans > _COSTLY_SCAN_PIXELS or run_lengths


def decode_image(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decodes an image in this thread, also a costly one: `prepare`, then `decode_prepared`."""
    return decode_prepared(prepare(data, limits))


def prepare(data: bytes, limits: DecodeLimits) -> PreparedImage:
    """Checks an image file against the limits, and removes the parts that decoding does not need.

    Raises Rejected with the reason when the bytes are not an image of a known format or are beyond the limits.
    """
    if not data:
        raise Rejected(Reason.EMPTY)
    if len(data) > limits.max_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES)
    _refuse_other_content(data)
    if data.startswith(b"\xff\xd8\xff"):
        prepared = _prepared_jpeg(data, limits)
    elif data.startswith(png_bytes.SIGNATURE):
        png = png_bytes.without_ancillary_chunks(data)
        size, orientation = (png.width, png.height), exif_orientation(png.exif)
        prepared = PreparedImage(png.data, "PNG", size, orientation, png=png)
    else:
        prepared = _prepared_by_pillow(_completed(data), limits)
    if 0 in prepared.size:
        raise Rejected(Reason.TRUNCATED)
    if prepared.size[0] * prepared.size[1] > _most_pixels(prepared.format, limits):
        raise Rejected(Reason.TOO_MANY_PIXELS)
    return prepared


def decode_prepared(prepared: PreparedImage) -> DecodedImage:
    """Decodes to upright RGB: the result of Pillow's `convert("RGB")`, turned by EXIF, with 16-bit grey scaled to 8.

    The first frame of an animation is taken and alpha is dropped, as at query time. A picture of more than 16
    megapixels is decoded at half its width and height. Raises Rejected: TRUNCATED when the data is damaged, or when
    more than 3 % of the picture is missing at its end.
    """
    width, height = prepared.size
    reduction = 2 if width * height > _REDUCED_ABOVE else 1
    try:
        rgb = _decoded(prepared, reduction)
    except Rejected:
        if prepared.png is None:
            raise
        rgb = _decoded(replace(prepared, data=prepared.png.completed(_MOST_MISSING).data), reduction)
    if prepared.jpeg is not None and _lacks_a_part(prepared.jpeg, rgb):
        raise Rejected(Reason.TRUNCATED)
    size = prepared.size if prepared.orientation < 5 else prepared.size[::-1]
    return DecodedImage(upright(rgb, prepared.orientation), reduction, size)


def _decoded(prepared: PreparedImage, reduction: int) -> NDArray[np.uint8]:
    width, height = prepared.size
    with _pillow_errors(), Image.open(io.BytesIO(prepared.data), formats=[prepared.format]) as image:
        if image.size != prepared.size:
            raise Rejected(Reason.TRUNCATED)
        if reduction > 1:
            # Only a JPEG can be decoded at half its size.
            image.draft(None, (width // reduction, height // reduction))
        rgb = _rgb(image, reduction if image.size == prepared.size else 1)
    if rgb.ndim != 3 or 0 in rgb.shape:
        raise Rejected(Reason.NOT_AN_IMAGE)
    return rgb


def _prepared_jpeg(data: bytes, limits: DecodeLimits) -> PreparedImage:
    picture = jpeg_bytes.first_picture(data)
    pixels = picture.width * picture.height
    if pixels > _most_pixels("JPEG", limits):
        raise Rejected(Reason.TOO_MANY_PIXELS)
    if picture.scans > limits.max_scans or picture.scans * pixels > limits.max_scan_pixels:
        raise Rejected(Reason.TOO_COSTLY)
    return PreparedImage(
        picture.body + jpeg_bytes.END_MARKER,
        "JPEG",
        (picture.width, picture.height),
        exif_orientation(picture.exif),
        picture.scans,
        picture,
    )


def _prepared_by_pillow(data: bytes, limits: DecodeLimits) -> PreparedImage:
    canvas = container_bytes.webp_canvas(data)
    if canvas is not None and canvas[0] * canvas[1] > _most_pixels("WEBP", limits):
        raise Rejected(Reason.TOO_MANY_PIXELS)
    with _pillow_errors(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        exif = image.info.get("exif")
        orientation = exif_orientation(exif if isinstance(exif, bytes) else b"")
        return PreparedImage(data, str(image.format), image.size, orientation)


def _completed(data: bytes) -> bytes:
    """A WebP, GIF, BMP or AVIF file without parts that can fail to decode, and with zeros for missing last bytes.

    The decoders refuse a file of which more is missing, and an AVIF file of which any byte is missing; viewers show
    nothing of such a file either.
    """
    if data.startswith(gif_bytes.SIGNATURES):
        return gif_bytes.first_frame(data, _MOST_MISSING)
    if container_bytes.is_webp(data):
        return container_bytes.completed_webp(data, _MOST_MISSING)
    if container_bytes.is_boxed(data):
        return container_bytes.avif_without_exif(data)
    if data.startswith(b"BM"):
        return data + bytes(int(len(data) * _MOST_MISSING))
    return data


def _most_pixels(kind: str, limits: DecodeLimits) -> int:
    return min(limits.max_pixels, limits.max_memory // _BYTES_A_PIXEL[kind])


def _rgb(image: Image.Image, reduction: int) -> NDArray[np.uint8]:
    if reduction == 1:
        return np.array(_in_rgb(image), dtype=np.uint8)
    # In bands: converting the whole image would take its memory twice.
    width, height = image.size
    boxes = ((0, top, width, min(top + _BAND, height)) for top in range(0, height, _BAND))
    return np.concatenate([np.asarray(_in_rgb(image.crop(box)).reduce(reduction)) for box in boxes])


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's convert() clips 16-bit grey at 255.
        samples = np.clip(np.asarray(image), 0, 0xFFFF)
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _pillow_errors() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise Rejected(Reason.NOT_AN_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise Rejected(Reason.TOO_MANY_PIXELS) from error
    except MemoryError as error:
        raise Rejected(Reason.TOO_COSTLY) from error
    except (
        *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error),
        *(RuntimeError, AttributeError),
    ) as error:
        # Pillow's decoders raise any of these on damaged data.
        raise Rejected(Reason.TRUNCATED) from error


def _lacks_a_part(picture: jpeg_bytes.JpegPicture, rgb: NDArray[np.uint8]) -> bool:
    """True when more is missing at the end of a JPEG than permitted.

    The share is measured only when the end marker is missing, or when the last corner is grey: libjpeg fills missing
    data before an end marker with grey.
    """
    filled = not picture.progressive and bool((rgb[-4:, -4:] == _FILL).all())
    if picture.complete and not filled:
        return False
    most = _MOST_MISSING_OF_LAST_SCAN if picture.progressive else _MOST_MISSING
    return not picture.covered or _missing_share(picture) > most


def _missing_share(picture: jpeg_bytes.JpegPicture) -> float:
    """The share 0..1 of a JPEG picture that its last scan does not reach.

    A decoder reads missing blocks from the bytes that follow. So the picture is decoded twice, with nothing and with
    random bytes after it; it is missing from the first block that differs.
    """
    noise = random.Random(0).randbytes(4096).replace(b"\xff", b"\xfe")
    first = _brightness(picture.body + jpeg_bytes.END_MARKER)
    second = _brightness(picture.body + noise + jpeg_bytes.END_MARKER)
    differs = first != second
    height, width = (-(-side // _MCU) for side in differs.shape)
    padded = np.zeros((height * _MCU, width * _MCU), dtype=bool)
    padded[: differs.shape[0], : differs.shape[1]] = differs
    blocks = padded.reshape(height, _MCU, width, _MCU).any(axis=(1, 3)).ravel()
    return 1.0 - float(blocks.argmax()) / blocks.size if blocks.any() else 0.0


def _brightness(jpeg: bytes) -> NDArray[np.uint8]:
    with _pillow_errors(), Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        image.draft("L", None)
        return np.array(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)


def _refuse_other_content(data: bytes) -> None:
    if data.startswith(_UNSUPPORTED) or container_bytes.is_heic(data):
        raise Rejected(Reason.UNSUPPORTED_FORMAT)
    head = data[:_SNIFFED].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head.startswith(b"<"):
        return
    if b"<svg" in head:
        raise Rejected(Reason.SVG)
    if b"<html" in head or b"<!doctype html" in head:
        raise Rejected(Reason.HTML)
    raise Rejected(Reason.NOT_AN_IMAGE)
