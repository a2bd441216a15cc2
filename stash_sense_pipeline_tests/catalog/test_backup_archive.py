"""A changed or foreign backup is refused quickly in one line, and nothing is restored."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.backup import RestoreTarget, restore_backup, write_backup
from stash_sense_pipeline.foundation.errors import CatalogError, StashSenseError
from stash_sense_pipeline_tests.catalog_copies import new_catalog
from stash_sense_pipeline_tests.databases import extras, statements
from stash_sense_pipeline_tests.zips import Archive, Entry

from .test_backup import NOW, fill

Parts = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup with a catalog and the suppression key. No test changes it."""
    directory = tmp_path_factory.mktemp("made")
    catalog = new_catalog(directory / "catalog.db", fill)
    key = directory / "suppression.key"
    key.write_bytes(b"secret")
    path = write_backup(catalog, {"suppression.key": key}, directory / "b.zip", NOW).path
    catalog.dispose()
    return path


def parts_of(path: Path) -> Parts:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, parts: Parts, contents: Any = None) -> Path:
    """Writes a backup of these parts with correct digests, or with other `contents`."""
    files = {name: data for name, data in parts.items() if name != "backup.json"}
    if contents is None:
        contents = {**json.loads(parts["backup.json"]), "sha256": digests(files)}
    text = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
    return Archive([Entry(b"backup.json", text), *(Entry(n.encode(), d) for n, d in files.items())]).write(
        path
    )


def digests(files: Parts) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def refused(path: Path, tmp_path: Path, files: dict[str, Path] | None = None) -> str:
    """The error text when a backup is refused. Checks that nothing was restored."""
    places = {"suppression.key": tmp_path / "new.key"} if files is None else files
    begun = time.process_time()
    with pytest.raises(StashSenseError) as caught:
        restore_backup(path, RestoreTarget(f"sqlite:///{tmp_path / 'new.db'}", places))
    assert time.process_time() - begun < 20, "seconds of a processor"
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new.key").exists()
    return str(caught.value)


CONTENTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a newer format": lambda contents: {**contents, "format": 99},
    "format true": lambda contents: {**contents, "format": True},
    "no format": lambda contents: {k: v for k, v in contents.items() if k != "format"},
    "a list": lambda contents: [contents],
    "null": lambda contents: None,
    "no time": lambda contents: {**contents, "made_at": None},
    "a time that is none": lambda contents: {**contents, "made_at": "yesterday"},
    "a time at the end of time": lambda contents: {**contents, "made_at": "9999-12-31T23:59:59-12:00"},
    "a number as a time": lambda contents: {**contents, "made_at": 5},
    "no digests": lambda contents: {**contents, "sha256": None},
    "a list of digests": lambda contents: {**contents, "sha256": ["catalog.db"]},
    "numbers as digests": lambda contents: {**contents, "sha256": {"catalog.db": 1}},
    "no catalog": lambda contents: {**contents, "sha256": {}},
    "a file that is not there": lambda contents: {**contents, "sha256": {**contents["sha256"], "x": "0" * 64}},
    "a wrong digest": lambda contents: {**contents, "sha256": {**contents["sha256"], "catalog.db": "0" * 64}},
    "a path": lambda contents: {**contents, "sha256": {**contents["sha256"], "../../x": "0" * 64}},
    "a backslash": lambda contents: {**contents, "sha256": {**contents["sha256"], "..\\x": "0" * 64}},
    "deep": lambda contents: b"[" * 100_000,
    "cut off": lambda contents: b'{"format": 1',
    "no text": lambda contents: b"\xff\xfe",
    "a number of many digits": lambda contents: b'{"format": ' + b"1" * 9000 + b"}",
    "a key twice": lambda contents: b'{"format": 99, "format": 1}',
    "megabytes": lambda contents: b" " * 2_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_that_no_backup_has_are_one_line(made: Path, tmp_path: Path, name: str) -> None:
    parts = parts_of(made)
    contents = CONTENTS[name](json.loads(parts["backup.json"]))
    refused(write(tmp_path / "x.zip", parts, b"null" if contents is None else contents), tmp_path)


PARTS: dict[str, Callable[[Parts], Parts]] = {
    "no catalog": lambda parts: {name: data for name, data in parts.items() if name != "catalog.db"},
    "a file that no backup has": lambda parts: {**parts, "evil.sh": b"x"},
    "no database": lambda parts: {**parts, "catalog.db": b"text"},
    "an empty catalog": lambda parts: {**parts, "catalog.db": b""},
    "a header alone": lambda parts: {**parts, "catalog.db": parts["catalog.db"][:100]},
    "half a catalog": lambda parts: {**parts, "catalog.db": parts["catalog.db"][: len(parts["catalog.db"]) // 2]},
    "zeros in the middle": lambda parts: {
        **parts,
        "catalog.db": parts["catalog.db"][:30_000] + bytes(60_000) + parts["catalog.db"][90_000:],
    },
    "a key of 20 MB": lambda parts: {**parts, "suppression.key": os.urandom(20_000_000)},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_parts_that_no_backup_has_are_one_line(made: Path, tmp_path: Path, name: str) -> None:
    refused(write(tmp_path / "x.zip", PARTS[name](parts_of(made))), tmp_path)


def changed(made: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """The backup with a changed catalog and correct digests."""
    parts = parts_of(made)
    scratch = tmp_path / "scratch.db"
    scratch.write_bytes(parts["catalog.db"])
    change(scratch)
    return write(tmp_path / "x.zip", {**parts, "catalog.db": scratch.read_bytes()})


@pytest.mark.parametrize("name", extras("source_performers", "name"))
def test_a_catalog_with_anything_but_its_tables_is_one_line(made: Path, tmp_path: Path, name: str) -> None:
    refused(changed(made, tmp_path, extras("source_performers", "name")[name]), tmp_path)
    assert not (tmp_path / "new.db").exists()


VALUES = {
    "JSON that is none": "UPDATE source_performers SET raw = '{'",
    "deep JSON": f"UPDATE source_performers SET raw = '{'[' * 100_000}'",
    "a time that is none": "UPDATE source_performers SET changed_at = 'never'",
    "a number as a time": "UPDATE source_performers SET changed_at = 5",
    "text as bytes": "UPDATE aligned_crops SET png = 'text'",
    "bytes as text": "UPDATE source_performers SET name = x'ff00'",
    "text that is none": "UPDATE source_performers SET name = CAST(x'ff41' AS TEXT)",
    "a revision that is none": "UPDATE alembic_version SET version_num = '../../x'",
    "no revision": "DELETE FROM alembic_version",
    "a counter of text": "UPDATE sqlite_sequence SET seq = 'x'",
    "a huge counter": "UPDATE sqlite_sequence SET seq = 1e300",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_values_that_no_catalog_has_are_one_line_or_restored(made: Path, tmp_path: Path, name: str) -> None:
    path = changed(made, tmp_path, statements(VALUES[name]))
    said = ""
    try:
        restore_backup(
            path, RestoreTarget(f"sqlite:///{tmp_path / 'new.db'}", {"suppression.key": tmp_path / "new.key"})
        )
    except StashSenseError as error:
        said = str(error)
    assert "\n" not in said
    assert (tmp_path / "new.key").exists() == (not said)


@pytest.mark.slow
def test_a_bomb_is_refused_before_it_is_unpacked(made: Path, tmp_path: Path) -> None:
    parts = parts_of(made)
    assert "it unpacks to" in refused(
        write(tmp_path / "x.zip", {**parts, "catalog.db": parts["catalog.db"] + bytes(300 * 2**20)}), tmp_path
    )


def test_a_fifo_is_refused_as_a_backup(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "regular file" in refused(tmp_path / "fifo", tmp_path)
    assert "cannot be unpacked" in refused(tmp_path, tmp_path)


def test_a_backup_that_needs_more_than_the_free_space_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stash_sense_pipeline.catalog.backup_archive.room_for", lambda size, roots: None)
    assert "has fewer" in refused(made, tmp_path)


@pytest.mark.slow
def test_a_backup_of_every_revision_is_restored(tmp_path: Path) -> None:
    """A backup of an older program has other tables than the current schema."""
    from alembic import command

    from stash_sense_pipeline.catalog.engine import _config, _newest_first, open_catalog
    from stash_sense_pipeline.catalog.transactions import writing

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    config = _config()
    for revision in reversed(_newest_first()):
        with writing(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        data = (tmp_path / "old.db").read_bytes()
        contents = {"format": 1, "made_at": NOW.isoformat(), "sha256": digests({"catalog.db": data})}
        path = write(tmp_path / f"{revision}.zip", {"catalog.db": data}, contents)
        restore_backup(path, RestoreTarget(f"sqlite:///{tmp_path / f'{revision}.db'}", {}))
        open_catalog(f"sqlite:///{tmp_path / f'{revision}.db'}").dispose()
    engine.dispose()


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_randomly_damaged_backup_is_refused_in_one_line_or_restored(
    made: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """The damage is in the zip itself, or inside one of its parts with correct digests."""
    parts = parts_of(made)
    where = data.draw(st.sampled_from(["zip", *parts]))
    content = bytearray(made.read_bytes() if where == "zip" else parts[where])
    for _ in range(data.draw(st.sampled_from([1, 3, 50]))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        kind = data.draw(st.sampled_from(["set", "set", "cut", "double"]))
        if kind == "set":
            content[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 5000))]
        else:
            content[place:place] = content[place : place + 500]
    path = tmp_path / "x.zip"
    if where == "zip":
        path.write_bytes(content)
    else:
        write(path, {**parts, where: bytes(content)}, bytes(content) if where == "backup.json" else None)
    for name in ("new.db", "new.db-wal", "new.db-shm", "new.key"):
        (tmp_path / name).unlink(missing_ok=True)
    begun = time.process_time()
    said = ""
    try:
        restore_backup(
            path, RestoreTarget(f"sqlite:///{tmp_path / 'new.db'}", {"suppression.key": tmp_path / "new.key"})
        )
    except CatalogError as error:
        said = str(error)
    assert "\n" not in said
    assert time.process_time() - begun < 20, "seconds of a processor"
