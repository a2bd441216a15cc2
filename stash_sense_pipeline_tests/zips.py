"""Builds zip archives byte by byte, so that a test can make any field of them lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")


@dataclass
class Entry:
    """One entry; None stands for the true value."""

    name: bytes
    data: bytes = b""
    method: int = 8
    flags: int = 0
    local_flags: int | None = None
    size: int | None = None
    crc: int | None = None
    local_name: bytes | None = None
    offset: int | None = None
    system: int = 3
    mode: int = 0o100644
    attributes: int = 0
    packed: bytes | None = None
    after: bytes = b""


@dataclass
class Archive:
    """An archive: bytes before, its entries, bytes between them and the directory, behind it, and its comment."""

    entries: list[Entry] = field(default_factory=list)
    before: bytes = b""
    between: bytes = b""
    behind: bytes = b""
    comment: bytes = b""
    count: int | None = None
    start_is_true: bool = True

    def content(self) -> bytes:
        """The bytes of the file."""
        out = bytearray(self.before)
        directory = bytearray()
        for entry in self.entries:
            packed = entry.packed
            if packed is None:
                packed = _deflate(entry.data) if entry.method == 8 else entry.data
            crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
            size = len(entry.data) if entry.size is None else entry.size
            offset = len(out) if entry.offset is None else entry.offset
            name = entry.name if entry.local_name is None else entry.local_name
            flags = entry.flags if entry.local_flags is None else entry.local_flags
            numbers = (entry.method, 0, 33, crc, len(packed), size)
            out += _LOCAL.pack(b"PK\x03\x04", 20, flags, *numbers, len(name), 0) + name + packed + entry.after
            directory += _CENTRAL.pack(
                *(b"PK\x01\x02", entry.system << 8 | 20, 20, entry.flags, *numbers, len(entry.name), 0, 0, 0, 0),
                *(entry.mode << 16 | entry.attributes, offset),
            )  # fmt: skip
            directory += entry.name
        out += self.between
        start = len(out) if self.start_is_true else len(out) - len(self.before)
        count = len(self.entries) if self.count is None else self.count
        end = (0, 0, count, count, len(directory), start, len(self.comment))
        return bytes(out + directory + _END.pack(b"PK\x05\x06", *end) + self.comment + self.behind)

    def write(self, path: Path) -> Path:
        """Writes the file, and gives its path."""
        path.write_bytes(self.content())
        return path


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()
