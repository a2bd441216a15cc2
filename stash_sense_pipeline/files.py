"""Writing and hashing files so that a crash leaves either the old content or the new, never a part."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of the file's bytes, read in blocks of 1 MiB."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_directory(directory: Path) -> None:
    """Makes renames inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Makes the bytes of a file that somebody else wrote durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success it is fsynced and renamed over `path`, on error removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_atomically(path: Path, content: bytes | str, *, mode: int | None = None) -> None:
    """Writes `content` to `path` through a temporary name, fsync and rename. Text is UTF-8.

    `mode`: the rights of the file, from before its first byte is in it; by default those of any new file.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        if mode is not None:
            temporary.touch(mode=0o600)
            temporary.chmod(mode)
        temporary.write_bytes(data)
