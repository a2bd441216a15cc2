"""From an image file's bytes to RGB pixels, as the sidecar does it, within limits that are checked first."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

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

from stash_sense_pipeline.faces.reasons import Reason, Rejected

# What the sources serve. Others that Pillow knows are rare there, and each decoder is a surface for attacks.
_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    AvifImagePlugin.AvifImageFile,
)
FORMATS = tuple(plugin.format for plugin in _PLUGINS)

_SNIFFED = 512


@dataclass(frozen=True)
class DecodeLimits:
    """What is refused before it is decoded: the file's size in bytes, and width times height in pixels."""

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 40_000_000


def decode_rgb(data: bytes, limits: DecodeLimits) -> NDArray[np.uint8]:
    """Decodes an image to (height, width, 3) uint8 RGB as Pillow's `convert("RGB")` does, EXIF not applied.

    The first frame of an animation is taken and alpha is dropped, as at query time. Raises Rejected with the
    reason when the bytes are no image of a known format, are cut off, or are beyond the limits.
    """
    if not data:
        raise Rejected(Reason.EMPTY)
    if len(data) > limits.max_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES)
    _refuse_other_content(data)
    _check_pixels(_webp_canvas(data), limits)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.size, limits)
            rgb = np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError as error:
        raise Rejected(Reason.NOT_AN_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise Rejected(Reason.TOO_MANY_PIXELS) from error
    except (
        *(OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error),
        RuntimeError,
    ) as error:
        # Pillow's decoders raise any of these on damaged data, AVIF's the last one.
        raise Rejected(Reason.TRUNCATED) from error
    if rgb.ndim != 3 or 0 in rgb.shape:
        raise Rejected(Reason.NOT_AN_IMAGE)
    return rgb


def _refuse_other_content(data: bytes) -> None:
    head = data[:_SNIFFED].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head.startswith(b"<"):
        return
    if b"<svg" in head:
        raise Rejected(Reason.SVG)
    if b"<html" in head or b"<!doctype html" in head:
        raise Rejected(Reason.HTML)
    raise Rejected(Reason.NOT_AN_IMAGE)


def _check_pixels(size: tuple[int, int] | None, limits: DecodeLimits) -> None:
    if size is not None and size[0] * size[1] > limits.max_pixels:
        raise Rejected(Reason.TOO_MANY_PIXELS)


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of an extended WebP file: its decoder allocates the canvas as soon as the file is
    opened.
    """
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
