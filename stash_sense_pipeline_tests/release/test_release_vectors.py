from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build import face_order
from stash_sense_pipeline.release.build.face_order import load_unit_vectors
from stash_sense_pipeline.release.checks import quality_gate, retrieval
from stash_sense_pipeline.release.contract import REQUIRED_MODELS
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline_tests.release.worlds import SPEC, make_catalog


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectors of a few faces are freed too."""
    monkeypatch.setattr(face_order, "_HELD_BYTES", 0)


@pytest.mark.usefixtures("little_memory")
def test_freed_vectors_are_read_again_with_the_same_bytes(tmp_path: Path) -> None:
    vectors = load_unit_vectors(make_catalog(tmp_path / "catalog.db", performers=10), REQUIRED_MODELS)
    before = {model: unit.tobytes() for model, unit in vectors.unit.items()}
    freed = weakref.ref(vectors.unit["arcface"])
    kept = vectors.unit["facenet"]
    vectors.make_room("facenet")
    gc.collect()
    assert freed() is None
    assert vectors.unit["facenet"] is kept
    assert list(vectors.unit) == list(REQUIRED_MODELS)
    assert {model: unit.tobytes() for model, unit in vectors.unit.items()} == before
    assert "adaface" not in vectors.unit


def test_vectors_of_a_small_release_stay(tmp_path: Path) -> None:
    vectors = load_unit_vectors(make_catalog(tmp_path / "catalog.db", performers=10), REQUIRED_MODELS)
    before = dict(vectors.unit)
    vectors.make_room()
    assert all(vectors.unit[model] is unit for model, unit in before.items())


@pytest.mark.usefixtures("little_memory")
def test_vectors_that_changed_since_they_were_freed_are_refused(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=10)
    vectors = load_unit_vectors(engine, REQUIRED_MODELS)
    vectors.make_room()
    with writing(engine) as connection:
        connection.execute(
            sa.update(schema.embeddings)
            .where(schema.embeddings.c.model == "arcface", schema.embeddings.c.face_id == 3)
            .values(vector=np.ones(512, dtype="<f4").tobytes())
        )
    assert len(vectors.unit["facenet"]) == len(vectors.order)
    with pytest.raises(ReleaseError, match="arcface embeddings changed while the release was checked"):
        vectors.unit["arcface"]


@pytest.mark.usefixtures("little_memory")
def test_an_index_is_checked_beside_the_vectors_of_its_own_embedder_only(
    world: tuple[Path, ReleaseReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, report = world
    vectors = load_unit_vectors(open_catalog(f"sqlite:///{data / 'catalog.db'}"), REQUIRED_MODELS)
    read: list[weakref.ref[Any]] = [weakref.ref(unit) for unit in vectors.unit.values()]
    held: list[int] = []

    def load_index(path: Path) -> object:
        gc.collect()
        held.append(sum(reference() is not None for reference in read))
        return retrieval.load_index(path)

    monkeypatch.setattr(quality_gate, "load_index", load_index)
    assert report.figures is not None
    proof = quality_gate.prove_indices(report.path, vectors, SPEC, report.figures.accuracy)
    assert proof.answers is not None
    # Those of arcface were freed before the index of facenet was loaded, and were read again after it.
    assert held == [1, 0]
