"""A damaged or hostile sense2 release fails the check that is meant for it, in single lines and in time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import struct
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from usearch.index import Index

from stash_sense_pipeline.release.checks.check_result import CheckResult, failures
from stash_sense_pipeline.release.sense2.index_file import (
    IndexFile,
    check_head,
    check_lengths,
    read_index,
)
from stash_sense_pipeline.release.sense2.publish import Sense2Report
from stash_sense_pipeline.release.sense2.verify import verify_sense2
from stash_sense_pipeline_tests.databases import extras, statements
from stash_sense_pipeline_tests.test_zip_file import LIES

from .client import load_index, unpack

Made = tuple[Path, Sense2Report, Sense2Report]
Change = Callable[[Path], None]
# Of processor time. What waits for ever runs into the time limit of pytest.
SECONDS = 30


def verified(path: Path) -> set[str]:
    """The names of the failed checks. Asserts that each finding is one line, and that the verification computes for a
    limited time.
    """
    begun = time.process_time()
    results = verify_sense2(path)
    assert time.process_time() - begun < SECONDS
    assert results
    assert not [each for each in results if "\n" in each.detail or len(each.detail) > 600]
    return {result.name for result in failures(results)}


@pytest.fixture
def full(made: Made, tmp_path: Path) -> Path:
    """The unpacked files of the second release, which a test may damage."""
    return unpack(made[2].full, tmp_path / "full")


@pytest.fixture
def delta(made: Made, tmp_path: Path) -> Path:
    """The unpacked delta of the second release, which a test may damage."""
    return unpack(made[2].delta, tmp_path / "delta")


def reseal(directory: Path) -> None:
    """Writes the checksums of the manifest anew, as a hostile maker of releases does."""
    for name in ("manifest.json", "delta_manifest.json"):
        path = directory / name
        if path.is_file():
            manifest = json.loads(path.read_text())
            manifest["checksums"] = {
                file: "sha256:" + hashlib.sha256((directory / file).read_bytes()).hexdigest()
                for file in manifest["checksums"]
                if (directory / file).is_file()
            }
            path.write_text(json.dumps(manifest))


def edited(name: str, edit: Callable[[Any], Any]) -> Change:
    """Changes the value of a JSON file."""

    def change(directory: Path) -> None:
        value = json.loads((directory / name).read_text())
        made = edit(value)
        (directory / name).write_text(json.dumps(value if made is None else made))

    return change


def in_database(*texts: str, name: str = "performers.db") -> Change:
    return lambda directory: statements(*texts)(directory / name)


def reindexed(
    change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], **parameters: Any
) -> Change:
    """Another index with changed keys and vectors."""

    def rebuild(directory: Path) -> None:
        path = directory / "face_embeddings.usearch"
        old = load_index(path)
        keys = np.sort(np.asarray(old.keys, dtype=np.uint64))
        keys, vectors = change(keys, np.asarray(old.get(keys), dtype=np.float32))
        given = {"ndim": 512, "metric": "cos", "dtype": "bf16", "connectivity": 16, **parameters}
        index = Index(**given)
        index.add(keys, vectors, threads=1)
        index.save(str(path))

    return rebuild


def with_value(value: float) -> Change:
    def put(keys: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors[3, 5] = value
        return keys, vectors

    return reindexed(put)


def same(keys: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return keys, vectors


def after_removal(directory: Path) -> None:
    path = directory / "face_embeddings.usearch"
    index = load_index(path)
    index.remove(5)
    index.save(str(path))


FULL: dict[str, tuple[Change, str]] = {
    "a file less": (lambda directory: (directory / "aliases.json").unlink(), "files"),
    "a file more": (lambda directory: (directory / "extra.txt").write_text("x"), "files"),
    "a link for a file": (
        lambda directory: (
            (directory / "aliases.json").unlink(),
            (directory / "aliases.json").symlink_to("/etc/passwd"),
        )[1],
        "files",
    ),
    "a checksum in capitals": (
        edited(
            "manifest.json", lambda value: value["checksums"].update({"faces.json": "sha256:" + "A" * 64})
        ),
        "checksums",
    ),
    "a checksum without its kind": (
        edited(
            "manifest.json",
            lambda value: value["checksums"].update({"faces.json": value["checksums"]["faces.json"][7:]}),
        ),
        "checksums",
    ),
    "no checksum": (
        edited("manifest.json", lambda value: value["checksums"].pop("faces.json") and value),
        "checksums",
    ),
    "another version": (edited("manifest.json", lambda value: value.update(version="2026.2.1")), "manifest"),
    "a wrong count": (edited("manifest.json", lambda value: value.update(face_count=7)), "manifest"),
    "a manifest that is a list": (edited("manifest.json", lambda value: [value]), "manifest"),
    "the metric of Euclid": (reindexed(same, metric="l2sq"), "index_head"),
    "half precision": (reindexed(same, dtype="f16"), "index_structure"),
    "bytes": (reindexed(same, dtype="i8"), "index_structure"),
    "many vectors a key": (reindexed(same, multi=True), "index_head"),
    "other links": (reindexed(same, connectivity=32), "index_head"),
    "256 numbers": (
        reindexed(lambda keys, vectors: (keys, np.ascontiguousarray(vectors[:, :256])), ndim=256),
        "index_structure",
    ),
    "a deleted vector": (after_removal, "index_head"),
    "a vector that is not finite": (with_value(np.nan), "index_lengths"),
    "an infinite vector": (with_value(np.inf), "index_lengths"),
    "a long vector": (reindexed(lambda keys, vectors: (keys, vectors * 20)), "index_lengths"),
    "a zero vector": (reindexed(lambda keys, vectors: (keys, vectors * 0)), "index_lengths"),
    "a face less in the index": (reindexed(lambda keys, vectors: (keys[1:], vectors[1:])), "index_keys"),
    "another key": (reindexed(lambda keys, vectors: (keys + 1000, vectors)), "index_keys"),
    "an id in two groups": (edited("performer_links.json", lambda value: [*value, value[0]]), "links"),
    "a group of one": (edited("performer_links.json", lambda value: [*value, ["stashdb.org:x"]]), "links"),
    "a group of people who are not there": (
        edited("performer_links.json", lambda value: [*value, ["a.org:1", "b.org:2"]]),
        "linked_people",
    ),
    "links that are no list": (edited("performer_links.json", lambda value: {"a": value}), "links"),
    "an alias that is no text": (edited("aliases.json", lambda value: {**value, "a.org:1": [3]}), "aliases"),
    "an alias without a performer": (
        edited("aliases.json", lambda value: {**value, "a.org:1": ["x"]}),
        "linked_people",
    ),
    "a face less in faces.json": (edited("faces.json", lambda value: value[:-1]), "export"),
    "another name in performers.json": (
        edited("performers.json", lambda value: next(iter(value.values())).update(name="Other")),
        "export",
    ),
    "another angle": (edited("face_yaw.json", lambda value: [5.5, *value[1:]]), "export"),
    "a performer without a face": (
        in_database("INSERT INTO performers (id, canonical_name, face_count) VALUES (999, 'x', 0)"),
        "database_face_counts",
    ),
    "a wrong face_count": (
        in_database("UPDATE performers SET face_count = face_count + 1"),
        "database_face_counts",
    ),
    "a face without a performer": (
        in_database(
            "PRAGMA foreign_keys = OFF", "UPDATE faces SET performer_id = 999 WHERE embedding_index = 3"
        ),
        "database_foreign_keys",
    ),
    "a column less": (in_database("ALTER TABLE faces DROP COLUMN image_sha256"), "database_schema"),
    "a table less": (in_database("DROP TABLE performer_urls"), "database_schema"),
    "an angle that is none": (
        in_database("UPDATE faces SET yaw = 1e9 WHERE embedding_index = 3"),
        "database_face_counts",
    ),
    "an endless list of faces": (
        in_database("UPDATE faces SET embedding_index = 4000000000000 WHERE embedding_index = 3"),
        "export",
    ),
    "a foreign key that forbids": (
        in_database(
            "ALTER TABLE aliases RENAME TO old",
            "CREATE TABLE aliases (id INTEGER PRIMARY KEY, performer_id INTEGER NOT NULL REFERENCES performers(id),"
            " alias TEXT NOT NULL, source_endpoint TEXT, UNIQUE (performer_id, alias))",
            "INSERT INTO aliases SELECT * FROM old",
            "DROP TABLE old",
        ),
        "database_foreign_keys",
    ),
    "no image": (
        edited("performers.json", lambda value: next(iter(value.values())).update(image_url=None)),
        "image_urls",
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_a_damaged_release_fails_the_check_for_it(full: Path, name: str) -> None:
    change, check = FULL[name]
    change(full)
    if check not in ("checksums", "files", "manifest"):
        reseal(full)
    assert check in verified(full)


@pytest.mark.parametrize("name", extras("performers", "canonical_name"))
def test_a_database_with_more_than_tables_of_the_contract_is_not_read(full: Path, name: str) -> None:
    extras("performers", "canonical_name")[name](full / "performers.db")
    reseal(full)
    assert "database_objects" in verified(full)


@pytest.mark.parametrize(
    "name", ["faces.json", "performers.json", "performers.db", "face_embeddings.usearch", "manifest.json"]
)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[" * 100_000, b'{"a": 1e999}', os.urandom(5000)])
def test_a_file_with_other_bytes_fails_and_stops_no_other_check(
    full: Path, name: str, content: bytes
) -> None:
    (full / name).write_bytes(content)
    reseal(full) if name != "manifest.json" else None
    assert verified(full)


DELTA: dict[str, tuple[Change, str]] = {
    "a short vector": (
        in_database("UPDATE faces SET embedding = substr(embedding, 1, 1024)", name="delta.db"),
        "delta_faces",
    ),
    "a text for a vector": (in_database("UPDATE faces SET embedding = 'x'", name="delta.db"), "delta_faces"),
    "a vector that is not rounded": (
        lambda directory: _put_vector(directory, np.full(512, 1 / 512**0.5, dtype="<f4")),
        "delta_faces",
    ),
    "a vector that is not finite": (
        lambda directory: _put_vector(directory, np.full(512, np.nan, dtype="<f4")),
        "delta_faces",
    ),
    "a face that is sent and removed": (
        in_database("INSERT INTO removed_faces SELECT embedding_index FROM faces", name="delta.db"),
        "delta_faces",
    ),
    "a face twice": (in_database("INSERT INTO faces SELECT * FROM faces", name="delta.db"), "delta_faces"),
    "a performer twice": (
        in_database("INSERT INTO performers SELECT * FROM performers", name="delta.db"),
        "delta_performers",
    ),
    "aliases that are no JSON": (
        in_database("UPDATE performers SET aliases_json = '[' WHERE action != 'removed'", name="delta.db"),
        "delta_performers",
    ),
    "no number": (
        in_database("UPDATE performers SET id = NULL WHERE action != 'removed'", name="delta.db"),
        "delta_performers",
    ),
    "no table of removals": (in_database("DROP TABLE removed_faces", name="delta.db"), "database_schema"),
    "another table": (in_database("CREATE TABLE evil (x)", name="delta.db"), "database_objects"),
    "a checksum without its kind": (
        edited(
            "delta_manifest.json",
            lambda value: value["checksums"].update({"delta.db": value["checksums"]["delta.db"][7:]}),
        ),
        "checksums",
    ),
    "a file more": (lambda directory: (directory / "x").write_text("x"), "files"),
    "an earlier version": (
        edited("delta_manifest.json", lambda value: value.update(to_version="2020.01.01")),
        "version",
    ),
    "no version": (edited("delta_manifest.json", lambda value: value.pop("to_version") and value), "version"),
}


def _put_vector(directory: Path, vector: np.ndarray) -> None:
    with closing(sqlite3.connect(directory / "delta.db")) as connection, connection:
        connection.execute("UPDATE faces SET embedding = ?", (vector.tobytes(),))


@pytest.mark.parametrize("name", DELTA)
def test_a_damaged_delta_fails_the_check_for_it(delta: Path, name: str) -> None:
    change, check = DELTA[name]
    change(delta)
    if check not in ("checksums", "files"):
        reseal(delta)
    assert check in verified(delta)


# --- zips -------------------------------------------------------------------------------------------------------------


def test_the_zips_of_a_version_are_verified_together_and_alone(made: Made) -> None:
    _, _, second = made
    results = verify_sense2(second.path)
    kinds = {result.name.partition(":")[0] for result in results}
    assert kinds == {"data", "delta", "links", "delta_leads_to", "links_of_release"}
    assert not failures(results)
    for path in (second.full, second.delta, second.links):
        assert verified(path) == set()


TOGETHER: dict[str, tuple[Change, str]] = {
    "another name": (in_database("UPDATE performers SET name = 'x'", name="delta.db"), "delta_leads_to"),
    "another alias": (
        in_database("UPDATE performers SET aliases_json = '[]' WHERE id IS NOT NULL", name="delta.db"),
        "delta_leads_to",
    ),
    "a face of another index": (
        in_database("UPDATE faces SET embedding_index = 1", name="delta.db"),
        "delta_leads_to",
    ),
    "a living face removed": (
        in_database("INSERT INTO removed_faces VALUES (1)", name="delta.db"),
        "delta_leads_to",
    ),
    "a living performer removed": (
        in_database(
            "INSERT INTO performers (endpoint, stashbox_id, action) VALUES ('stashdb', 'st-00003', 'removed')",
            name="delta.db",
        ),
        "delta_leads_to",
    ),
    "another vector": (
        lambda directory: _put_vector(directory, np.eye(1, 512, dtype="<f4")),
        "delta_leads_to",
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_a_delta_that_leads_to_another_release_fails(made: Made, tmp_path: Path, name: str) -> None:
    """Each zip is right by itself."""
    change, check = TOGETHER[name]
    version = tmp_path / made[2].version
    shutil.copytree(made[2].path, version)
    work = unpack(made[2].delta, tmp_path / "work")
    change(work)
    reseal(work)
    with zipfile.ZipFile(version / made[2].delta.name, "w") as archive:
        for path in sorted(work.iterdir()):
            archive.write(path, path.name)
    assert verified(version) == {check}


def test_links_of_another_release_fail(made: Made, tmp_path: Path) -> None:
    version = tmp_path / made[2].version
    shutil.copytree(made[2].path, version)
    shutil.copy(made[1].links, version / made[2].links.name)
    assert verified(version) == {"links_of_release"}


def test_a_zip_under_another_name_is_known_by_its_files(made: Made, tmp_path: Path) -> None:
    _, _, second = made
    for path, own in ((second.full, "index_head"), (second.delta, "delta_faces"), (second.links, "links")):
        copied = shutil.copy(path, tmp_path / "other.zip")
        assert own in {result.name for result in verify_sense2(Path(copied))}
        assert verified(Path(copied)) == set()


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_zip_with_the_name_of_another_version_fails(made: Made, tmp_path: Path, kind: str) -> None:
    names = {
        "full": "stash-sense2-data-2027.01.01.zip",
        "delta": "stash-sense2-delta-2027.01.01-to-2027.02.02.zip",
    }
    copied = shutil.copy(getattr(made[2], kind), tmp_path / names[kind])
    assert verified(Path(copied)) == {"version"}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    "name", ["stash-sense2-data-2026.01.01.zip", "stash-sense2-delta-2026.01.01-to-2026.01.02.zip"]
)
def test_a_hostile_zip_fails_before_its_files_are_used(tmp_path: Path, lie: str, name: str) -> None:
    path = LIES[lie].write(tmp_path / name)
    failed = verified(path)
    assert failed & {"archive", "files"}
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


def test_a_zip_with_nested_files_fails(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "stash-sense2-delta-2026.02.18-to-2026.02.19.zip"
    with zipfile.ZipFile(made[2].delta) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(f"inner/{name}", old.read(name))
    assert verified(target) == {"archive"}


def test_a_path_that_is_not_there_or_no_file_fails(tmp_path: Path) -> None:
    assert verified(tmp_path / "none") == {"archive"}
    os.mkfifo(tmp_path / "fifo")
    assert verified(tmp_path / "fifo") == {"archive"}
    assert "files" in verified(tmp_path)


# --- the index file ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index_bytes(made: Made, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    full = unpack(made[1].full, tmp_path_factory.mktemp("index") / "full")
    return (full / "face_embeddings.usearch").read_bytes()


def read(path: Path) -> tuple[IndexFile | None, str]:
    """A checked index, or None with the text of the error."""
    try:
        index = read_index(path)
        check_head(index)
        check_lengths(index)
    except (ValueError, OSError) as error:
        return None, str(error)
    return index, ""


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_randomly_damaged_index_is_an_error_of_one_line_or_can_be_loaded(
    tmp_path: Path, index_bytes: bytes, data: st.DataObject
) -> None:
    content = bytearray(index_bytes)
    # Most damage to the graph, which usearch follows without a look.
    begin = data.draw(st.sampled_from([0, 8 + 160 * 1024]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(begin, len(content) - 1))
        if data.draw(st.integers(0, 5)):
            content[place] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]))
        else:
            del content[place : place + data.draw(st.integers(1, 40))]
    path = tmp_path / "x.usearch"
    path.write_bytes(content)
    index, said = read(path)
    assert len(said.splitlines()) <= 1
    if index is None:
        return
    loaded = load_index(path)
    assert len(loaded) == len(index.keys)
    loaded.search(np.ones(512, dtype=np.float32), 10)


def test_an_index_with_a_link_to_nowhere_is_refused(tmp_path: Path, index_bytes: bytes) -> None:
    """The first link of the first node."""
    content = bytearray(index_bytes)
    graph = 8 + 160 * 1024 + 64
    first = graph + 40 + 2 * 160 + 10
    assert 0 < struct.unpack_from("<I", content, first)[0] <= 32
    struct.pack_into("<I", content, first + 4, 160)
    (tmp_path / "x.usearch").write_bytes(content)
    with pytest.raises(ValueError, match="leads to no node"):
        read_index(tmp_path / "x.usearch")


def check_names(results: tuple[CheckResult, ...]) -> list[str]:
    return [result.name for result in results]


def test_each_check_has_a_name_of_its_own(made: Made) -> None:
    names = check_names(verify_sense2(made[2].path))
    assert len(set(names)) == len(names)
