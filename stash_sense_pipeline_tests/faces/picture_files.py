"""Files that show one picture: format, colours, depth, EXIF orientation, metadata and missing bytes, in any combination."""

from __future__ import annotations

import io
import os
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

ORIENTATION = 0x0112
METADATA_BYTES = 1_600_000
# What a camera stores for an orientation: the upright picture, turned by this.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def saved(image: Image.Image, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif(orientation: int) -> bytes:
    """EXIF data, as in the APP1 segment of a JPEG."""
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data.tobytes()


def in_colours(image: Image.Image, colours: str) -> Image.Image:
    """The image in a mode of Pillow, or `I;16`, `PA` and `tRNS` (a palette with transparent entries)."""
    if colours == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if colours in ("P", "tRNS"):
        return image.quantize(256)
    return image.convert(colours)


def png_file(image: Image.Image, colours: str, orientation: int = 1, metadata: bool = False) -> bytes:
    """A PNG file; with `metadata` a profile, texts and comments of more than 1 MiB each, one with a wrong checksum."""
    options = {"transparency": bytes(range(256))} if colours == "tRNS" else {}
    plain = saved(in_colours(_stored(image, orientation), colours), format="PNG", compress_level=1, **options)
    more = b"" if orientation == 1 else chunk(b"eXIf", exif(orientation).removeprefix(b"Exif\0\0"))
    if metadata:
        large = zlib.compress(bytes(METADATA_BYTES))
        more += chunk(b"iCCP", b"icc\0\0" + large) + chunk(b"zTXt", b"Raw\0\0" + large)
        more += chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large) + chunk(b"tEXt", bytes(METADATA_BYTES))
        more += chunk(b"tIME", b"never")[:-4] + b"wrng"
    return plain[:33] + more + plain[33:]


def jpeg_file(
    image: Image.Image, colours: str, orientation: int = 1, metadata: bool = False, progressive: bool = False
) -> bytes:
    """A JPEG file; with `metadata` segments of more than 1 MiB in all, among them a damaged profile and a damaged
    list of pictures.
    """
    stored = in_colours(_stored(image, orientation), colours)
    options = {"exif": exif(orientation)} if orientation != 1 else {}
    data = saved(stored, format="JPEG", quality=95, progressive=progressive, **options)
    if not metadata:
        return data
    segment = b"\xff\xed" + (65_535).to_bytes(2, "big") + b"Photoshop 3.0\x008BIM" + os.urandom(65_515)
    damaged = b"\xff\xe2\0\x12MPF\0II*\0\xff\xff\xff\x7f\0\0\0\0" + b"\xff\xe2\0\x10ICC_PROFILE\0\x09\x01"
    return data[:2] + damaged + segment * 25 + data[2:]


def many_scans(scans: int, size: tuple[int, int] = (900, 900)) -> bytes:
    """A progressive JPEG that repeats its last scan, of a few bytes, again and again."""
    whole = saved(Image.new("RGB", size, (90, 60, 60)), format="JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def webp_file(image: Image.Image, colours: str, orientation: int = 1, metadata: bool = False) -> bytes:
    """A lossy WebP file; with `metadata` a profile of more than 1 MiB."""
    options: dict[str, object] = {"exif": exif(orientation)} if orientation != 1 else {}
    if metadata:
        options["icc_profile"] = bytes(METADATA_BYTES)
    return saved(
        in_colours(_stored(image, orientation), colours), format="WEBP", quality=95, method=0, **options
    )


def gif_file(image: Image.Image, metadata: bool = False) -> bytes:
    """A GIF file; with `metadata` a comment of more than 1 MiB before the frame."""
    plain = saved(image.quantize(256), format="GIF")
    if not metadata:
        return plain
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * (METADATA_BYTES // 255) + b"\0"
    at = 13 + 3 * 256
    return plain[:at] + comment + plain[at:]


def grey_of(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) grey of an RGB image."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _stored(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_STORED[orientation]) if orientation in _STORED else image
