"""Atomic file writes, fsync and SHA-256: after a crash a file is old or new, never partial.

Files from other programs are read within a size limit.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

from stash_sense_pipeline.foundation.errors import LockHeldError

# Private modes are for names, keys and history; public modes are for releases, which other users may read.
PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC_FILE = 0o644
PUBLIC_DIRECTORY = 0o755
_SECONDS_BETWEEN_TRIES = 0.25


def open_regular(path: Path, *, follow: bool = True) -> BufferedReader:
    """Opens a regular file for reading. With `follow`, `path` may be a symbolic link to one.

    Raises OSError for any other kind of file: a FIFO would block the reader, and a device has no end.
    """
    # With O_NONBLOCK, opening a FIFO without a writer returns at once. It has no effect on a regular file.
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
    """The bytes of a regular file of at most `limit` bytes. Raises OSError for a larger file and any other kind."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of the file's bytes. Raises OSError when it is not a regular file."""
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
    """Makes the content of an existing file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_files_private() -> None:
    """Sets the umask so that new files of this process and its children are readable by their owner only.

    This covers files that libraries make, such as Dagster's run history and logs. This package sets the mode of each
    of its own files.
    """
    os.umask(0o077)


def make_directory(directory: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Makes a directory and its missing parents with exactly this mode. An existing directory is not changed."""
    missing = [directory, *directory.parents]
    for place in reversed([place for place in missing if not place.exists()]):
        place.mkdir(exist_ok=True, mode=mode)
        place.chmod(mode)
    # Raises FileExistsError when `directory` is another kind of file.
    directory.mkdir(exist_ok=True)


def make_private_file(path: Path) -> None:
    """Makes an empty file that only its owner may read; removes an existing one first."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
    path.chmod(PRIVATE_FILE)


def private_opener(path: str, flags: int) -> int:
    """Opener for `open(..., opener=private_opener)`: a file that the call makes is readable by its owner only."""
    return os.open(path, flags, PRIVATE_FILE)


def restrict(root: Path, forbidden: int = 0o077) -> None:
    """Removes the `forbidden` permission bits from a file, or from a directory and everything in it.

    Only files of this user are changed. Symbolic links are not followed.
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
        # The file was never made, or another process removed it.
        return


@contextmanager
def replacing(path: Path, mode: int = PRIVATE_FILE) -> Iterator[Path]:
    """Yields the path of an empty temporary file beside `path`, fsyncs it and renames it over `path`.

    On an error the temporary file is removed. It is private while it is written and gets `mode` before the rename.
    """
    make_directory(path.parent)
    # Not the process id: containers that share a volume can have equal ones.
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


def link_or_copy(source: Path, path: Path, mode: int) -> None:
    """Makes `path` a file with the content of `source`, which has `mode`: a hard link where the file system has them."""
    # A hard link shares its mode with the source.
    with replacing(path, mode) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def write_atomically(path: Path, content: bytes | str, *, mode: int = PRIVATE_FILE) -> None:
    """Writes `content` to a temporary file, fsyncs it and renames it to `path`. Text is encoded as UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, mode) as temporary:
        temporary.write_bytes(data)


@contextmanager
def holding_lock(path: Path, while_waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Waits for the lock on the file `path`, holds it while the block runs, and removes the file at the end.

    The system releases the lock when the process ends, so a file that a crash left behind does not lock. With
    `while_waiting` the lock is tried four times a second, and that function is called between tries: its exception ends
    the wait.
    """
    while True:
        with open(path, "a", opener=private_opener) as stream:
            if while_waiting is None:
                fcntl.flock(stream, fcntl.LOCK_EX)
            else:
                _wait_for_lock(stream, while_waiting)
            if not _names(path, stream.fileno()):
                # The previous holder removed the file while this process waited.
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _wait_for_lock(stream: IO[str], while_waiting: Callable[[], object]) -> None:
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            while_waiting()
            time.sleep(_SECONDS_BETWEEN_TRIES)
        else:
            return


@contextmanager
def held_alone(lock: Path) -> Iterator[int]:
    """Holds the lock on the file `lock` while the block runs. Yields the file descriptor of the lock.

    A process that inherits the descriptor holds the lock too, even after this process is killed. The file holds the
    process id of the holder. Raises LockHeldError, without waiting, when another process holds it.
    """
    with open(lock, "a+", opener=private_opener) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockHeldError(lock.read_text().strip() or "unknown") from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield stream.fileno()


def _names(path: Path, descriptor: int) -> bool:
    """True when the open file is the one that `path` names now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file. The path may hold any characters."""
    # Only these two characters have a meaning of their own in a database URL.
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def read_only_sqlite(path: Path) -> str:
    """The URI that `sqlite3.connect(..., uri=True)` opens read-only."""
    return f"{path.absolute().as_uri()}?mode=ro"
