"""Writing and hashing files so that a crash leaves either the old content or the new, never a part."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
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
    # Not the process number: containers that share a volume have equal ones.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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


@contextmanager
def holding_lock(path: Path) -> Iterator[None]:
    """Holds the lock file `path` while the block runs, after waiting for another holder, and removes it at the end.

    The lock ends with its process, however that ends; a file that a crash left is no lock.
    """
    while True:
        with path.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not _names(path, stream.fileno()):
                # Its last holder removed the file while we waited.
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _names(path: Path, descriptor: int) -> bool:
    """True if the open file is the one that has this path now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sqlite_url(path: Path) -> str:
    """The database URL of SQLAlchemy for a SQLite file, whatever characters its path holds."""
    # Only these two mean something else in a database URL.
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def read_only_sqlite(path: Path) -> str:
    """The URI with which `sqlite3.connect(..., uri=True)` opens a file for reading only."""
    return f"{path.absolute().as_uri()}?mode=ro"
