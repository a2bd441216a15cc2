"""What the command line says about an error of the disk or of a database: one line."""

from __future__ import annotations

import errno
import os
import sqlite3

from stash_sense_pipeline.foundation.visible_text import visible_line

_WHAT_TO_DO = {
    errno.ENOSPC: "make room and run the command again",
    errno.EDQUOT: "make room in the quota and run the command again",
    errno.EROFS: "mount it writable, or set DATA_DIR to another directory",
    errno.EACCES: "change its owner or its permissions, or run as the user that owns it",
    errno.EPERM: "change its owner or its permissions, or run as the user that owns it",
    errno.ENOENT: "it vanished, or a directory above it is missing",
    errno.ENOTDIR: "a file is where a directory is needed; move it away",
    errno.EISDIR: "a directory is where a file is needed; move it away",
    errno.EEXIST: "something else has its name; move it away",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "look at the disk and at the system's log",
    errno.ESTALE: "mount the network disk again",
}
_ELSE = "run it with --debug for the traceback"


def explained(error: BaseException) -> str | None:
    """One line on an error of the disk or of a database: what happened, where, what to do.

    None for any other error, which is a mistake in this program and keeps its traceback. A cause is looked through:
    libraries raise errors of their own from those of the system.
    """
    # Loaded here, as `--help` needs no database.
    import sqlalchemy as sa

    for one in _causes(error):
        if isinstance(one, BrokenPipeError):
            return None
        if isinstance(one, OSError) and one.errno is not None:
            place = f"{one.filename}: " if one.filename is not None else ""
            advice = _WHAT_TO_DO.get(one.errno, _ELSE)
            return visible_line(f"{place}{one.strerror or os.strerror(one.errno)}; {advice}")
        if isinstance(one, sa.exc.DBAPIError):
            return _of_database(one.orig or one)
        if isinstance(one, sqlite3.Error):
            return _of_database(one)
        if isinstance(one, sa.exc.SQLAlchemyError):
            return visible_line(f"a database cannot be used: {_first_line(one)}; {_ELSE}")
    return None


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return found


def _of_database(error: BaseException) -> str:
    return visible_line(
        f"a database in DATA_DIR or its server cannot be used: {_first_line(error)}; look at its disk, its permissions, "
        "and whether its server answers"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
