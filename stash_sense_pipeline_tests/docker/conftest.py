"""One engine for the tests of this room, with stand-ins for the images that cannot be pulled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stash_sense_pipeline_tests.docker.engine import (
    Engine,
    NoEngineError,
    build_stand_ins,
    make_base,
    missing,
    running_engine,
)


@pytest.fixture(scope="package")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A separate engine with the stand-ins built."""
    problem = missing()
    if problem:
        pytest.skip(problem)
    # Set during development: keeps images and layers between runs.
    kept = os.environ.get("STASH_SENSE_TEST_ENGINE")
    directory = Path(kept) if kept else tmp_path_factory.mktemp("engine")
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        try:
            running = stack.enter_context(running_engine(directory))
            make_base(running, directory)
        except NoEngineError as error:
            pytest.skip(str(error))
        build_stand_ins(running)
        yield running
