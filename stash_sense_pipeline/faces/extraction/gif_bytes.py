"""GIF files by their bytes: the first frame without comments and other extensions."""

from __future__ import annotations

from dataclasses import dataclass

from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected

SIGNATURES = (b"GIF87a", b"GIF89a")

_HEADER_BYTES, _DESCRIPTOR_BYTES = 13, 10
_EXTENSION, _IMAGE = 0x21, 0x2C
_CONTROL = 0xF9
_TRAILER = b"\x3b"
# Data comes in blocks of 1 to 255 bytes; reading 16 MiB in blocks of one byte would take seconds.
_MOST_BLOCKS = 200_000


def first_frame(data: bytes, most_missing: float) -> bytes:
    """A GIF file of the first frame of `data` alone, with its graphic control extension.

    A frame that ends early is completed with up to `most_missing` (0..1) of its bytes; if it then is still incomplete,
    the decoder refuses it. Raises Rejected: TRUNCATED without a frame, TOO_COSTLY with too many blocks.
    """
    walk = _Walk(data)
    at = _HEADER_BYTES + _table_bytes(data[10:11])
    kept = [data[:at]]
    while at + 1 < len(data):
        if data[at] == _IMAGE:
            start = at
            at += _DESCRIPTOR_BYTES
            at += _table_bytes(data[at - 1 : at]) + 1
            end = walk.end_of_blocks(at)
            kept.append(data[start:end])
            if end > len(data) or data[end - 1 : end] != b"\0":
                kept.append(_filling(data, at, end, most_missing))
            return b"".join((*kept, _TRAILER))
        if data[at] != _EXTENSION:
            at += 1
            continue
        end = walk.end_of_blocks(at + 2)
        if data[at + 1] == _CONTROL:
            kept.append(data[at:end])
        at = end
    raise Rejected(Reason.TRUNCATED)


@dataclass
class _Walk:
    data: bytes
    blocks: int = 0

    def end_of_blocks(self, at: int) -> int:
        """The end of the blocks that begin at `at`, with their terminator; beyond the data when it is cut off."""
        while at < len(self.data):
            self.blocks += 1
            if self.blocks > _MOST_BLOCKS:
                raise Rejected(Reason.TOO_COSTLY)
            size = self.data[at]
            at += 1 + size
            if not size:
                return at
        return at + 1


def _table_bytes(flags: bytes) -> int:
    """Bytes of the colour table that the flags of a screen or an image announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _filling(data: bytes, start: int, end: int, most_missing: float) -> bytes:
    """The rest of the last block, further blocks of zeros, and the terminator."""
    begun = bytes(max(0, end - 1 - len(data)))
    more = int(max(0, len(data) - start) * most_missing) // 255
    return begun + (b"\xff" + bytes(255)) * more + b"\0"
