"""A zip archive with a false field is refused before any of its content is on the disk."""

from __future__ import annotations

import os
import stat
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import ArchiveError
from stash_sense_pipeline.foundation.zip_file import ZipLimits, open_zip

from .zips import Archive, Entry, _deflate

LIMITS = ZipLimits(entries=8, size=2**20, ratio=10, slack=2**16)
A, B = Entry(b"a", b"first" * 99), Entry(b"b", b"second" * 99)
INNER = Archive([Entry(b"a", b"evil")]).content()

LIES: dict[str, Archive] = {
    "a path upwards": Archive([Entry(b"../a")]),
    "an absolute path": Archive([Entry(b"/a")]),
    "a directory in the name": Archive([Entry(b"d/a")]),
    "a backslash": Archive([Entry(b"d\\a")]),
    "a drive": Archive([Entry(b"c:a")]),
    "a dot": Archive([Entry(b".")]),
    "two dots": Archive([Entry(b"..")]),
    "no name": Archive([Entry(b"")]),
    "a NUL in the name": Archive([Entry(b"a\0b")]),
    "an escape in the name": Archive([Entry(b"a\x1b[2J")]),
    "a line break in the name": Archive([Entry(b"a\nb")]),
    "a right-to-left mark": Archive([Entry("a\u202eb".encode(), flags=0x800)]),
    "a long name": Archive([Entry(b"a" * 5000)]),
    "a name twice": Archive([A, Entry(b"a", b"other")]),
    "a name twice but for case": Archive([A, Entry(b"A", b"other")]),
    "a name twice but for its form": Archive(
        [Entry("\u00e9".encode(), flags=0x800), Entry("e\u0301".encode(), flags=0x800)]
    ),
    "a directory": Archive([Entry(b"a/", mode=0o040755)]),
    "a directory by its mode": Archive([Entry(b"a", mode=0o040755)]),
    "a directory of DOS": Archive([Entry(b"a", system=0, mode=0, attributes=0x10)]),
    "a symbolic link": Archive([Entry(b"a", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)]),
    "a device": Archive([Entry(b"a", mode=stat.S_IFCHR | 0o666)]),
    "a FIFO": Archive([Entry(b"a", mode=stat.S_IFIFO | 0o666)]),
    "encrypted": Archive([Entry(b"a", b"x" * 20, flags=1)]),
    "strongly encrypted": Archive([Entry(b"a", b"x" * 20, flags=0x41)]),
    "a patch": Archive([Entry(b"a", flags=0x20)]),
    "bzip2": Archive([Entry(b"a", method=12)]),
    "lzma": Archive([Entry(b"a", method=14)]),
    "an unknown method": Archive([Entry(b"a", method=99)]),
    "stored with two sizes": Archive([Entry(b"a", b"xxx", method=0, size=9)]),
    "a wrong CRC": Archive([Entry(b"a", b"xxx", crc=7)]),
    "larger than declared": Archive([Entry(b"a", b"x" * 999, size=10)]),
    "smaller than declared": Archive([Entry(b"a", b"x" * 10, size=999)]),
    "no deflated data": Archive([Entry(b"a", b"x" * 10, packed=b"\xff" * 10)]),
    "data cut off": Archive([Entry(b"a", b"x" * 1000, packed=_deflate(os.urandom(1000))[:200])]),
    "declares 8 GiB": Archive([Entry(b"a", b"x", size=2**32 - 2)]),
    "a ratio of 1000": Archive([Entry(b"a", bytes(2**20))]),
    "many entries": Archive([Entry(b"%d" % number) for number in range(9)]),
    "no entry": Archive([]),
    "an entry less than declared": Archive([A], count=2),
    "an entry more than declared": Archive([A, B], count=1),
    "something before": Archive([A], before=b"#!/bin/sh\n"),
    "something before, not counted": Archive([A], before=b"#!/bin/sh\n", start_is_true=False),
    "an archive before": Archive([A], before=INNER),
    "something between": Archive([A], between=b"hidden"),
    "something between two entries": Archive([Entry(b"a", b"x", after=b"hidden"), B]),
    "something behind": Archive([A], behind=b"hidden"),
    "an archive behind": Archive([A], behind=INNER),
    "an archive in the comment": Archive([A], comment=INNER),
    "a comment": Archive([A], comment=b"made by hand"),
    "two entries in one place": Archive([A, Entry(b"b", b"first" * 99, offset=0)]),
    "another name in the header": Archive([Entry(b"a", b"x", local_name=b"b")]),
    "a header that is not there": Archive([Entry(b"a", b"x", offset=3)]),
    "a header behind the end": Archive([Entry(b"a", b"x", offset=2**30)]),
}


def read_all(path: Path, target: Path, limits: ZipLimits = LIMITS) -> dict[str, bytes]:
    target.mkdir()
    with open_zip(path, limits) as archive:
        for name in archive.sizes:
            archive.extract(name, target / name)
    return {file.name: file.read_bytes() for file in target.iterdir()}


@pytest.mark.parametrize("lie", LIES)
def test_an_archive_with_a_false_field_is_refused_in_one_line(tmp_path: Path, lie: str) -> None:
    path = LIES[lie].write(tmp_path / "a.zip")
    with pytest.raises(ArchiveError) as caught:
        read_all(path, tmp_path / "out")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zip", "out"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_zipfile_is_read(tmp_path: Path, method: int) -> None:
    content = {"a": b"one" * 999, "b": b"", "\u00e9": b"\x00"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    assert read_all(tmp_path / "a.zip", tmp_path / "out") == content


def test_an_archive_that_was_written_to_a_pipe_is_read(tmp_path: Path) -> None:
    """Its headers have no sizes; they follow the data."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"one" * 99)
        archive.writestr("b", b"two" * 99)
    with os.fdopen(reading, "rb") as stream:
        (tmp_path / "a.zip").write_bytes(stream.read())
    assert read_all(tmp_path / "a.zip", tmp_path / "out") == {"a": b"one" * 99, "b": b"two" * 99}


def test_an_archive_with_64_bit_sizes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 100)
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", b"one" * 99)
            archive.writestr("b", os.urandom(500))
    assert b"PK\x06\x06" in (tmp_path / "a.zip").read_bytes()
    assert set(read_all(tmp_path / "a.zip", tmp_path / "out")) == {"a", "b"}


@pytest.mark.parametrize("field", range(8))
def test_a_false_field_in_the_64_bit_end_record_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 100)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a", os.urandom(500))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    # Two disks, two counts, size and start of the directory; then the locator's disk and offset.
    record = content.rindex(b"PK\x06\x06")
    locator = content.rindex(b"PK\x06\x07")
    places = [record + at for at in (16, 20, 24, 32, 40, 48)] + [locator + 4, locator + 8]
    content[places[field]] ^= 3
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ArchiveError):
        read_all(tmp_path / "a.zip", tmp_path / "out")


def test_nested_names_are_allowed_inside_the_target_but_not_outside(tmp_path: Path) -> None:
    limits = ZipLimits(entries=8, size=2**20, ratio=10, nested=True)
    path = Archive([Entry(b"d/", mode=0o040755), Entry(b"d/a", b"x")]).write(tmp_path / "a.zip")
    with open_zip(path, limits) as archive:
        assert archive.read("d/a", 1) == b"x"
        with pytest.raises(ArchiveError, match="there is no"):
            archive.read("d/", 1)
    for name in (b"d/../../a", b"/d/a", b"d//a", b"d/./a", b"d\\a", b"d/.."):
        path = Archive([Entry(name, b"x")]).write(tmp_path / "a.zip")
        with pytest.raises(ArchiveError, match="is not that of a file"), open_zip(path, limits):
            pass


def test_an_entry_larger_than_the_read_limit_is_refused(tmp_path: Path) -> None:
    path = Archive([A]).write(tmp_path / "a.zip")
    with open_zip(path, LIMITS) as archive:
        with pytest.raises(ArchiveError, match="are allowed"):
            archive.read("a", 10)
        with pytest.raises(ArchiveError, match="there is no x"):
            archive.read("x", 10)


def test_a_fifo_and_a_directory_are_no_archives(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(OSError, match=r"regular file|directory"), open_zip(path, LIMITS):
            pass


def test_a_zip_bomb_is_refused_without_unpacking(tmp_path: Path) -> None:
    """An archive with 16 GiB of packed zeros is refused because of the declared size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = b"".join(packer.compress(bytes(2**20)) for _ in range(16)) + packer.flush()
    path = Archive([Entry(b"a", packed=block, size=2**32 - 2)]).write(tmp_path / "a.zip")
    begun = time.process_time()
    with pytest.raises(ArchiveError, match="it unpacks to"), open_zip(path, LIMITS):
        pass
    assert time.process_time() - begun < 1


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_randomly_damaged_archive_is_an_archive_error_or_harmless(
    tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(Archive([A, B, Entry(b"c", b"xyz", method=0)]).content())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            content[place] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 40))]
        else:
            content[place:place] = data.draw(st.sampled_from([b"PK\x05\x06", b"PK\x03\x04", b"\x00" * 9]))
        if not content:
            break
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    said = ""
    try:
        with open_zip(path, LIMITS) as archive:
            for name in archive.sizes:
                archive.read(name, 2**20)
    except ArchiveError as error:
        said = str(error)
    assert said.isprintable()
