"""A sense2 release of the second pack: its faces and vectors only, and its own suppressed pictures and refused faces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.suppression.suppressed_faces import BlockedPerson, keep_templates
from stash_sense_pipeline.privacy.suppression.suppression_hashes import image_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    NO_SUPPRESSIONS,
    HashRow,
    Suppressions,
    load_suppressions,
    store_hashes,
)
from stash_sense_pipeline.release.checks.check_result import ReleaseRefusedError, Severity
from stash_sense_pipeline.release.sense2.index_file import read_index
from stash_sense_pipeline.release.sense2.publish import publish_sense2
from stash_sense_pipeline.release.spec import Sense2Spec
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.worlds import BEGIN, HOSTS, PACK, make_catalog
from stash_sense_pipeline_tests.second_pack_rows import MODELS, add_second

from .client import unpack
from .test_history import KEY

((MODEL, DIGEST),) = MODELS.items()


def vector_of(face_id: int) -> np.ndarray:
    return np.random.default_rng(face_id).standard_normal(512) * 9


def spec(listed: Suppressions) -> Sense2Spec:
    embedder = replace(PACK.embedders["arcface"], digest=DIGEST)
    pack = replace(PACK, name="second-pack", embedders={MODEL: embedder})
    return Sense2Spec(HOSTS, pack, MODEL, listed, second=True)


@pytest.fixture
def catalog_with_both(tmp_path: Path) -> sa.Engine:
    engine = make_catalog(tmp_path / "catalog.db", performers=12)
    add_second(engine, vector_of, trusted=True)
    return engine


@pytest.mark.slow
def test_the_release_holds_the_vectors_of_the_second_pack(
    catalog_with_both: sa.Engine, tmp_path: Path
) -> None:
    engine = catalog_with_both
    with writing(engine) as connection:
        # What the first pack trusts is of no account.
        connection.execute(sa.delete(schema.trusted_faces))
    report = publish_sense2(engine, tmp_path, spec(load_suppressions(engine, KEY)), DAY)
    with reading(engine) as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(schema.second_trusted_faces))
        first = connection.scalar(sa.select(sa.func.count()).where(~schema.faces.c.second))
    assert report.faces == count == first
    index = read_index(unpack(report.full, tmp_path / "full") / "face_embeddings.usearch")
    assert len(index.keys) == count


def test_a_suppressed_picture_of_a_face_that_only_the_second_pack_has_stops_the_release(
    catalog_with_both: sa.Engine, tmp_path: Path
) -> None:
    engine = catalog_with_both
    images, faces = schema.source_images.c, schema.faces.c
    with writing(engine) as connection:
        image = connection.execute(
            sa.select(images.source, images.image_id)
            .join(schema.faces, (faces.image_id == images.image_id) & (faces.source == images.source))
            .limit(1)
        ).one()
        of_image = (faces.source == image.source, faces.image_id == image.image_id)
        connection.execute(sa.delete(schema.faces).where(*of_image, ~faces.second))
        digest = "e" * 64
        connection.execute(
            sa.update(schema.source_images)
            .where(images.source == image.source, images.image_id == image.image_id)
            .values(sha256=digest)
        )
        store_hashes(connection, KEY, [HashRow("image", image_hash(KEY, digest), "asked", BEGIN)])
    with pytest.raises(ReleaseRefusedError, match="faces are from suppressed images"):
        publish_sense2(engine, tmp_path, spec(load_suppressions(engine, KEY)), DAY)


@pytest.mark.slow
def test_a_refused_face_that_this_embedder_cannot_compare_is_a_warning(
    catalog_with_both: sa.Engine, tmp_path: Path
) -> None:
    engine = catalog_with_both
    with writing(engine) as connection:
        record = connection.execute(
            sa.select(schema.trusted_faces.c.source, schema.trusted_faces.c.source_id).limit(1)
        ).one()
        keep_templates(connection, KEY, [BlockedPerson([tuple(record)])], BEGIN)
        connection.execute(sa.delete(schema.suppressed_faces).where(schema.suppressed_faces.c.model == MODEL))
    report = publish_sense2(engine, tmp_path, spec(load_suppressions(engine, KEY)), DAY)
    (found,) = (check for check in report.checks if check.name == "refused_faces")
    assert (found.passed, found.severity) == (False, Severity.WARNING)
    assert "1 others have no vector of this embedder" in found.detail


def test_an_embedder_that_the_pack_lacks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no embedder facenet with 512 numbers; it has w600k"):
        replace(spec(NO_SUPPRESSIONS), model="facenet")
