"""Fixtures of the review tests: the invented world, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stash_sense_pipeline_tests.review.world import Pictures, ReviewWorld, picture_server, review_world


@pytest.fixture(scope="package")
def pictures() -> Iterator[Pictures]:
    with picture_server() as server:
        yield server


@pytest.fixture(scope="package")
def filled(
    catalog_file: Path, pictures: Pictures, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReviewWorld]:
    """The world that no test changes."""
    with review_world(tmp_path_factory.mktemp("review") / "data", catalog_file, pictures) as world:
        yield world


@pytest.fixture
def world(filled: ReviewWorld, tmp_path: Path) -> Iterator[ReviewWorld]:
    """A copy of the world for one test."""
    import shutil

    from stash_sense_pipeline.catalog.engine import open_catalog

    filled.engine.dispose()
    directory = tmp_path / "data"
    shutil.copytree(filled.directory, directory, symlinks=True)
    engine = open_catalog(f"sqlite:///{directory / 'catalog.db'}")
    yield ReviewWorld(directory, engine, filled.pictures, filled.faces)
    engine.dispose()
