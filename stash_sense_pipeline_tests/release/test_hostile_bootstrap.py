"""A release that was made to harm its reader is refused by `bootstrap` in one line, and nothing of it is stored."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline_tests.faces.world import ImageServer

from .bootstrap_world import Home
from .damages import reseal
from .test_hostile_releases import _FIELDS as HEADER
from .test_hostile_releases import (
    DATABASES,
    FILES,
    JSON_FILES,
    JSON_TEXTS,
    KINDS,
    ORDERS,
    SECONDS,
    cyclic_pages,
    lengthen,
    lengthen_index,
    long_texts,
    many_rows,
    put_special,
    tattoos_with,
    with_both,
    zip_bomb,
)
from .test_verify import zipped
from .worlds import PACK

PROGRAM = Path(sys.executable).with_name("stash-sense")
# Makes a hostile release of a sound one, and returns its path.
Attack = Callable[[Path, Path], Path]


def of_file(name: str, harm: Callable[[Path], object], *, sealed: bool = True) -> Attack:
    def attack(copy: Path, _: Path) -> Path:
        harm(copy / name)
        if sealed:
            reseal(copy)
        return copy

    return attack


def of_release(harm: Callable[[Path], object]) -> Attack:
    def attack(copy: Path, _: Path) -> Path:
        harm(copy)
        reseal(copy)
        return copy

    return attack


def changed_header(field: str) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        at, form = HEADER[field]
        content = bytearray(path.read_bytes())
        size = struct.calcsize(form)
        content[at : at + size] = b"\xff" * size
        path.write_bytes(content)

    return harm


def attacks() -> Iterator[tuple[str, Attack]]:
    """Each kind of hostile release that the tests of the verification know."""
    for name, harm in DATABASES.items():
        yield f"database: {name}", of_file("performers.db", harm)
    yield "database: pages in a cycle", of_file("performers.db", cyclic_pages)
    yield "texts of megabytes", of_release(long_texts)
    for field in HEADER:
        yield f"index header: {field}", of_file("face_facenet.voy", changed_header(field))
    yield "a tattoo that is not finite", of_release(lambda copy: tattoos_with(copy, np.nan))
    for name in FILES:
        for kind in KINDS:
            yield (
                f"{kind} as {name}",
                of_file(name, lambda path, kind=kind: put_special(path, kind), sealed=False),
            )
        yield f"20 GB as {name}", of_file(name, lengthen, sealed=False)
    yield "an index of 6 GiB", of_file("face_facenet.voy", lengthen_index, sealed=False)
    for name in JSON_FILES:
        for number, text in enumerate(JSON_TEXTS):
            yield (
                f"JSON {number} as {name}",
                of_file(name, lambda path, text=text: path.write_text(text), sealed=False),
            )
    for name, order in ORDERS.items():
        yield f"two zips: {name}", lambda copy, at, order=order: with_both(copy, at / "x.zip", order)
    yield "a zip bomb", lambda copy, at: zip_bomb(copy, at / "x.zip")
    yield "a zip that is cut", cut_zip


def cut_zip(copy: Path, directory: Path) -> Path:
    path = zipped(copy, directory / "x.zip")
    path.write_bytes(path.read_bytes()[:-100])
    return path


ATTACKS = dict(attacks())


def refuse(home: Home, hostile: Path) -> None:
    """Asserts that the release is refused in one line after little computing, and that no table of the catalog changes."""
    before, begun = rows(home), time.process_time()
    with pytest.raises(StashSenseError) as refusal:
        home.take_over(hostile)
    assert time.process_time() - begun < SECONDS
    text = str(refusal.value)
    assert "is not taken over" in text
    assert "\n" not in text
    assert len(text) < 1000
    assert rows(home) == before


def rows(home: Home) -> dict[str, int]:
    """The number of rows of each table of the catalog."""
    return {table.name: home.count(table) for table in schema.metadata.sorted_tables}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One for all tests, because none of them stores anything."""
    made = Home(tmp_path_factory.mktemp("hostile") / "home", ImageServer(), PACK)
    yield made
    made.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_release_is_refused_in_one_line_and_nothing_is_stored(
    home: Home, copy: Path, tmp_path: Path, name: str
) -> None:
    refuse(home, ATTACKS[name](copy, tmp_path))


@pytest.mark.slow
def test_a_table_with_millions_of_rows_is_refused(home: Home, copy: Path, tmp_path: Path) -> None:
    refuse(home, of_file("performers.db", many_rows)(copy, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # One that is refused while its files are opened, and one after they were read.
    ["fifo as performers.db", "database: pages in a cycle"],
)
def test_the_command_refuses_in_one_line_and_makes_no_catalog(copy: Path, tmp_path: Path, name: str) -> None:
    hostile = ATTACKS[name](copy, tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    sources = {"stash_boxes": {"stashdb": {"url": "http://127.0.0.1:9/graphql"}}}
    (data / "sources.yaml").write_text(yaml.safe_dump(sources))
    variables = {
        **{
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("STASH_SENSE_", "DAGSTER_"))
        },
        "DATA_DIR": str(data),
        "STASH_SENSE_SOURCES": str(data / "sources.yaml"),
        "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
    }
    done = subprocess.run(
        [PROGRAM, "bootstrap", str(hostile)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "is not taken over" in done.stderr
    assert [path.name for path in data.iterdir()] == ["sources.yaml"]
