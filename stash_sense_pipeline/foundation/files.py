"""Atomic file writes, fsync and SHA-256: after a crash a file is old or new, never partial.

Files that others made are read within a limit.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

# Modes of what holds names, keys or history, and of what is made for others to read: releases.
PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC_FILE = 0o644
PUBLIC_DIRECTORY = 0o755


def open_regular(path: Path, *, follow: bool = True) -> BufferedReader:
    """Opens a regular file for reading; `follow` says whether `path` may be a symbolic link to one.

    Raises OSError for anything else: a FIFO would block the reader for ever, a device has no end.
    """
    # O_NONBLOCK: opening a FIFO that has no writer returns at once. It changes nothing for a regular file.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; OSError for a larger one and for anything else."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of the file's bytes, read in blocks of 1 MiB; OSError when it is not a regular file."""
    with open_regular(path) as stream:
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


def keep_files_private() -> None:
    """Has this process and its children make files that only their owner may read, whatever the shell says.

    For what others make on our behalf: Dagster's run history and logs. Our own files get their modes one by one.
    """
    os.umask(0o077)


def make_directory(directory: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Makes a directory, and the missing ones above it, with exactly this mode; one that is there stays as it is."""
    missing = [directory, *directory.parents]
    for place in reversed([place for place in missing if not place.exists()]):
        place.mkdir(exist_ok=True, mode=mode)
        place.chmod(mode)
    # Something else in its place is refused as `mkdir` does it.
    directory.mkdir(exist_ok=True)


def make_private_file(path: Path) -> None:
    """Makes an empty file that only its owner may read, before its first byte is in it; replaces what is there."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
    path.chmod(PRIVATE_FILE)


def private_opener(path: str, flags: int) -> int:
    """For `open(..., opener=private_opener)`: a file that this call makes is for its owner only."""
    return os.open(path, flags, PRIVATE_FILE)


def restrict(root: Path, forbidden: int = 0o077) -> None:
    """Takes the `forbidden` rights from a file, or from a directory and all in it, where they belong to this user.

    Symbolic links are not followed.
    """
    _restrict_one(root, forbidden)
    if not root.is_symlink():
        for directory, names, files in os.walk(root):
            for name in (*names, *files):
                _restrict_one(Path(directory, name), forbidden)


def _restrict_one(path: Path, forbidden: int) -> None:
    try:
        status = path.lstat()
        ours = status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode)
        if ours and status.st_mode & forbidden:
            path.chmod(stat.S_IMODE(status.st_mode) & ~forbidden)
    except (FileNotFoundError, NotADirectoryError):
        # It was never made, or another process removed it meanwhile.
        return


@contextmanager
def replacing(path: Path, mode: int = PRIVATE_FILE) -> Iterator[Path]:
    """Yields the name of an empty file beside `path`; on success it is fsynced and renamed over `path`, on error removed.

    The file is private while it is written, and gets `mode` before the rename.
    """
    make_directory(path.parent)
    # Not the process number: containers that share a volume have equal ones.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_private_file(temporary)
        yield temporary
        temporary.chmod(mode)
        fsync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_atomically(path: Path, content: bytes | str, *, mode: int = PRIVATE_FILE) -> None:
    """Writes `content` to `path` through a temporary name, fsync and rename. Text is UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, mode) as temporary:
        temporary.write_bytes(data)


@contextmanager
def holding_lock(path: Path) -> Iterator[None]:
    """Holds the lock file `path` while the block runs, after waiting for another holder, and removes it at the end.

    The lock ends with its process, however that ends; a file that a crash left is no lock.
    """
    while True:
        with open(path, "a", opener=private_opener) as stream:
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
