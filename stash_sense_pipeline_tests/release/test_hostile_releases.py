"""A release that was made to harm its reader fails the verification quickly, in single lines, and is not installed."""

from __future__ import annotations

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

import numpy as np
import pytest
import voyager
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build.graph.voyager_file import read_voyager_file
from stash_sense_pipeline.release.checks.check_result import CheckResult, failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.distribution.install import install_release
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline_tests.databases import extras, in_place_of, statements

from .damages import reseal
from .test_verify import zipped

World = tuple[Path, ReleaseReport]
# Of processor time. What waits for ever runs into the time limit of pytest.
SECONDS = 30


def verified(path: Path) -> tuple[CheckResult, ...]:
    """The failed checks of severity error. Asserts that each is one line, and that the verification computes for a
    limited time.
    """
    begun = time.process_time()
    results = verify_release(path)
    assert time.process_time() - begun < SECONDS
    assert not [result for result in results if "\n" in result.detail or len(result.detail) > 600]
    return failures(results)


def names(path: Path) -> set[str]:
    return {result.name for result in verified(path)}


DATABASES = {
    **extras("performers", "canonical_name"),
    "an endless view in place of the faces": in_place_of("faces"),
    "an endless view in place of the ids": in_place_of("stashbox_ids"),
    "a table without rowids": statements(
        "DROP TABLE tattoos",
        "CREATE TABLE tattoos (performer_id, location, description, PRIMARY KEY (performer_id)) WITHOUT ROWID",
    ),
}


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_with_anything_but_tables_of_the_contract_is_refused_and_not_installed(
    copy: Path, tmp_path: Path, name: str
) -> None:
    DATABASES[name](copy / "performers.db")
    reseal(copy)
    assert names(copy) & {"database_objects", "database_schema"}
    with pytest.raises(ReleaseError, match="is not installed"):
        install_release(copy, tmp_path / "sidecar")
    assert not list((tmp_path / "sidecar").iterdir())


def test_the_predecessors_own_table_is_a_warning(copy: Path) -> None:
    statements("CREATE TABLE scrape_progress (source TEXT PRIMARY KEY)")(copy / "performers.db")
    reseal(copy)
    assert names(copy) == set()


def test_a_plain_index_of_another_program_is_allowed(copy: Path) -> None:
    statements("CREATE INDEX other ON performers (gender, country COLLATE NOCASE)", "ANALYZE")(
        copy / "performers.db"
    )
    reseal(copy)
    assert names(copy) == set()


def cyclic_pages(path: Path) -> None:
    """Makes the root page of a table point to itself, so that reading the rows would never end."""
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'aliases'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    page = bytearray(size)
    cells = [size - 8 * (n + 1) for n in range(100)]
    page[0:12] = struct.pack(">BHHHBI", 5, 0, len(cells), cells[-1], 0, root)
    for number, at in enumerate(cells):
        page[12 + 2 * number : 14 + 2 * number] = struct.pack(">H", at)
        page[at : at + 5] = struct.pack(">IB", root, number + 1)
    content[(root - 1) * size : root * size] = page
    path.write_bytes(content)


def test_a_database_with_a_cycle_of_pages_fails_in_time(copy: Path) -> None:
    cyclic_pages(copy / "performers.db")
    reseal(copy)
    assert "database_integrity" in names(copy)


def many_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE piercings")
        connection.execute("CREATE TABLE piercings (performer_id, location, description)")
        connection.execute(
            "INSERT INTO piercings WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000001) "
            "SELECT 1, NULL, NULL FROM n"
        )
        connection.commit()


@pytest.mark.slow
def test_a_table_with_millions_of_rows_is_refused(copy: Path) -> None:
    many_rows(copy / "performers.db")
    reseal(copy)
    assert "database_integrity" in names(copy)


def long_texts(copy: Path) -> None:
    """A text of two megabytes in the database, and one of a megabyte in the JSON file."""
    statements("UPDATE stashbox_ids SET endpoint = hex(zeroblob(2000000)) || '.' WHERE performer_id = 3")(
        copy / "performers.db"
    )
    people = json.loads((copy / "performers.json").read_text())
    people["x" * 1_000_000] = {}
    (copy / "performers.json").write_text(json.dumps(people))


@pytest.mark.slow
def test_a_long_text_of_a_release_is_cut_in_the_finding(copy: Path) -> None:
    long_texts(copy)
    reseal(copy)
    assert {"database_endpoints", "universal_ids"} <= names(copy)


# --- indices --------------------------------------------------------------------------------------------------------

_NUMBERS = [0, 1, 0xFF, 0x7F, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
_FLOATS = [float("nan"), float("inf"), float("-inf"), -1.0, 1e300, 5e-324]
# Head: dimensions, space, storage, norm, transform; graph: thirteen fields of which the twelfth is a float.
_FIELDS = {
    "dimensions": (8, "<i"), "space": (12, "<B"), "storage": (13, "<B"), "norm": (14, "<f"), "transform": (18, "<B"),
    "base_offset": (19, "<Q"), "capacity": (27, "<Q"), "count": (35, "<Q"), "element": (43, "<Q"), "id": (51, "<Q"),
    "vector": (59, "<Q"), "level": (67, "<i"), "entry": (71, "<I"), "links_upper": (75, "<Q"), "links_base": (83, "<Q"),
    "m": (91, "<Q"), "factor": (99, "<d"), "ef_construction": (107, "<Q"),
}  # fmt: skip


def test_the_offsets_of_the_header_fields_are_those_of_a_real_index(world: World) -> None:
    head = (world[1].path / "face_facenet.voy").read_bytes()[:115]
    read = {name: struct.unpack_from(form, head, at)[0] for name, (at, form) in _FIELDS.items()}
    assert (read["dimensions"], read["count"], read["m"], read["ef_construction"]) == (512, 160, 12, 100)
    assert read["factor"] == pytest.approx(1 / np.log(12))


@pytest.mark.parametrize("field", _FIELDS)
def test_a_changed_number_in_the_header_of_an_index_is_refused(
    world: World, tmp_path: Path, field: str
) -> None:
    content = bytearray((world[1].path / "face_facenet.voy").read_bytes())
    at, form = _FIELDS[field]
    (true,) = struct.unpack_from(form, content, at)
    for value in _FLOATS if form in ("<f", "<d") else [*_NUMBERS, true + 1, true - 1]:
        size = struct.calcsize(form)
        if form in ("<f", "<d"):
            with np.errstate(over="ignore"):
                raw = np.array(value, form[0] + "f" + str(size)).tobytes()
        else:
            raw = (int(value) % 256**size).to_bytes(size, "little")
        if raw == bytes(content[at : at + size]):
            continue
        changed = content.copy()
        changed[at : at + size] = raw
        path = tmp_path / "x.voy"
        path.write_bytes(changed)
        # Euclidean has the same layout. Another check refuses it.
        if field == "space" and raw == b"\x00":
            continue
        if field == "ef_construction" and int.from_bytes(raw, "little") <= 1_000_000:
            continue
        if field == "capacity" and 160 <= int.from_bytes(raw, "little") <= 16 * 160 + 1024:
            continue
        with pytest.raises(ValueError, match=r"damaged|cut short|declares|holds"):
            read_voyager_file(path)


def tattoos_with(copy: Path, value: float) -> None:
    """Adds tattoos, of which one vector has this number."""
    uids = sorted(json.loads((copy / "performers.json").read_text()))[:20]
    vectors = np.random.default_rng(0).standard_normal((20, 1280)).astype("f4")
    tattoos = voyager.Index(voyager.Space.Cosine, 1280)
    tattoos.add_items(vectors, ids=list(range(20)))
    path = copy / "tattoo_embeddings.voy"
    tattoos.save(str(path))
    file = read_voyager_file(path)
    content = bytearray(path.read_bytes())
    at = 115 + 4 + 4 * 2 * file.m
    content[at : at + 4] = np.float32(value).tobytes()
    path.write_bytes(content)
    (copy / "tattoo_embeddings.json").write_text(json.dumps([{"universal_id": uid} for uid in uids]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_tattoo_vector_that_is_not_finite_is_refused(copy: Path, value: float) -> None:
    tattoos_with(copy, value)
    reseal(copy)
    assert names(copy) == {"tattoo_files"}


# --- files ----------------------------------------------------------------------------------------------------------

FILES = (
    *(
        "performers.db",
        "face_facenet.voy",
        "face_arcface.voy",
        "faces.json",
        "performers.json",
        "manifest.json",
    ),
    *("face_adaface.voy", "tattoo_embeddings.voy", "tattoo_embeddings.json"),
)


KINDS = ("fifo", "directory", "zeros", "loop", "socket")


def put_special(path: Path, kind: str) -> None:
    """Puts a special file in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        import socket

        here = Path.cwd()
        with closing(socket.socket(socket.AF_UNIX)) as opened:
            # The path of a socket must be short.
            os.chdir(path.parent)
            opened.bind(path.name)
            os.chdir(here)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_special_file_in_place_of_a_release_file_is_refused_without_waiting(
    copy: Path, name: str, kind: str
) -> None:
    put_special(copy / name, kind)
    assert names(copy)


def lengthen(path: Path) -> None:
    """Makes a sparse file of 20 GB."""
    with path.open("ab") as stream:
        stream.truncate(20 * 1024**3)


@pytest.mark.parametrize("name", FILES)
def test_a_sparse_file_of_20_gigabytes_is_refused_unread(copy: Path, tmp_path: Path, name: str) -> None:
    lengthen(copy / name)
    begun = time.process_time()
    assert names(copy) == {"file_sizes"}
    with pytest.raises(ReleaseError, match="is not installed"):
        install_release(copy, tmp_path / "sidecar")
    assert time.process_time() - begun < 2


def lengthen_index(path: Path) -> None:
    """Makes an index of 6 GiB with a valid header: all elements are zeros, so that all ids are 0."""
    content = bytearray(path.read_bytes()[:115])
    count = 6 * 1024**3 // 2156
    for field in ("count", "capacity"):
        struct.pack_into("<Q", content, _FIELDS[field][0], count)
    path.write_bytes(content)
    with path.open("ab") as stream:
        stream.truncate(115 + count * 2156 + 4 * count)


def test_a_sparse_index_within_the_limit_is_not_read(copy: Path) -> None:
    lengthen_index(copy / "face_facenet.voy")
    begun = time.process_time()
    assert names(copy) == {"file_sizes"}
    assert time.process_time() - begun < 2


JSON_FILES = ("faces.json", "performers.json", "manifest.json")
JSON_TEXTS = (
    "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "[NaN]", '["\\ud800"]', "[1e999999]", "", "\x00",
    "[" + "[]," * 12_000_000 + "0]", '{"a": 1, "a": 2}', "null", '"x"', "7",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("text", JSON_TEXTS, ids=lambda text: text[:12].encode().hex())
def test_json_of_a_form_that_no_release_has_is_refused(copy: Path, name: str, text: str) -> None:
    (copy / name).write_text(text)
    assert names(copy)


# --- zips -----------------------------------------------------------------------------------------------------------


def with_both(release: Path, path: Path, order: Callable[[bytes, bytes], bytes]) -> Path:
    """A file that is two zips: some readers see this release, and others the second zip."""
    one = zipped(release, path.with_suffix(".one")).read_bytes()
    two = path.with_suffix(".two")
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("manifest.json", "{}")
    path.write_bytes(order(one, two.read_bytes()))
    return path


ORDERS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "before": lambda one, two: two + one,
    "behind": lambda one, two: one + two,
    "prefix": lambda one, two: b"#!/bin/sh\n" + one,
    "suffix": lambda one, two: one + b"\x00",
    "comment": lambda one, two: one[:-2] + struct.pack("<H", len(two)) + two,
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_file_that_is_two_zips_is_refused(
    copy: Path, tmp_path: Path, order: Callable[[bytes, bytes], bytes]
) -> None:
    path = with_both(copy, tmp_path / "x.zip", order)
    assert names(path) == {"archive"}
    with pytest.raises(ReleaseError, match="is not installed"):
        install_release(path, tmp_path / "sidecar")


def zip_bomb(copy: Path, path: Path) -> Path:
    """Writes a zip with an index of zeros that is compressed to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member in copy.iterdir():
            with archive.open(member.name, "w", force_zip64=True) as stream:
                for _ in range(128 if member.suffix == ".voy" else 0):
                    stream.write(bytes(2**20))
                stream.write(member.read_bytes())
    return path


@pytest.mark.slow
def test_a_zip_bomb_is_refused_by_its_declared_size(copy: Path, tmp_path: Path) -> None:
    path = zip_bomb(copy, tmp_path / "x.zip")
    begun = time.process_time()
    assert names(path) == {"archive"}
    assert time.process_time() - begun < 2


# --- random damage -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_damage_fails_checks_in_time_and_raises_nothing(
    world: World, tmp_path: Path, data: st.DataObject
) -> None:
    """The release is a directory, with or without matching checksums, or a zip with damaged members or bytes."""
    release = tmp_path / "2026.02.18"
    shutil.rmtree(release, ignore_errors=True)
    shutil.copytree(world[1].path, release)
    victim = release / data.draw(st.sampled_from(sorted(path.name for path in release.iterdir())))
    victim.write_bytes(damaged(data, victim.read_bytes()))
    if victim.name != "manifest.json" and data.draw(st.booleans()):
        reseal(release)
    kind = data.draw(st.sampled_from(["directory", "zip", "own bytes"]))
    path = release
    if kind != "directory":
        path = zipped(release, tmp_path / "x.zip")
    if kind == "own bytes":
        path.write_bytes(damaged(data, path.read_bytes()))
    verified(path)


def damaged(data: st.DataObject, original: bytes) -> bytes:
    """Some bytes changed, removed, doubled or inserted."""
    content = bytearray(original)
    for _ in range(data.draw(st.sampled_from([1, 3, 200]))):
        # Headers and directories are at the start and the end of files.
        place = data.draw(
            st.one_of(st.integers(0, 200), st.integers(0, max(len(content) - 1, 0)), st.integers(-200, -1))
        )
        place %= max(len(content), 1)
        kind = data.draw(st.sampled_from(["set", "set", "cut", "double", "ends"]))
        if kind == "set":
            content[place : place + 1] = bytes(
                [data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B]))]
            )
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 3000))]
        elif kind == "double":
            content[place:place] = content[place : place + 100]
        else:
            content[place : place + 8] = b"\xff" * 8
    return bytes(content)
