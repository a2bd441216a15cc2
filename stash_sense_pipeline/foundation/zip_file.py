"""Zip archives that others made: judged by their directory before anything is unpacked, and bounded while it is."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stash_sense_pipeline.foundation.errors import ArchiveError
from stash_sense_pipeline.foundation.files import open_regular

_BLOCK = 1024 * 1024
# End of central directory; its 64-bit locator and record; central and local headers (APPNOTE.TXT 6.3, 4.3).
_END = struct.Struct("<4sHHHHIIH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_IN_64_BITS, _ENTRIES_IN_64_BITS = 0xFFFFFFFF, 0xFFFF
_SIGNATURE_64 = b"PK\x06\x06"
# Lengths of a data descriptor, which follows an entry when its header was written before its sizes were known. It has a
# signature or none, and sizes of 32 or 64 bits.
_DESCRIPTORS = (12, 16, 20, 24)
_HAS_DESCRIPTOR = 0x08
_ENCRYPTED = 0x01 | 0x40 | 0x2000
_PATCH = 0x20
_MADE_ON_UNIX = 3
_DOS_DIRECTORY = 0x10
# A header of the central directory has 46 bytes, then the name and extra fields.
_BYTES_PER_ENTRY = 1024
_MAX_NAME = 200
# Exceptions that zipfile raises for a damaged archive. Any other exception is an error of this module and passes through.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    RuntimeError,
)


@dataclass(frozen=True)
class ZipLimits:
    """Limits of an archive: the number of entries, the unpacked bytes, and the unpacked bytes for each packed byte.

    `slack` bytes are allowed in addition to the ratio. With `nested`, names may contain directories.
    """

    entries: int
    size: int
    ratio: int
    slack: int = 64 * _BLOCK
    nested: bool = False


class OpenedZip:
    """An archive with a checked directory: each entry is a plain file with a plain, unique name. The entries fill the
    file from its first byte to the directory, and the directory fills the rest of it.
    """

    def __init__(self, archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> None:
        self._archive = archive
        self._entries = {entry.filename: entry for entry in entries}

    @property
    def sizes(self) -> Mapping[str, int]:
        """The unpacked size in bytes of each entry by name, as the directory declares it."""
        return {name: entry.file_size for name, entry in self._entries.items()}

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of an entry. Raises ArchiveError when it is missing, damaged or larger than `limit` bytes."""
        size = self._size(name)
        if size > limit:
            raise ArchiveError(f"{name} has {size} bytes, and {limit} are allowed")
        return b"".join(self._blocks(name))

    def extract(self, name: str, target: Path) -> None:
        """Writes an entry to a new file `target`. Raises ArchiveError when it is missing or damaged, and OSError when
        the file cannot be written.
        """
        with target.open("xb") as stream:
            for block in self._blocks(name):
                stream.write(block)

    def sha256(self, name: str) -> str:
        """Lower-case hex SHA-256 of an entry's bytes. Raises ArchiveError when it is missing or damaged."""
        state = hashlib.sha256()
        for block in self._blocks(name):
            state.update(block)
        return state.hexdigest()

    def _size(self, name: str) -> int:
        if name not in self._entries:
            raise ArchiveError(f"there is no {name} in it")
        return self._entries[name].file_size

    def _blocks(self, name: str) -> Iterator[bytes]:
        """The unpacked bytes in blocks. Raises ArchiveError unless their number and CRC are the declared ones."""
        left = self._size(name)
        with _damage_errors(f"{name} is damaged"), self._archive.open(self._entries[name]) as packed:
            while block := packed.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    break
                yield block
        if left:
            raise ArchiveError(
                f"{name} is damaged: it does not have the size that the directory of the zip says"
            )


@contextmanager
def open_zip(path: Path, limits: ZipLimits) -> Iterator[OpenedZip]:
    """Opens an archive and checks its directory.

    Raises ArchiveError, one line without the path, when the file is not a zip archive, is damaged or exceeds the limits.
    Raises OSError when the file cannot be read.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        directory = _find_directory(stream, size, limits)
        with _damage_errors("it is not a zip archive, or is damaged"), zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            _check_count(len(entries), directory.entries)
            _check_names(entries, limits)
            _check_kinds(entries, limits)
            _check_sizes(entries, size, limits)
            _check_layout(stream, entries, directory.start)
            yield OpenedZip(archive, [entry for entry in entries if not entry.is_dir()])


def room_for(size: int, roots: Sequence[Path]) -> Path | None:
    """The first of these directories on a disk with more than `size` free bytes, or None."""
    return next((root for root in roots if root.is_dir() and shutil.disk_usage(root).free > size), None)


@contextmanager
def _damage_errors(what: str) -> Iterator[None]:
    """Turns the exceptions of a damaged archive into an ArchiveError that begins with `what`."""
    try:
        yield
    except ArchiveError:
        raise
    except _DAMAGE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(f"{what}: {reason[:200]}") from error


@dataclass(frozen=True)
class _Directory:
    start: int
    entries: int


def _find_directory(stream: BinaryIO, size: int, limits: ZipLimits) -> _Directory:
    """Finds the central directory. It must end where the end record begins, and the end record at the end of the file.

    In an archive with two directories, a reader that searches for the end record could find another one.
    """
    at = size - _END.size
    if at < 0:
        raise ArchiveError("it is not a zip archive, or is cut off")
    stream.seek(at)
    signature, disk, first_disk, here, entries, length, start, comment = _END.unpack(stream.read(_END.size))
    if signature != b"PK\x05\x06" or comment:
        raise ArchiveError("it is not a zip archive, is cut off, or something follows its end")
    if disk or first_disk or here != entries:
        raise ArchiveError("it is one part of a divided zip archive")
    locator = at - _LOCATOR.size
    if locator >= 0:
        stream.seek(locator)
        signature, disk, record, disks = _LOCATOR.unpack(stream.read(_LOCATOR.size))
        if signature == b"PK\x06\x07":
            at = record
            if disk or disks > 1 or record + _END_64.size != locator:
                raise ArchiveError("its 64-bit end record is damaged")
            stream.seek(record)
            found = _END_64.unpack(stream.read(_END_64.size))
            if found[0] != _SIGNATURE_64 or found[1] != _END_64.size - 12 or found[4] or found[5]:
                raise ArchiveError("its 64-bit end record is damaged")
            wide = (found[7], found[8], found[9])
            for narrow, limit, value in zip(
                (entries, length, start),
                (_ENTRIES_IN_64_BITS, _IN_64_BITS, _IN_64_BITS),
                wide,
                strict=True,
            ):
                if narrow not in (limit, value):
                    raise ArchiveError("its two end records contradict each other")
            if found[6] != found[7]:
                raise ArchiveError("it is one part of a divided zip archive")
            entries, length, start = wide
    if entries > limits.entries:
        raise ArchiveError(f"it has {entries} entries, and {limits.entries} are allowed")
    if length > entries * _BYTES_PER_ENTRY:
        raise ArchiveError("its directory is longer than its number of entries allows")
    if start + length != at:
        raise ArchiveError(
            "its directory does not end where the zip ends: something is before, between or behind"
        )
    return _Directory(start, entries)


def _check_count(found: int, declared: int) -> None:
    if found != declared:
        raise ArchiveError(f"its directory has {found} entries, and its end says {declared}")
    if not found:
        raise ArchiveError("it is empty")


def _check_names(entries: Sequence[zipfile.ZipInfo], limits: ZipLimits) -> None:
    seen: set[str] = set()
    for entry in entries:
        # zipfile cuts `filename` at a NUL character; `orig_filename` is the name in the archive.
        name = entry.orig_filename
        parts = name.removesuffix("/").split("/") if limits.nested else [name]
        if not all(_is_plain(part) for part in parts):
            raise ArchiveError(f"the name {name!r:.80} in it is not that of a file at its root")
        folded = unicodedata.normalize("NFC", name.removesuffix("/")).casefold()
        if folded in seen:
            raise ArchiveError(f"{name} is more than once in the zip")
        seen.add(folded)


def _is_plain(name: str) -> bool:
    return (
        0 < len(name) <= _MAX_NAME
        and name not in (".", "..")
        and name.isprintable()
        and not set(name) & set("/\\:")
    )


def _check_kinds(entries: Sequence[zipfile.ZipInfo], limits: ZipLimits) -> None:
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _MADE_ON_UNIX else 0
        directory = entry.is_dir() or kind == stat.S_IFDIR or bool(entry.external_attr & _DOS_DIRECTORY)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (
            directory and not (limits.nested and entry.is_dir())
        ):
            raise ArchiveError(f"{entry.filename} in it is not a plain file")
        if entry.flag_bits & (_ENCRYPTED | _PATCH):
            raise ArchiveError(f"{entry.filename} in it is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(f"{entry.filename} in it is packed by a method other than deflate")
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            raise ArchiveError(f"{entry.filename} in it is not packed, but has two sizes")


def _check_sizes(entries: Sequence[zipfile.ZipInfo], packed: int, limits: ZipLimits) -> None:
    unpacked = sum(entry.file_size for entry in entries)
    allowed = min(limits.size, limits.slack + limits.ratio * packed)
    if unpacked > allowed:
        raise ArchiveError(
            f"it unpacks to {unpacked} bytes, and {allowed} are allowed for its {packed} bytes"
        )


def _check_layout(stream: BinaryIO, entries: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Checks that each entry begins where the one before it ends: no entries overlap, and nothing is between them."""
    expected = {0}
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset not in expected:
            raise ArchiveError(f"{entry.filename} does not begin where the entry before it ends")
        stream.seek(entry.header_offset)
        header = stream.read(_LOCAL.size)
        if len(header) < _LOCAL.size:
            raise ArchiveError(f"the header of {entry.filename} is cut off")
        signature, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack(header)
        name = stream.read(name_length)
        encoded = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
        if signature != b"PK\x03\x04" or name != encoded or method != entry.compress_type:
            raise ArchiveError(f"{entry.filename} is another entry than its directory says")
        after = stream.tell() + extra_length + entry.compress_size
        expected = {after + more for more in _DESCRIPTORS} if flags & _HAS_DESCRIPTOR else {after}
    if end not in expected:
        raise ArchiveError("something lies between its last entry and its directory")
