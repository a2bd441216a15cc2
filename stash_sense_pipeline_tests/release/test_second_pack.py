"""A release holds the faces of one pack: a second pack in the catalog changes no byte of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.image_requeueing import reopen_other_detectors
from stash_sense_pipeline.catalog.schema import (
    embeddings,
    faces,
    second_trusted_faces,
    source_images,
    trusted_faces,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.identity.face_matching.trusted_faces import choose_trusted_faces
from stash_sense_pipeline.release.build.face_order import face_order, read_face_order, read_vectors
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline_tests.second_pack_rows import DETECTOR, MODELS, add_second, make_older

from .conftest import DAY
from .worlds import DIGESTS, SPEC, make_catalog

World = tuple[Path, ReleaseReport]
CAPS = {"stashdb": 10, "fansdb": 10, "pmvstash": 10}
TRUST = dict.fromkeys(CAPS, "high")


def vector_of(face_id: int) -> np.ndarray:
    return np.random.default_rng(face_id).standard_normal(512) * 9


def digests(report: ReleaseReport) -> dict[str, str]:
    files = {path.name: sha256_file(path) for path in report.path.iterdir()}
    return {**files, "zip": sha256_file(report.archive)}


@pytest.mark.slow
def test_a_second_pack_changes_no_byte_of_the_first_pack_s_release(world: World, tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "other.db")
    add_second(engine, vector_of, trusted=True)
    assert digests(publish_release(engine, tmp_path / "data", "r", SPEC, DAY)) == digests(world[1])


def test_the_order_of_each_pack_holds_its_own_faces(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    with pytest.raises(ReleaseError, match="no trusted faces"):
        face_order(engine, second=True)
    new = add_second(engine, vector_of, trusted=True)
    first, second = face_order(engine), face_order(engine, second=True)
    assert [new[face_id] for face_id in first.face_ids] == second.face_ids.tolist()
    with reading(engine) as connection:
        vectors = read_vectors(connection, read_face_order(connection, second=True), "w600k")
        with pytest.raises(ReleaseError, match="have no w600k embedding"):
            read_vectors(connection, first, "w600k")
    old = {number: face_id for face_id, number in new.items()}
    expected = np.stack([vector_of(old[face_id]) for face_id in second.face_ids.tolist()])
    assert np.allclose(vectors.vectors, expected)
    assert (vectors.facts.pack, vectors.facts.model_digest) == ("second-pack", "digest-w")


@pytest.mark.slow
def test_the_choice_for_one_pack_leaves_that_of_the_other(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=12)

    def choose(second: bool) -> int:
        return choose_trusted_faces(
            engine,
            max_faces_per_performer=10,
            source_caps=CAPS,
            trust=TRUST,
            models=MODELS if second else DIGESTS,
            second_detector=DETECTOR if second else None,
        ).faces

    def stored(table: sa.Table) -> list[sa.Row]:
        with reading(engine) as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.face_id)))

    assert choose(second=False) == len(stored(trusted_faces)) > 0
    before = stored(trusted_faces)
    with reading(engine) as connection:
        raw = dict(
            connection.execute(
                sa.select(embeddings.c.face_id, embeddings.c.vector).where(embeddings.c.model == "arcface")
            ).all()
        )
    new = add_second(engine, lambda face_id: np.frombuffer(raw[face_id], "<f4"))
    assert choose(second=True) == len(stored(second_trusted_faces)) > 0
    assert {row.face_id for row in stored(second_trusted_faces)} <= set(new.values())
    assert stored(trusted_faces) == before
    chosen = stored(second_trusted_faces)
    assert choose(second=False) == len(before)
    assert (stored(trusted_faces), stored(second_trusted_faces)) == (before, chosen)
    # Faces of another detector are not those of the second pack any more.
    with writing(engine) as connection:
        connection.execute(sa.update(faces).where(faces.c.second).values(detector_digest="3" * 64))
    assert choose(second=True) == 0
    assert stored(trusted_faces) == before


@pytest.mark.parametrize("fetched", [True, False])
def test_faces_of_the_second_pack_stay_while_another_first_pack_must_judge_their_images(
    tmp_path: Path, fetched: bool
) -> None:
    """An image that is pending and was never fetched has no valid face."""
    engine = make_catalog(tmp_path / "catalog.db", performers=12)
    add_second(engine, vector_of)

    def chosen() -> int:
        return choose_trusted_faces(
            engine,
            max_faces_per_performer=10,
            source_caps=CAPS,
            trust=TRUST,
            models=MODELS,
            second_detector=DETECTOR,
        ).faces

    before = chosen()
    assert before > 0
    with writing(engine) as connection:
        if fetched:
            seen = {"sha256": source_images.c.image_id, "detector_digest": "d"}
            connection.execute(sa.update(source_images).values(seen))
            again = sum(reopen_other_detectors(connection, source, "e") for source in CAPS)
            assert again > 0
        else:
            connection.execute(sa.update(source_images).values(state="pending"))
    assert chosen() == (before if fetched else 0)
    engine.dispose()


@pytest.mark.slow
def test_an_older_catalog_keeps_its_release_through_the_migration(world: World, tmp_path: Path) -> None:
    """The catalog is taken back to the revision before the second pack, and migrated when it is opened."""
    engine = make_catalog(tmp_path / "old.db")
    make_older(engine)
    engine.dispose()
    migrated = open_catalog(f"sqlite:///{tmp_path / 'old.db'}")
    assert digests(publish_release(migrated, tmp_path / "data", "r", SPEC, DAY)) == digests(world[1])
