from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.release.sense2.publish import Sense2Report, publish_sense2
from stash_sense_pipeline.release.spec import Sense2Spec
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.worlds import HOSTS, PACK, make_catalog

from .changes import change

# `change` removes one performer of 40.
SPEC = Sense2Spec(HOSTS, PACK, "arcface", shrink=0.03)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sense2Report, Sense2Report]:
    """A data directory with a catalog and two releases of it. A test that changes files uses `data`."""
    data = tmp_path_factory.mktemp("sense2")
    engine = make_catalog(data / "catalog.db")
    first = publish_sense2(engine, data, SPEC, DAY)
    change(engine)
    second = publish_sense2(engine, data, SPEC, DAY)
    engine.dispose()
    return data, first, second


@pytest.fixture
def data(made: tuple[Path, Sense2Report, Sense2Report], tmp_path: Path) -> Path:
    """A copy of the data directory."""
    target = tmp_path / "data"
    shutil.copytree(made[0], target)
    return target


@pytest.fixture
def engine(data: Path):
    """The catalog of `data`."""
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    yield engine
    engine.dispose()
