"""DAGSTER_HOME: writable, with dagster.yaml, its instance, and the lock of its one daemon.

Imports no Dagster, which takes seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path
from urllib.parse import unquote

from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.foundation.errors import ConfigurationError, LockHeldError
from stash_sense_pipeline.foundation.files import (
    PRIVATE_DIRECTORY,
    held_alone,
    make_directory,
    make_private_file,
    restrict,
    write_atomically,
)
from stash_sense_pipeline.settings.environment import usable_path

# The names that the program creates in DATA_DIR. An operator may keep other files there.
_PRIVATE_NAMES = (
    "catalog.db*",
    ".catalog.db*",
    ".*.lock",
    ".pgpass",
    ".work",
    "dagster",
    "review",
    "reports",
    "logs",
    "pictures",
    "suppression.key",
    "suppressions.yaml",
    "identity_overrides.yaml",
    "sources.yaml",
)
_READABLE_NAMES = ("releases", "models")

# The module of each run launcher. A dagster.yaml that was written before 2026-11 names another one.
_LAUNCHERS = {
    "WatchedRunLauncher": "stash_sense_pipeline.deployment.process_launcher",
    "PoolDockerRunLauncher": "stash_sense_pipeline.deployment.docker_launcher",
}
_MOVED_LAUNCHER = re.compile(
    r"^([ \t]+module:[ \t]*)stash_sense_pipeline\.orchestration\.execution([ \t]*\n[ \t]+class:[ \t]*)"
    r"(WatchedRunLauncher|PoolDockerRunLauncher)\b",
    re.MULTILINE,
)


def check_writable(directory: Path) -> None:
    """Raises ConfigurationError, with the user, unless a file can be created in `directory`. Creates the directory."""
    probe = directory / f".writable.{os.getpid()}"
    try:
        make_directory(directory)
        make_private_file(probe)
        probe.unlink()
    except OSError as error:
        user = f"{os.geteuid()}:{os.getegid()}"
        raise ConfigurationError(
            f"DATA_DIR: {directory} cannot be written by user {user} ({error.strerror}); "
            f"give it to that user, as in `chown -R {user} {directory}`"
        ) from error


def restrict_data(data_dir: Path, home: Path) -> None:
    """Removes the rights of other users on the program's files in the data directory and in DAGSTER_HOME.

    An earlier version, an archive or a lax umask may have left such rights. Other users may still read releases and model
    packs, but not change them. Other files of the operator are not touched.
    """
    try:
        for pattern in _PRIVATE_NAMES:
            for place in data_dir.glob(pattern):
                restrict(place)
        for pattern in _READABLE_NAMES:
            for place in data_dir.glob(pattern):
                restrict(place, forbidden=0o022)
        for place in data_dir.glob("releases/*.report"):
            restrict(place)
        restrict(home)
        # Only the directories: a staged index can be a hard link to the published one.
        for place in (data_dir, data_dir / "staging"):
            if place.is_dir() and place.stat().st_uid == os.geteuid():
                place.chmod(PRIVATE_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(
            f"DATA_DIR: other users' rights in {data_dir} cannot be removed ({error.strerror}: {error.filename})"
        ) from error


def prepare_home(home: Path) -> Path:
    """Creates `home` as a DAGSTER_HOME, with the shipped dagster.yaml if it has none. Returns the absolute path.

    In an existing dagster.yaml only the names of modules that have moved are replaced.

    Raises ConfigurationError when it cannot be created or written, and for a path that Dagster cannot work with.
    """
    # A symbolic link is not resolved: its target can be a path that Dagster cannot work with.
    absolute = usable_path("DAGSTER_HOME", home.absolute())
    # Dagster puts the path unescaped into a database URL and into a glob pattern that finds dagster.yaml.
    if unquote(str(absolute)) != str(absolute) or escape(str(absolute)) != str(absolute):
        raise ConfigurationError(
            f"DAGSTER_HOME: Dagster cannot work in {absolute}: the path holds a question mark, an asterisk, an opening "
            "square bracket, or a percent sign before two hexadecimal digits; choose another DATA_DIR, or set DAGSTER_HOME "
            "to another path"
        )
    settings = absolute / "dagster.yaml"
    try:
        make_directory(absolute)
        if not settings.exists():
            write_atomically(settings, shipped_file("dagster.yaml").read_text())
        else:
            _rename_moved_module(settings)
    except OSError as error:
        raise ConfigurationError(
            f"DAGSTER_HOME: {absolute} cannot be written by user {os.geteuid()}:{os.getegid()} ({error.strerror})"
        ) from error
    return absolute


def _rename_moved_module(settings: Path) -> None:
    """Replaces the module of the run launcher in a dagster.yaml that an earlier version wrote."""
    text = settings.read_text()
    renamed = _MOVED_LAUNCHER.sub(lambda found: f"{found[1]}{_LAUNCHERS[found[3]]}{found[2]}{found[3]}", text)
    if renamed != text:
        write_atomically(settings, renamed, mode=settings.stat().st_mode & 0o777)


@contextmanager
def only_daemon(home: Path) -> Iterator[int]:
    """Holds the lock of the one daemon of `home` while the block runs. Yields the file descriptor of the lock.

    Raises ConfigurationError, with the process id of the holder, when another process holds the lock: two daemons would
    launch each run twice.
    """
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(held_alone(home / "daemon.lock"))
        except LockHeldError as error:
            raise ConfigurationError(
                f"process {error.holder} already serves {home}; end it first, or give this one its own DATA_DIR"
            ) from error
        yield descriptor
