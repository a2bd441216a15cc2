"""The content of a release: order, choice of metadata, and the same bytes from the same catalog."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.records.profile_urls import canonical_profile
from stash_sense_pipeline.release.build.content import read_content
from stash_sense_pipeline.release.build.face_order import face_order, read_face_order, read_vectors
from stash_sense_pipeline.release.build.voyager_index import IndexParams, IndexTask, Storage, build_index
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release

from .conftest import DAY
from .sidecar import Sidecar
from .worlds import HOSTS, SPEC, make_catalog

World = tuple[Path, ReleaseReport]


def digests(report: ReleaseReport) -> dict[str, str]:
    files = {path.name: sha256_file(path) for path in report.path.iterdir()}
    return {**files, "zip": sha256_file(report.archive)}


@pytest.mark.slow
def test_the_same_catalog_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    original, first = world
    # The same content in another file at another time: the bytes may depend on neither.
    engine = make_catalog(tmp_path / "other.db")
    second = publish_release(engine, tmp_path / "data", "some-other-run", SPEC, DAY)
    assert second.changed
    assert len(digests(first)) == 7
    assert digests(second) == digests(first)
    shutil.copy(original / "catalog.db", tmp_path / "copied.db")
    third = publish_release(
        open_catalog(f"sqlite:///{tmp_path / 'copied.db'}"), tmp_path / "third", "r", SPEC, DAY
    )
    assert digests(third) == digests(first)


@pytest.mark.parametrize("storage", list(Storage))
def test_an_index_is_reproducible_in_each_storage_type(tmp_path: Path, storage: Storage) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    params = IndexParams(m=8, ef_construction=50, storage=storage)
    first = build_index(engine, IndexTask("facenet", params), tmp_path / "a.voy")
    second = build_index(engine, IndexTask("facenet", params), tmp_path / "b.voy")
    assert first.sha256 == second.sha256 == sha256_file(tmp_path / "b.voy")
    assert (first.faces, first.dimensions, first.size_bytes) == (
        120,
        512,
        (tmp_path / "a.voy").stat().st_size,
    )


def test_progress_ends_at_the_number_of_faces(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    seen: list[tuple[str, int, int | None]] = []
    build_index(engine, IndexTask("arcface", SPEC.index), tmp_path / "a.voy", lambda *at: seen.append(at))
    assert seen[-1] == ("vectors", 120, 120)


def test_order_is_by_performer_then_rank_then_face(world: World) -> None:
    engine = open_catalog(f"sqlite:///{world[0] / 'catalog.db'}")
    order = face_order(engine)
    with reading(engine) as connection:
        rank = dict(
            connection.execute(sa.select(schema.trusted_faces.c.face_id, schema.trusted_faces.c.rank)).all()
        )
    keys = [
        (performer, rank[face], face)
        for face, performer in zip(order.face_ids.tolist(), order.performer_ids.tolist(), strict=True)
    ]
    assert keys == sorted(keys)
    assert keys[0][2] != 1, "the world must not be in release order by chance"


def test_every_file_agrees_on_every_face(world: World) -> None:
    """Follows each vector of an index through faces.json and performers.db to the face in the catalog."""
    data, report = world
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    sidecar = Sidecar(report.path)
    with reading(engine) as connection:
        order = read_face_order(connection)
        vectors = {model: read_vectors(connection, order, model).vectors for model in sidecar.indices}
        url = dict(
            connection.execute(
                sa.select(schema.faces.c.face_id, schema.source_images.c.url).join(
                    schema.source_images,
                    (schema.source_images.c.source == schema.faces.c.source)
                    & (schema.source_images.c.image_id == schema.faces.c.image_id),
                )
            ).all()
        )
    records = {
        (row["endpoint"], row["stashbox_performer_id"]): row["performer_id"]
        for row in sidecar.rows("stashbox_ids")
    }
    endpoint = {host: name for name, host in HOSTS.items()}
    rows = sorted(sidecar.rows("faces"), key=lambda row: row["facenet_index"])
    assert (
        [row["facenet_index"] for row in rows] == [row["arcface_index"] for row in rows] == list(range(160))
    )
    for position, row in enumerate(rows):
        face = int(order.face_ids[position])
        assert (row["id"], row["image_url"]) == (position + 1, url[face])
        host, _, record = sidecar.faces[position].partition(":")
        assert records[endpoint[host], record] == row["performer_id"] == order.performer_ids[position]
        for model, index in sidecar.indices.items():
            raw = vectors[model][position]
            assert np.allclose(index.get_vector(position), raw / np.linalg.norm(raw), atol=1e-6)


def test_metadata_is_chosen_by_priority_of_the_endpoint(world: World) -> None:
    _, report = world
    sidecar = Sidecar(report.path)
    by_uid = sidecar.performers
    # Person 4 is on stashdb (name with an entity, no country) and fansdb (country and height): performer_id 36.
    assert by_uid["stashdb.org:st-00004"] == {
        "name": "Person & 4",
        "country": "NZ",
        "image_url": "https://stashdb.org/images/image-20",
        "face_count": 4,
    }
    row = next(row for row in sidecar.performers_as_read() if row["id"] == 36)
    assert (row["canonical_name"], row["country"], row["height_cm"]) == ("Person & 4", "NZ", 170)
    assert row["stashdb_updated_at"] == "2026-01-02T03:08:05Z"
    aliases = {
        row["alias"]: row["source_endpoint"] for row in sidecar.rows("aliases") if row["performer_id"] == 36
    }
    assert aliases == {"Alias 4 of stashdb": "stashdb", "Alias 4 of fansdb": "fansdb", "Someone 4": "fansdb"}
    # Person 2 has faces from pmvstash only, but fansdb has priority in the universal id.
    assert by_uid["fansdb.cc:fa-00002"]["image_url"].startswith("https://pmvstash.org/images/")
    assert (
        next(row for row in sidecar.rows("faces") if row["performer_id"] == 38)["source_endpoint"]
        == "pmvstash"
    )


def test_a_merged_record_is_a_merged_id_of_the_remaining_performer(world: World) -> None:
    sidecar = Sidecar(world[1].path)
    assert sidecar.rows("merged_ids") == [
        {
            "performer_id": 39,
            "merged_stashbox_id": "st-merged",
            "endpoint": "stashdb",
            "merged_at": None,
        }
    ]


def test_tables_of_the_contract_without_data_are_empty(world: World) -> None:
    sidecar = Sidecar(world[1].path)
    for table in ("tattoos", "piercings", "body_proportions", "tattoo_detections", "external_urls"):
        assert sidecar.rows(table) == []
    assert sidecar.rows("schema_version") == [{"version": 9}]


def test_profile_urls_are_left_out_when_people_share_them(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    with writing(engine) as connection:
        for person in ("00001", "00003"):
            connection.execute(
                sa.insert(schema.performer_urls),
                {
                    "source": "stashdb",
                    "source_id": f"st-{person}",
                    "url": "https://www.instagram.com/the.studio/",
                },
            )
    content = read_content(engine, HOSTS, canonical_profile)
    keys = [url.key for performer in content.performers for url in performer.urls]
    assert len(keys) == 30
    assert "the.studio" not in keys


def test_times_are_those_of_the_sources_or_of_the_version(world: World) -> None:
    sidecar = Sidecar(world[1].path)
    assert sidecar.manifest["created_at"] == "2026-02-18T00:00:00Z"
    # Person 4 is performer 36. Its sources made the records a day before, and say nothing about faces.
    row = next(row for row in sidecar.performers_as_read() if row["id"] == 36)
    assert (row["created_at"], row["updated_at"]) == ("2026-01-01T03:08:05Z", "2026-01-02T03:08:05Z")
    for table in ("stashbox_ids", "aliases"):
        times = {each["created_at"] for each in sidecar.rows(table) if each["performer_id"] == 36}
        assert times == {"2026-01-01T03:08:05Z"}
    assert {each["created_at"] for each in sidecar.rows("faces")} == {None}


@pytest.mark.slow
def test_a_person_of_sources_without_a_clock_has_no_times(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(created_at=None, updated_at=None))
    report = publish_release(engine, tmp_path, "run", SPEC, DAY)
    rows = Sidecar(report.path).performers_as_read()
    assert {(row["created_at"], row["updated_at"], row["stashdb_updated_at"]) for row in rows} == {
        (None,) * 3
    }


def test_the_manifest_says_what_made_the_vectors(world: World) -> None:
    manifest = json.loads((world[1].path / "manifest.json").read_text())
    assert (manifest["performer_count"], manifest["face_count"]) == (40, 160)
    assert manifest["sources"] == ["fansdb", "pmvstash", "stashdb"]
    assert manifest["models"]["pack"] == "test-pack"
    assert "no real person" in manifest["models"]["statement"]
    assert manifest["models"]["embedders"]["arcface"] == {"sha256": "a" * 64, "dim": 512}
    assert manifest["indices"]["facenet"]["m"] == 12
    assert set(manifest["checksums"]) == {path.name for path in world[1].path.iterdir()} - {"manifest.json"}


def test_the_sidecar_finds_a_person_by_a_stored_vector_and_by_a_new_photo(world: World) -> None:
    data, report = world
    sidecar = Sidecar(report.path)
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with reading(engine) as connection:
        order = read_face_order(connection)
        vectors = {model: read_vectors(connection, order, model).vectors for model in sidecar.indices}
    rng = np.random.default_rng(3)
    for position in range(0, 160, 7):
        stored = {model: table[position] for model, table in vectors.items()}
        best = sidecar.identify(stored)[0]
        assert best.universal_id == sidecar.faces[position]
        assert abs(best.distance) < 1e-5
        photo = {
            model: vector + rng.standard_normal(512).astype("f4") * 4 for model, vector in stored.items()
        }
        assert sidecar.identify(photo)[0].universal_id == sidecar.faces[position]
    unknown = {model: rng.standard_normal(512).astype("f4") for model in vectors}
    assert sidecar.identify(unknown) == []


@pytest.mark.slow
def test_a_release_on_another_day_differs_in_its_version_and_date_only(world: World, tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "other.db")
    later = publish_release(engine, tmp_path / "data", "run", SPEC, date(2031, 12, 31))
    ours, theirs = digests(world[1]), digests(later)
    assert {name for name in ours if ours[name] != theirs[name]} == {"manifest.json", "zip"}
    before, after = dict(world[1].manifest), dict(later.manifest)
    assert (before.pop("version"), after.pop("version")) == ("2026.02.18", "2031.12.31")
    times = (before.pop("created_at"), after.pop("created_at"))
    assert times == ("2026-02-18T00:00:00Z", "2031-12-31T00:00:00Z")
    assert before == after
