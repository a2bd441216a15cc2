"""The private directory of DATA_DIR for copies of the catalog while a command is at work; clears what a killed one left."""

from __future__ import annotations

import fcntl
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.foundation.files import (
    PRIVATE_DIRECTORY,
    fsync_directory,
    fsync_file,
    make_directory,
    private_opener,
)

_ROOT = ".work"
_LOCK = ".lock"
_NOTES = "outside.txt"
# The form of the names that files.replacing makes.
_UNFINISHED = ".*.tmp"


@dataclass(frozen=True)
class PrivateWork:
    """The directory of one command, readable by its owner only.

    It is removed at the end of the command; if the command is killed, the next command removes it.
    """

    directory: Path

    def note_outside(self, unfinished: Path) -> None:
        """Notes a temporary file outside the directory, to be removed when the command is killed. Call it before the
        file is made.
        """
        with open(self.directory / _NOTES, "a", opener=private_opener) as stream:
            stream.write(f"{unfinished.absolute()}\n")
        fsync_file(self.directory / _NOTES)
        fsync_directory(self.directory)


@contextmanager
def private_work(data_dir: Path) -> Iterator[PrivateWork]:
    """Makes a new directory in DATA_DIR with mode 0700 and removes it at the end.

    First it removes the directories of killed commands, as clear_private_work does.
    """
    root = data_dir / _ROOT
    make_directory(root)
    root.chmod(PRIVATE_DIRECTORY)
    with _locked(root / _LOCK):
        _clear(root)
        directory = root / secrets.token_hex(8)
        make_directory(directory)
        held = open(_in_use(directory), "a", opener=private_opener)  # noqa: SIM115 closed by the `with held` below
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with held:
        try:
            yield PrivateWork(directory)
        finally:
            _remove(directory)


def clear_private_work(data_dir: Path) -> int:
    """Removes the directories of killed commands and the temporary files that they noted. Returns the number of
    directories removed.

    The directory of a running command is locked and stays.
    """
    root = data_dir / _ROOT
    if not root.is_dir() or not any(path.is_dir() for path in root.iterdir()):
        return 0
    with _locked(root / _LOCK):
        return _clear(root)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a", opener=private_opener) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _in_use(directory: Path) -> Path:
    """The lock file of the directory: it is locked while the directory is in use."""
    return directory.with_name(f"{directory.name}.lock")


def _clear(root: Path) -> int:
    cleared = 0
    for directory in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
        with open(_in_use(directory), "a", opener=private_opener) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            notes = directory / _NOTES
            for line in notes.read_text().splitlines() if notes.is_file() else ():
                unfinished = Path(line)
                if unfinished.match(_UNFINISHED):
                    unfinished.unlink(missing_ok=True)
            _remove(directory)
            cleared += 1
    return cleared


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    _in_use(directory).unlink(missing_ok=True)
