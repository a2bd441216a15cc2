"""JPEG files by their bytes: the first picture without metadata, its scans, and whether its end is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected

END_MARKER = b"\xff\xd9"

_START_MARKER = b"\xff\xd8"
_DHT, _JPG, _DAC = 0xC4, 0xC8, 0xCC
_SOI, _EOI, _SOS, _DQT, _DNL, _DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TABLES = frozenset({_DHT, _DAC, _DQT, _DRI, _DNL})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_COEFFICIENTS = 64
# More segments than a real file has: reading 16 MiB of empty ones would take seconds.
_MOST_SEGMENTS = 10_000
# Markers that can follow the entropy-coded data of a scan. Other codes there are damage, which the decoder skips.
_AFTER_SCAN = re.compile(rb"\xff[\xc4\xcc\xd9-\xdd\xe0-\xef\xfe]")


@dataclass(frozen=True)
class JpegPicture:
    """The first picture of a JPEG file.

    `body` is the file up to, and without, the end marker: tables, frame, scans, and the segments that decide about
    colours. `exif` is the first EXIF segment. `covered`: a scan has begun for each coefficient that matters.
    `complete`: the end marker is present.
    """

    body: bytes
    exif: bytes
    width: int
    height: int
    components: int
    progressive: bool
    scans: int
    covered: bool
    complete: bool


def first_picture(data: bytes) -> JpegPicture:
    """Reads a JPEG file up to the end of its first picture. Thumbnails and further pictures are left out.

    Raises Rejected: TRUNCATED when there is no frame or no scan in it, TOO_COSTLY with too many segments.
    """
    kept = [_START_MARKER]
    exif, frame, scans = b"", None, list[bytes]()
    complete, at, segments = False, len(_START_MARKER), 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        code = data[at + 1]
        if code in (0x00, 0xFF):
            at += 1
            continue
        if code == _EOI:
            complete = True
            break
        if code in _WITHOUT_LENGTH:
            at += 2
            continue
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise Rejected(Reason.TOO_COSTLY)
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            break
        content = data[at + 4 : end]
        if code == _SOS:
            following = _AFTER_SCAN.search(data, end)
            end = following.start() if following is not None else len(data)
            scans.append(content)
        elif code in _FRAMES:
            frame = (code, content)
        elif code == _APP1 and content.startswith(b"Exif\0\0") and not exif:
            exif = content
        if code == _SOS or code in _FRAMES or code in _TABLES or _decides_about_colours(code, content):
            kept.append(data[at:end])
        at = end
    if frame is None or len(frame[1]) < 6 or not scans:
        raise Rejected(Reason.TRUNCATED)
    code, content = frame
    return JpegPicture(
        body=b"".join(kept).rstrip(b"\xff"),
        exif=exif,
        width=int.from_bytes(content[3:5], "big"),
        height=int.from_bytes(content[1:3], "big"),
        components=content[5],
        progressive=code in _PROGRESSIVE,
        scans=len(scans),
        covered=_covered(scans, content[5], code in _PROGRESSIVE),
        complete=complete,
    )


def _decides_about_colours(code: int, content: bytes) -> bool:
    jfif = code == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14
    adobe = code == _APP14 and content.startswith(b"Adobe") and len(content) >= 12
    return jfif or adobe


def _covered(scans: Sequence[bytes], components: int, progressive: bool) -> bool:
    """True when a scan has begun for each coefficient.

    The first component must be covered to its last bit, the others to the bit before it. The last bits of colour are
    scans of a few bytes in many files, and change a picture least.
    """
    begun: dict[int, set[int]] = {}
    order: list[int] = []
    for header in scans:
        count = header[0] if header else 0
        if len(header) < 4 + 2 * count:
            continue
        first, last, bits = header[1 + 2 * count : 4 + 2 * count]
        if not progressive:
            first, last, bits = 0, _COEFFICIENTS - 1, 0
        for name in header[1 : 1 + 2 * count : 2]:
            if name not in begun:
                order.append(name)
            reached = begun.setdefault(name, set())
            if bits & 15 <= (0 if name == order[0] else 1):
                reached.update(range(first, min(last, _COEFFICIENTS - 1) + 1))
    return len(begun) >= components and all(len(reached) == _COEFFICIENTS for reached in begun.values())
