"""Catalogs that must not become a release: each is an error of one line, and nothing is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build.voyager_index import IndexTask, build_index
from stash_sense_pipeline.release.publish import publish_release

from .conftest import DAY
from .worlds import SPEC, make_catalog


def update(
    table: sa.Table, values: dict, *where: sa.ColumnElement[bool]
) -> Callable[[sa.Connection], object]:
    return lambda connection: connection.execute(sa.update(table).where(*where).values(values))


def vector(content: np.ndarray) -> Callable[[sa.Connection], object]:
    one = (schema.embeddings.c.face_id == 17, schema.embeddings.c.model == "arcface")
    return update(schema.embeddings, {"vector": content.astype("<f4").tobytes()}, *one)


nan = np.ones(512)
nan[100] = np.nan
infinite = np.ones(512)
infinite[0] = np.inf

DAMAGES: dict[str, tuple[Callable[[sa.Connection], object], str]] = {
    "no trusted faces": (
        lambda connection: connection.execute(sa.delete(schema.trusted_faces)),
        "no trusted faces",
    ),
    "NaN": (vector(nan), "arcface vector of face 17 is not finite"),
    "infinite": (vector(infinite), "arcface vector of face 17 is not finite"),
    "zero": (vector(np.zeros(512)), "arcface vector of face 17 is not finite or is zero"),
    "shorter": (vector(np.ones(256)), "lengths"),
    "cut": (
        update(schema.embeddings, {"vector": b"abc"}, schema.embeddings.c.face_id == 17),
        "embeddings near face",
    ),
    "empty": (update(schema.embeddings, {"vector": b""}), "embeddings near face"),
    "no embedding": (
        lambda connection: connection.execute(
            sa.delete(schema.embeddings).where(schema.embeddings.c.face_id == 17)
        ),
        "1 trusted faces have no facenet embedding, the first is face 17",
    ),
    "no embeddings of a model": (
        lambda connection: connection.execute(
            sa.delete(schema.embeddings).where(schema.embeddings.c.model == "arcface")
        ),
        "160 trusted faces have no arcface embedding",
    ),
    "two packs": (
        update(schema.embeddings, {"pack": "other"}, schema.embeddings.c.face_id == 17),
        "packs other and test-pack",
    ),
    "two model files": (
        update(schema.embeddings, {"model_digest": "b" * 64}, schema.embeddings.c.face_id == 17),
        "two model files of pack test-pack",
    ),
    "another pack": (update(schema.embeddings, {"pack": "other"}), "made by pack other"),
    "another model": (
        update(schema.embeddings, {"model_digest": "b" * 64}, schema.embeddings.c.model == "arcface"),
        "embed all faces again",
    ),
    "person without live records": (
        update(
            schema.source_performers,
            {"deleted_at": schema.source_performers.c.changed_at},
            schema.source_performers.c.source_id == "st-00001",
        ),
        "performer 39, who has no live record",
    ),
    "face of a record that moved": (
        update(
            schema.identity_members, {"performer_id": 40}, schema.identity_members.c.source_id == "pm-00002"
        ),
        "its record pmvstash:pm-00002 is not theirs now",
    ),
    "no record with a name": (
        update(schema.source_performers, {"name": None}, schema.source_performers.c.source_id == "st-00001"),
        "performer 39 has faces but no name",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_catalog_that_cannot_be_released_is_an_error_of_one_line_and_builds_nothing(
    data: Path, damage: str
) -> None:
    change, message = DAMAGES[damage]
    before = sorted(path.name for path in (data / "releases").iterdir())
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        change(connection)
    with pytest.raises(ReleaseError) as caught:
        publish_release(engine, data, "run", SPEC, DAY)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (data / "releases").iterdir()) == before
    assert not list((data / "staging").iterdir())


def test_a_performer_without_a_configured_stash_box_is_refused(data: Path) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    hosts = {name: host for name, host in SPEC.hosts.items() if name != "stashdb"}
    with pytest.raises(ReleaseError, match="no live record in a configured stash-box"):
        publish_release(engine, data, "run", replace(SPEC, hosts=hosts), DAY)


def test_two_performers_with_one_universal_id_are_refused(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    with writing(engine) as connection:
        for table in (schema.source_performers, schema.identity_members, schema.trusted_faces):
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            connection.execute(
                sa.update(table).where(table.c.source_id == "pm-00002").values(source_id="st-00001")
            )
        for table in (schema.performer_aliases, schema.performer_urls, schema.performer_images):
            connection.execute(sa.delete(table).where(table.c.source_id == "pm-00002"))
        connection.execute(
            sa.delete(schema.source_performers).where(schema.source_performers.c.source_id == "fa-00002")
        )
    with pytest.raises(ReleaseError, match=r"share the universal id stashdb\.org:st-00001"):
        publish_release(
            engine, tmp_path, "run", replace(SPEC, hosts={**SPEC.hosts, "pmvstash": "stashdb.org"}), DAY
        )


def test_a_refused_build_leaves_the_old_index(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    path = tmp_path / "face.voy"
    path.write_bytes(b"the old one")
    with writing(engine) as connection:
        vector(nan)(connection)
    with pytest.raises(ReleaseError):
        build_index(engine, IndexTask("arcface", SPEC.index), path)
    assert path.read_bytes() == b"the old one"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_an_unknown_embedder_is_refused(data: Path) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with pytest.raises(ReleaseError, match="no adaface embedding"):
        publish_release(engine, data, "run", replace(SPEC, models=("facenet", "arcface", "adaface")), DAY)
