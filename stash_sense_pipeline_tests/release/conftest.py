from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release

from .quick_publishes import quick_publishes
from .worlds import SPEC, make_catalog

DAY = date(2026, 2, 18)


@pytest.fixture(scope="package", autouse=True)
def _quick_publishes() -> Iterator[None]:
    with quick_publishes():
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReleaseReport]:
    """A catalog and one release of it. A test that changes files uses `copy` or `data`."""
    data = tmp_path_factory.mktemp("world")
    engine = make_catalog(data / "catalog.db")
    # Its plots are those of most other releases.
    with quick_publishes():
        report = publish_release(engine, data, "first", SPEC, DAY)
    engine.dispose()
    return data, report


@pytest.fixture
def copy(world: tuple[Path, ReleaseReport], tmp_path: Path) -> Path:
    """A copy of the release directory that a test may damage."""
    _, report = world
    target = tmp_path / report.version
    shutil.copytree(report.path, target)
    return target


@pytest.fixture
def data(world: tuple[Path, ReleaseReport], tmp_path: Path) -> Path:
    """A copy of the data directory, with its catalog and one release."""
    original, _ = world
    target = tmp_path / "data"
    shutil.copytree(original, target, symlinks=True)
    return target
