"""The tables for analysis: documented columns, chunks that equal the whole, no write, no suppressed person."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from stash_sense_pipeline import frames
from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError, ConfigurationError, StashSenseError
from stash_sense_pipeline.frames.reading import catalog_for_reading, dtype_of
from stash_sense_pipeline.frames.tables import TABLES
from stash_sense_pipeline.privacy.data_inventory import PURPOSES, Origin
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.redaction.analysed_columns import ANALYSED, analysed_column
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline_tests.frames.world import KEY, NOW, PEOPLE, ask_to_leave, fill
from stash_sense_pipeline_tests.release.worlds import DIGESTS

FUNCTIONS: dict[str, Callable[[str], pd.DataFrame]] = {
    "performers": frames.performers,
    "images": frames.images,
    "faces": frames.faces,
    "identities": frames.identities,
    "evidence": frames.evidence,
}
ROWS = {
    "performers": 2 * PEOPLE,
    "images": PEOPLE,
    "faces": PEOPLE,
    "identities": 2 * PEOPLE,
    "evidence": 3 * PEOPLE,
    "embeddings": 2 * PEOPLE,
}
# Tables about suppressed, held and withheld people, and about visits that hold hashes of them.
NEVER_READ = {
    *("suppressions", "suppressed_faces", "held_evidence", "withheld_records", "pending_purges"),
    *("site_visits", "site_rejections", "aligned_crops", "performer_urls", "identity_hubs", "identity_log"),
    *("tattoo_scans", "tattoo_detections", "tattoo_crops", "tattoo_embeddings"),
}


def url_of(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def whole(url: str, name: str) -> pd.DataFrame:
    return pd.concat(list(frames.chunks(name, url))) if name == "embeddings" else FUNCTIONS[name](url)


def text_of(url: str) -> str:
    """Every cell of every frame."""
    return "\n".join(whole(url, name).astype(object).to_csv() for name in TABLES)


@pytest.fixture
def filled(any_catalog: sa.Engine) -> sa.Engine:
    fill(any_catalog)
    return any_catalog


def test_each_frame_has_its_columns_dtypes_and_live_rows(filled: sa.Engine) -> None:
    for name, table in TABLES.items():
        frame = whole(url_of(filled), name)
        assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == {
            each.name: dtype_of(each) for each in table.columns
        }
        assert len(frame) == ROWS[name]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 7, 30, 1_000])
def test_the_chunks_of_a_frame_are_the_whole_frame(filled: sa.Engine, rows: int) -> None:
    url = url_of(filled)
    for name in TABLES:
        parts = list(frames.chunks(name, url, rows))
        assert all(0 < len(part) <= rows for part in parts)
        together = pd.concat(parts, ignore_index=True)
        assert [str(dtype) for dtype in together.dtypes] == [str(dtype) for dtype in parts[0].dtypes]
        pd.testing.assert_frame_equal(together, whole(url, name).reset_index(drop=True))


def test_an_empty_catalog_gives_frames_with_the_columns(any_catalog: sa.Engine) -> None:
    for name, table in TABLES.items():
        (frame,) = frames.chunks(name, url_of(any_catalog))
        assert list(frame.columns) == [each.name for each in table.columns]
        assert frame.empty
        assert [str(dtype) for dtype in frame.dtypes] == [dtype_of(each) for each in table.columns]


def test_the_values_are_those_of_the_catalog(filled: sa.Engine) -> None:
    url = url_of(filled)
    people = frames.performers(url).set_index(["source", "source_id"])
    with reading(filled) as connection:
        table = schema.source_performers.c
        query = sa.select(table.source, table.source_id, table.name, table.height_cm, table.updated_at)
        for source, source_id, name, height, updated in connection.execute(
            query.where(table.deleted_at.is_(None))
        ):
            row = people.loc[(source, source_id)]
            assert row["name"] == name
            assert pd.isna(row["height_cm"]) if height is None else row["height_cm"] == height
            assert row["updated_at"] == updated
    faces = frames.faces(url)
    assert (faces["performer_id"] == faces["face_id"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", DIGESTS)
def test_embeddings_are_a_matrix_with_an_index(filled: sa.Engine, model: str) -> None:
    url = url_of(filled)
    found = frames.embeddings(url, model)
    assert (found.matrix.dtype, found.matrix.shape) == (np.dtype(np.float32), (PEOPLE, 8))
    assert list(found.index.columns) == ["face_id", "model", "pack", "model_digest"]
    with reading(filled) as connection:
        table = schema.embeddings.c
        query = sa.select(table.vector).where(table.model == model).order_by(table.face_id)
        stored = np.stack([np.frombuffer(each, "<f4") for each in connection.scalars(query)])
    assert (found.matrix == stored).all()
    parts = list(frames.embedding_chunks(url, model, rows=7))
    assert (np.concatenate([part.matrix for part in parts]) == stored).all()
    together = pd.concat([part.index for part in parts], ignore_index=True)
    pd.testing.assert_frame_equal(together, found.index)


def test_vectors_of_two_networks_are_not_mixed(filled: sa.Engine) -> None:
    url = url_of(filled)
    with writing(filled) as connection:
        table = schema.embeddings
        some = (table.c.model == "facenet") & (table.c.face_id <= 3)
        connection.execute(sa.update(table).where(some).values(model_digest="0" * 64))
    with pytest.raises(CatalogError, match="of 2 networks, and must not be compared"):
        frames.embeddings(url, "facenet")
    assert len(frames.embeddings(url, "facenet", "0" * 64).index) == 3
    with pytest.raises(CatalogError, match="no embeddings of adaface; it has those of arcface, facenet"):
        frames.embeddings(url, "adaface")


@pytest.mark.slow
def test_no_frame_holds_a_suppressed_person_and_none_is_read_before_the_erasure(filled: sa.Engine) -> None:
    url = url_of(filled)
    assert "Zqperson 4 " in text_of(url)
    reader = frames.chunks("performers", url, 5)
    next(reader)
    ask_to_leave(filled, "boxa:p04")
    # From now on, also for a reader that has begun.
    with pytest.raises(CatalogError, match="not applied"):
        list(reader)
    for name in TABLES:
        with pytest.raises(CatalogError, match="suppress apply"):
            list(frames.chunks(name, url))
    for read in FUNCTIONS.values():
        with pytest.raises(CatalogError, match="not applied, so the catalog may hold suppressed people"):
            read(url)
    with pytest.raises(CatalogError, match="not applied"):
        frames.embeddings(url, "facenet")
    erase_suppressed(filled, load_suppressions(filled, KEY), NOW)
    left = text_of(url)
    assert "Zqperson 4 " not in left
    assert "p04" not in left
    assert "image-4\n" not in left.replace(",", "\n")
    assert 5 not in set(frames.faces(url)["face_id"])
    assert 5 not in set(frames.embeddings(url, "facenet").index["face_id"])
    assert len(frames.performers(url)) == 2 * PEOPLE - 2


@pytest.mark.slow
def test_no_frame_holds_accounts_deleted_records_suppressed_images_or_other_fields(filled: sa.Engine) -> None:
    text = text_of(url_of(filled))
    for word in ("zqaccount", "zqgone", "Zqgone", "zqlisted", "zqsecret"):
        assert word not in text


def test_the_frames_read_the_columns_of_the_inventory_and_no_others() -> None:
    read = {(str(each.column.table.name), each.name) for table in TABLES.values() for each in table.columns}
    assert read == {(table, name) for table, names in ANALYSED.items() for name in names}


def test_no_allowed_column_is_personal_beyond_the_purpose() -> None:
    assert not NEVER_READ & set(ANALYSED)
    for table, names in ANALYSED.items():
        for name in names:
            assert PURPOSES[table][name].origin is not Origin.OPERATOR
            assert "hash" not in name
    for table, name in (
        ("source_performers", "raw"),
        ("source_images", "sha256"),
        ("identity_evidence", "key"),
        ("performer_urls", "url"),
        ("aligned_crops", "png"),
        ("nothing", "x"),
    ):
        with pytest.raises(ValueError, match="must not be read"):
            analysed_column(table, name)


@pytest.mark.slow
def test_reading_changes_nothing(filled: sa.Engine, tmp_path: Path) -> None:
    url = url_of(filled)
    filled.dispose()

    def state() -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("catalog.db")
        }

    before = state()
    text_of(url)
    assert state() == before
    with (
        catalog_for_reading(url) as engine,
        pytest.raises((sa.exc.DBAPIError, StashSenseError)),
        engine.begin() as connection,
    ):
        connection.execute(sa.delete(schema.source_performers))
    assert len(frames.performers(url)) == 2 * PEOPLE


def test_a_catalog_is_neither_created_nor_migrated(tmp_path: Path, filled: sa.Engine) -> None:
    with pytest.raises(CatalogError, match="there is no catalog at"):
        frames.performers(f"sqlite:///{tmp_path / 'none' / 'catalog.db'}")
    assert not (tmp_path / "none").exists()
    with writing(filled) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0016'")
    with pytest.raises(CatalogError, match="made by an older program"):
        frames.performers(url_of(filled))
    with reading(filled) as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "0016"


def test_a_wrong_table_or_chunk_is_refused(filled: sa.Engine) -> None:
    with pytest.raises(
        ConfigurationError, match="no table 'suppressions' for analysis; choose one of performers"
    ):
        list(frames.chunks("suppressions", url_of(filled)))
    with pytest.raises(ValueError, match="at least one row"):
        list(frames.chunks("faces", url_of(filled), 0))
