"""WebP, AVIF and HEIC files by their bytes: which is which, and what must be changed before they are decoded."""

from __future__ import annotations

import re

# The item type in the box that lists an item of an AVIF file, behind version and flags, id and protection.
_EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{7,9}?)Exif", re.DOTALL)
_BRANDS = 512
_HEIF_BRAND = re.compile(rb"hei[cxms]|hev[cxms]|mif1|msf1")
_AVIF_BRANDS = (b"avif", b"avis")
# Bytes that are added to a cut-off chunk: a decoder that reads zeros may read more of them.
_GROWTH = 4096


def is_webp(data: bytes) -> bool:
    """True when the file begins like a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def is_boxed(data: bytes) -> bool:
    """True when the file begins with the file type box of HEIF and AVIF."""
    return data[4:8] == b"ftyp"


def is_heic(data: bytes) -> bool:
    """True when the file type box names a brand of HEIF, and none of AVIF."""
    brands = data[8 : min(int.from_bytes(data[:4], "big"), _BRANDS)] if is_boxed(data) else b""
    return _HEIF_BRAND.search(brands) is not None and not any(brand in brands for brand in _AVIF_BRANDS)


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of an extended WebP file. Its decoder allocates the canvas as soon as the file is opened."""
    if not is_webp(data) or data[12:16] != b"VP8X" or len(data) < 30:
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


def completed_webp(data: bytes, most_missing: float) -> bytes:
    """The file with zeros for its missing last bytes, if at most the share `most_missing` of it is missing."""
    whole = int.from_bytes(data[4:8], "little") + 8
    missing = whole - len(data)
    if not 0 < missing <= len(data) * most_missing:
        return data
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > whole:
            return data  # damaged: the chunk is larger than the file
        if at + 8 + size > len(data):
            # Chunks are padded to an even size.
            end = at + 8 + size + size % 2 + _GROWTH
            head = (end - 8).to_bytes(4, "little"), data[8 : at + 4], (end - at - 8).to_bytes(4, "little")
            return b"".join((data[:4], *head, data[at + 8 :], bytes(end - len(data))))
        at += 8 + size + size % 2
    return data + bytes(missing)


def avif_without_exif(data: bytes) -> bytes:
    """The AVIF file with its EXIF item renamed, so that decoders skip it.

    By the AVIF specification only the properties irot and imir turn the picture, and Pillow cannot open a file with
    damaged EXIF data.
    """
    return _EXIF_ITEM.sub(rb"\1free", data)
