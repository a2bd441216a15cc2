"""PNG files by their bytes: the picture without ancillary chunks, completed where a few last bytes are missing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_HEADER = struct.Struct(">IIBBBBB")
_LENGTH_AND_TYPE, _CRC = 8, 4
_STREAM_HEAD = 2
_ANCILLARY = 0x20
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column, first row, distance of columns, distance of rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK = 1 << 16
# More chunks than a real file has: reading 16 MiB of empty ones would take seconds.
_MOST_CHUNKS = 100_000


@dataclass(frozen=True)
class PngPicture:
    """The picture of a PNG file without ancillary chunks, and its EXIF data.

    `header`, `palette` and `stream` are the contents of IHDR, PLTE and all IDAT chunks.
    """

    header: bytes
    palette: bytes
    stream: bytes
    exif: bytes
    width: int
    height: int

    @property
    def data(self) -> bytes:
        """A PNG file of the chunks IHDR, PLTE, IDAT and IEND alone."""
        palette = _written(b"PLTE", self.palette) if self.palette else b""
        image = _written(b"IDAT", self.stream)
        return b"".join((SIGNATURE, _written(b"IHDR", self.header), palette, image, _written(b"IEND", b"")))

    def completed(self, most_missing: float) -> PngPicture:
        """The picture with zeros for the missing end of its stream, and with a correct checksum of the stream.

        Raises Rejected, TRUNCATED, when more than `most_missing` (0..1) of the uncompressed data is missing.
        """
        stream = _completed(self.stream, _uncompressed_bytes(self.header), most_missing)
        return replace(self, stream=stream)


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    body: bytes
    whole: bool


def without_ancillary_chunks(data: bytes) -> PngPicture:
    """Reads the chunks of a PNG file that its picture needs, also when the file ends early.

    Colour profiles, texts and transparency do not change the pixels of Pillow's `convert("RGB")`, so their size and
    damage do not matter. Raises Rejected: TRUNCATED without a header, without data or with a damaged critical chunk,
    TOO_COSTLY with too many chunks.
    """
    header, palette, exif = b"", b"", b""
    compressed: list[bytes] = []
    for chunk in _chunks(data):
        if chunk.kind == b"IEND":
            break
        if chunk.kind == b"IDAT":
            compressed.append(chunk.body)
        elif chunk.whole and chunk.kind == b"IHDR" and len(chunk.body) == _HEADER.size:
            header = header or chunk.body
        elif chunk.whole and chunk.kind == b"PLTE":
            palette = palette or chunk.body
        elif chunk.whole and chunk.kind == b"eXIf":
            exif = exif or chunk.body
    if not header or not compressed:
        raise Rejected(Reason.TRUNCATED)
    width, height = _HEADER.unpack(header)[:2]
    return PngPicture(header, palette, b"".join(compressed), exif, width, height)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at, count = len(SIGNATURE), 0
    while at + _LENGTH_AND_TYPE <= len(data):
        count += 1
        if count > _MOST_CHUNKS:
            raise Rejected(Reason.TOO_COSTLY)
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start, end = at + _LENGTH_AND_TYPE, at + _LENGTH_AND_TYPE + length
        whole = end + _CRC <= len(data)
        if kind[0] & _ANCILLARY and kind != b"eXIf":
            at = end + _CRC
            continue
        body = data[start:end]
        critical = not kind[0] & _ANCILLARY and kind != b"IEND"
        if (
            whole
            and critical
            and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end : end + 4], "big")
        ):
            raise Rejected(Reason.TRUNCATED)
        yield _Chunk(kind, body, whole)
        at = end + _CRC


def _written(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(kind))
    return b"".join((len(body).to_bytes(4, "big"), kind, body, crc.to_bytes(4, "big")))


def _uncompressed_bytes(header: bytes) -> int:
    """Bytes of all rows with their filter bytes."""
    width, height, depth, colour, _, _, interlaced = map(int, _HEADER.unpack(header))
    bits = depth * _SAMPLES.get(colour, 1)
    if not interlaced:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for left, top, across, down in _PASSES:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _completed(stream: bytes, expected: int, most_missing: float) -> bytes:
    """The zlib stream of a picture with zeros for its missing end, in blocks of bounded size."""
    # Without the head of the stream, zlib does not verify its checksum.
    unpacking, packing = zlib.decompressobj(-zlib.MAX_WBITS), zlib.compressobj(1)
    packed: list[bytes] = []
    got, rest = 0, stream[_STREAM_HEAD:]
    try:
        while got < expected:
            block = unpacking.decompress(rest, min(_BLOCK, expected - got))
            rest = unpacking.unconsumed_tail
            if not block and (unpacking.eof or not rest):
                break
            got += len(block)
            packed.append(packing.compress(block))
    except zlib.error as error:
        raise Rejected(Reason.TRUNCATED) from error
    if expected - got > most_missing * expected:
        raise Rejected(Reason.TRUNCATED)
    packed += [packing.compress(bytes(expected - got)), packing.flush()]
    return b"".join(packed)
