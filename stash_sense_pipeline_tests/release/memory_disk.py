"""A directory in memory for worlds that write and sync thousands of files, where nothing is about the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_MEMORY = Path("/dev/shm")
# More than such a world takes: a container may have little there.
_BYTES = 512 * 1024**2


def memory_disk() -> Path | None:
    """A directory for temporary directories that are removed at once; None means the usual one."""
    usable = os.access(_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_MEMORY).free >= _BYTES
    return _MEMORY if usable else None
