"""Catalogs that many tests begin with: each is filled once a process, and every test gets a copy of its file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.foundation.files import make_directory


def new_catalog(
    path: Path, fill: Callable[..., None] = lambda engine: None, **arguments: Hashable
) -> sa.Engine:
    """Opens a SQLite catalog at `path`, which must not exist yet, with what `fill(engine, **arguments)` writes.

    `fill` runs once a process for the same arguments, so it must write the same each time.
    """
    assert not path.exists()
    make_directory(path.parent)
    shutil.copyfile(_filled(fill, tuple(arguments.items())), path)
    return open_catalog(f"sqlite:///{path}")


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    """Is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="stash-sense-catalogs-")


@cache
def _filled(fill: Callable[..., None], arguments: tuple[tuple[str, Hashable], ...]) -> Path:
    directory = Path(_directory().name)
    path = directory / f"{len(list(directory.iterdir()))}.db"
    shutil.copyfile(_empty(), path)
    engine = open_catalog(f"sqlite:///{path}")
    try:
        fill(engine, **dict(arguments))
    finally:
        engine.dispose()
    return path


@cache
def _empty() -> Path:
    path = Path(_directory().name) / "empty.db"
    open_catalog(f"sqlite:///{path}").dispose()
    return path
