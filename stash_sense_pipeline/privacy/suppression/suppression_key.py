"""The secret key of the hashes: create once, load, check."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import fsync_directory, fsync_file, make_directory

KEY_BYTES = 32

_HEX_KEY = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}\n?")


def load_or_create_key(path: Path) -> bytes:
    """The 32 bytes of the suppression key, created on first use. The file holds them as hex, readable by its owner only.

    Several processes may call it at once and get the same key. Raises ConfigurationError when the file cannot be read
    or does not hold a key.
    """
    try:
        if not path.exists():
            _create(path)
        # A copy from a backup may have other permissions.
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    return read_key(path)


def read_key(path: Path) -> bytes:
    """The 32 bytes of an existing suppression key. Changes nothing. Raises as load_or_create_key."""
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise _unusable(path, error) from error
    if _HEX_KEY.fullmatch(text) is None:
        raise ConfigurationError(f"{path}: this is not a suppression key; restore it from a backup")
    return bytes.fromhex(text)


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path}: the suppression key cannot be used: {error.strerror}")


def _create(path: Path) -> None:
    make_directory(path.parent)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"{secrets.token_hex(KEY_BYTES)}\n")
        fsync_file(fresh)
        # The hard link fails when another process has created the file first: then that key is used.
        try:
            os.link(fresh, path)
        except FileExistsError:
            return
        fsync_directory(path.parent)
    finally:
        fresh.unlink(missing_ok=True)
