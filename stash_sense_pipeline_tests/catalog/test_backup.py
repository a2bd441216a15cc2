"""Backups: consistent while others write, equal on both databases, verified, and never written over existing files."""

from __future__ import annotations

import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.backup import RestoreTarget, restore_backup, write_backup
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import (
    aligned_crops,
    faces,
    identities,
    metadata,
    source_images,
    source_performers,
    suppressions,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def fill(engine: sa.Engine, count: int = 5) -> None:
    """Adds rows with text, JSON, times and bytes, and an identity with an id that must not be used again."""
    with writing(engine) as connection:
        for index in range(count):
            add_person(connection, index)
        connection.execute(sa.insert(identities), [{"created_at": NOW}, {"created_at": NOW}])
        connection.execute(sa.delete(identities).where(identities.c.performer_id == 2))
        row = {"kind": "record", "key_hash": "h", "reason": "asked", "added_at": NOW}
        connection.execute(sa.insert(suppressions), [row])


def add_person(connection: sa.Connection, index: int) -> None:
    name = f"p{index}"
    connection.execute(
        sa.insert(source_performers),
        [{"source": "s", "source_id": name, "name": name, "raw": {"a": [1, None]}, "updated_at": NOW,
          "first_seen_at": NOW, "changed_at": NOW}],
    )  # fmt: skip
    image = {"source": "s", "image_id": name, "url": "u", "state": "done"}
    connection.execute(sa.insert(source_images), [image])
    face = {column.name: 1.5 for column in faces.c if isinstance(column.type, sa.Float)}
    face |= {"source": "s", "image_id": name, "face_index": 0, "landmarks": bytes(range(40)), "pack": "p"}
    made = connection.execute(
        sa.insert(faces).returning(faces.c.face_id), [{**face, "detector_digest": "d", "created_at": NOW}]
    ).scalar_one()
    connection.execute(sa.insert(aligned_crops), [{"face_id": made, "png": b"\x00\xff" * 9}])


def content(engine: sa.Engine) -> dict[str, list[Any]]:
    with reading(engine) as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr)
            for table in metadata.sorted_tables
        }


@pytest.mark.slow
def test_a_restored_catalog_equals_the_original_and_ids_are_not_used_again(
    any_catalog: sa.Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fill(any_catalog)
    key = tmp_path / "here" / "suppression.key"
    key.parent.mkdir()
    key.write_bytes(b"secret")
    files = {"suppression.key": key, "sources.yaml": tmp_path / "missing.yaml"}
    report = write_backup(any_catalog, files, tmp_path / "b.zip", NOW)
    assert report.files == ("catalog.db", "suppression.key")
    assert (tmp_path / "b.zip").stat().st_mode & 0o777 == 0o600
    other = {name: tmp_path / "there" / name for name in files}
    restore_backup(tmp_path / "b.zip", RestoreTarget(f"sqlite:///{tmp_path / 'there' / 'c.db'}", other))
    restored = open_catalog(f"sqlite:///{tmp_path / 'there' / 'c.db'}")
    assert content(restored) == content(any_catalog)
    assert other["suppression.key"].read_bytes() == b"secret"
    with writing(restored) as connection:
        insert = sa.insert(identities).returning(identities.c.performer_id)
        assert connection.execute(insert, [{"created_at": NOW}]).scalar_one() == 3
    restored.dispose()


@pytest.mark.slow
@pytest.mark.postgres
def test_a_backup_moves_a_catalog_from_sqlite_to_postgresql(
    catalog: sa.Engine, postgres_database: str, tmp_path: Path
) -> None:
    fill(catalog)
    write_backup(catalog, {}, tmp_path / "b.zip", NOW)
    url = sa.make_url(postgres_database)
    fresh = url.set(database=f"{url.database}_new").render_as_string(hide_password=False)
    restore_backup(tmp_path / "b.zip", RestoreTarget(fresh, {}))
    restored = open_catalog(fresh)
    assert content(restored) == content(catalog)
    with writing(restored) as connection:
        insert = sa.insert(identities).returning(identities.c.performer_id)
        assert connection.execute(insert, [{"created_at": NOW}]).scalar_one() == 3
    restored.dispose()


@pytest.mark.slow
def test_a_backup_holds_one_snapshot_while_others_write(any_catalog: sa.Engine, tmp_path: Path) -> None:
    """A writer adds a record with image, face and crop in each transaction: a backup has all four or none."""
    fill(any_catalog, 1)
    ended = threading.Event()

    def write() -> None:
        for index in range(10, 400):
            if ended.is_set():
                break
            with writing(any_catalog) as connection:
                add_person(connection, index)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for index in range(4):
            write_backup(any_catalog, {}, tmp_path / f"{index}.zip", NOW)
    finally:
        ended.set()
        writer.join()
    for index in range(4):
        restore_backup(tmp_path / f"{index}.zip", RestoreTarget(f"sqlite:///{tmp_path / f'{index}.db'}", {}))
        restored = open_catalog(f"sqlite:///{tmp_path / f'{index}.db'}")
        counts = {name: len(rows) for name, rows in content(restored).items()}
        assert (
            counts["source_performers"]
            == counts["source_images"]
            == counts["faces"]
            == counts["aligned_crops"]
        )
        with reading(restored) as connection:
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        restored.dispose()


def test_existing_files_and_catalogs_are_not_overwritten(catalog: sa.Engine, tmp_path: Path) -> None:
    fill(catalog)
    made = write_backup(catalog, {}, tmp_path / "b.zip", NOW).path
    with pytest.raises(CatalogError, match="exists already"):
        write_backup(catalog, {}, made, NOW)
    with pytest.raises(CatalogError, match="restore into an empty place"):
        restore_backup(made, RestoreTarget(catalog.url.render_as_string(), {}))
    (tmp_path / "sources.yaml").write_text("mine")
    (tmp_path / "theirs.yaml").write_text("theirs")
    made = write_backup(catalog, {"sources.yaml": tmp_path / "theirs.yaml"}, tmp_path / "c.zip", NOW).path
    with pytest.raises(CatalogError, match="move it away first"):
        restore_backup(
            made,
            RestoreTarget(f"sqlite:///{tmp_path / 'new.db'}", {"sources.yaml": tmp_path / "sources.yaml"}),
        )
    assert not (tmp_path / "new.db").exists()
    assert (tmp_path / "sources.yaml").read_text() == "mine"


@pytest.mark.slow
def test_a_suppression_list_that_is_newer_than_the_backup_stays(catalog: sa.Engine, tmp_path: Path) -> None:
    fill(catalog)
    key, now_listed = tmp_path / "suppression.key", tmp_path / "suppressions.yaml"
    key.write_text("key")
    now_listed.write_text("[then]")
    files = {"suppression.key": key, "suppressions.yaml": now_listed}
    made = write_backup(catalog, files, tmp_path / "b.zip", NOW).path
    now_listed.write_text("[then, since]")
    key.unlink()
    url = f"sqlite:///{tmp_path / 'new.db'}"
    report = restore_backup(made, RestoreTarget(url, files, stay={"suppressions.yaml"}))
    assert (report.files, report.kept) == (("catalog.db", "suppression.key"), ("suppressions.yaml",))
    assert now_listed.read_text() == "[then, since]"
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_damaged_backup_is_refused_before_anything_is_written(catalog: sa.Engine, tmp_path: Path) -> None:
    fill(catalog)
    made = write_backup(catalog, {}, tmp_path / "b.zip", NOW).path
    whole = made.read_bytes()
    target = tmp_path / "new.db"
    for damaged in (whole[: len(whole) // 2], b"no zip at all", whole.replace(b"PK\x01\x02", b"PK\x01\x03")):
        made.write_bytes(damaged)
        with pytest.raises(CatalogError, match="damaged"):
            restore_backup(made, RestoreTarget(f"sqlite:///{target}", {}))
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(
            "backup.json", '{"format": 1, "made_at": "2026-01-01T00:00:00+00:00", "sha256": {"../x": ""}}'
        )
        archive.writestr("../x", "")
    with pytest.raises(CatalogError, match="is not that of a file at its root"):
        restore_backup(made, RestoreTarget(f"sqlite:///{target}", {}))
    with pytest.raises(CatalogError, match="there is no backup"):
        restore_backup(tmp_path / "nowhere.zip", RestoreTarget(f"sqlite:///{target}", {}))
    assert not target.exists()


def test_a_backup_that_cannot_be_written_is_one_line(catalog: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="cannot write the backup"):
        write_backup(catalog, {}, tmp_path / "file" / "b.zip", NOW)
