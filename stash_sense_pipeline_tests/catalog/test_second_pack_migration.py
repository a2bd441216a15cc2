"""An older catalog keeps every face, crop and vector when the key of a face learns its detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import metadata
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline_tests.identity import face_world
from stash_sense_pipeline_tests.identity.population import store
from stash_sense_pipeline_tests.second_pack_rows import DETECTOR, add_second, make_older


def all_rows(engine: sa.Engine) -> dict[str, list[Any]]:
    with reading(engine) as connection:
        return {
            table.name: sorted(map(repr, connection.execute(sa.select(table))))
            for table in metadata.sorted_tables
        }


def filled(url: str) -> sa.Engine:
    engine = open_catalog(url)
    make = face_world.FaceMaker(np.random.default_rng(5))
    records = [Record("stashdb", name, name.title()) for name in ("mira", "vera")]
    store(engine, *records)
    ids = face_world.add_photos(
        engine, [(record, make.photo(make.person()), None) for record in records for _ in range(3)]
    )
    crops = metadata.tables["aligned_crops"]
    with writing(engine) as connection:
        connection.execute(crops.insert(), [{"face_id": face_id, "png": b"crop"} for face_id in ids])
        # The id of a deleted face is never given again.
        connection.execute(sa.delete(metadata.tables["faces"]).where(sa.column("face_id") == ids[-1]))
    return engine


def insert_again(engine: sa.Engine, values: dict[str, Any]) -> None:
    with writing(engine) as connection:
        connection.execute(metadata.tables["faces"].insert().values(values))


@pytest.mark.slow
def test_no_row_is_lost_and_no_id_is_given_again(any_catalog_url: str) -> None:
    engine = filled(any_catalog_url)
    before = all_rows(engine)
    assert {len(before[name]) for name in ("faces", "aligned_crops", "embeddings")} == {5, 10}
    make_older(engine)
    engine.dispose()
    migrated = open_catalog(any_catalog_url)
    assert all_rows(migrated) == before
    faces = metadata.tables["faces"]
    with writing(migrated) as connection:
        if migrated.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            row = connection.execute(sa.select(faces).order_by(faces.c.face_id.desc())).first()
            values = {**row._mapping, "face_index": 1}
            last = values.pop("face_id")
            new = connection.execute(sa.insert(faces).values(values)).inserted_primary_key[0]
            assert new > last + 1, "the last id was that of a deleted face"
            connection.execute(sa.delete(faces).where(faces.c.face_id == new))
    add_second(migrated, lambda face_id: np.random.default_rng(face_id).standard_normal(8))
    with reading(migrated) as connection:
        row = connection.execute(sa.select(faces).where(faces.c.detector_digest == DETECTOR)).first()
    with pytest.raises(sa.exc.IntegrityError):
        insert_again(migrated, {**row._mapping, "face_id": 9_999_999})
    with writing(migrated) as connection:
        connection.execute(sa.delete(faces))
    after = all_rows(migrated)
    assert (after["aligned_crops"], after["embeddings"]) == ([], [])
    migrated.dispose()


def test_a_catalog_with_rows_that_refer_to_nothing_is_not_migrated(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    engine = filled(url)
    make_older(engine)
    raw = engine.raw_connection()
    raw.cursor().execute("PRAGMA foreign_keys=OFF")
    raw.cursor().execute("DELETE FROM faces WHERE face_id = (SELECT min(face_id) FROM faces)")
    raw.commit()
    raw.close()
    engine.dispose()
    with pytest.raises(
        CatalogError, match=r"was not migrated: a row of \w+ refers to a missing row of faces"
    ):
        open_catalog(url)
    again = sa.create_engine(url)
    assert "second" not in {column["name"] for column in sa.inspect(again).get_columns("faces")}
    again.dispose()
