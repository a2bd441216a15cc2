"""Fixtures of the tests of faces: packs made once, and an image server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline_tests.faces.nets import pack_with_tattoos, write_pack
from stash_sense_pipeline_tests.faces.world import ImageServer


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> ModelPack:
    """A pack with a detector that finds the markers of `nets.picture`, with random embedders of the true shapes."""
    return load_pack(str(write_pack(tmp_path_factory.mktemp("pack"))), Path("nowhere"))


@pytest.fixture(scope="session")
def random_pack(tmp_path_factory: pytest.TempPathFactory) -> ModelPack:
    """A pack with a detector of random weights behind the interface of det_500m.onnx."""
    directory = write_pack(tmp_path_factory.mktemp("random"), "random-pack", 12, detector="random")
    return load_pack(str(directory), Path("nowhere"))


@pytest.fixture(scope="session")
def tattoo_pack(tmp_path_factory: pytest.TempPathFactory) -> ModelPack:
    """A pack as `pack` with networks for tattoos, which find the cells of `nets.tattooed`."""
    return pack_with_tattoos(tmp_path_factory.mktemp("tattoos"))


@pytest.fixture
def server() -> Iterator[ImageServer]:
    """A running loopback image server."""
    with ImageServer().running() as running:
        yield running
